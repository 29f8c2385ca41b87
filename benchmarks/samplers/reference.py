"""Writes the reference moments of the logistic regression: benchmarks/results/sampler_references.json.

python -m benchmarks.samplers.reference [--out FILE]

Two samplers that share no code run long in float64, HMC of ald_ext and NUTS of numpyro, and have to agree within five
standard errors in every mean and sd; the file has the average of both, weighted by their variances. A minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ald_ext.files import write_json
from ald_ext.samplers import HMC, collect

from ..provenance import describe_run
from .measures import ess
from .ours import CountedPotential
from .peers import numpyro_nuts, run_chains
from .runs import SIGNIFICANT, Settings
from .targets import REFERENCES, TARGETS, Array, Target

OURS = Settings(chains=64, warm_up=1000, draws=4000, seed=1)
PEERS = Settings(chains=16, warm_up=1000, draws=2000, seed=2)


def hmc_draws(target: Target, settings: Settings) -> Array:
    """HMC in units of the covariance of a pilot run."""
    potential, z = CountedPotential(target), torch.as_tensor(settings.start(target))[None]
    options: dict[str, Any] = {"num_leapfrog_steps": 6, "jitter": 0.3, "adapt_steps": settings.warm_up // 4}
    pilot = HMC(potential, None, z, step_size=0.1, seed=settings.seed, **options)
    first = collect(pilot, settings.warm_up // 4, burn_in=settings.warm_up // 2).flatten(0, 2)
    sampler = HMC(
        potential, None, pilot.z, step_size=0.3, seed=settings.seed + 1, inverse_mass_matrix=first.T.cov(), **options
    )
    return collect(sampler, settings.draws, burn_in=settings.warm_up // 2)[:, 0].numpy()


def summary(draws: Array) -> dict[str, Array]:
    """Mean and sd of draws (draws, chains, k), with their standard errors."""
    pooled = draws.reshape(-1, draws.shape[-1])
    mean, sd = pooled.mean(0), pooled.std(0)
    squares = (draws - mean) ** 2
    sd_error = squares.std((0, 1)) / np.sqrt(ess(squares, "mean")) / (2 * sd)
    return {"mean": mean, "sd": sd, "mean_error": sd / np.sqrt(ess(draws, "mean")), "sd_error": sd_error}


def agreed(first: dict[str, Array], second: dict[str, Array]) -> tuple[dict[str, list[float]], float]:
    """Return the weighted average of two summaries, and their largest difference in standard errors."""
    result, worst = {}, 0.0
    for name in ("mean", "sd"):
        errors = first[f"{name}_error"], second[f"{name}_error"]
        worst = max(worst, float((np.abs(first[name] - second[name]) / np.hypot(*errors)).max()))
        weights = errors[0] ** -2, errors[1] ** -2
        result[name] = ((weights[0] * first[name] + weights[1] * second[name]) / sum(weights)).tolist()
        result[f"{name}_error"] = (sum(weights) ** -0.5).tolist()
    return result, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REFERENCES)
    arguments = parser.parse_args()
    import jax

    name = "logistic regression"
    target = TARGETS[name]
    with jax.enable_x64(True):
        theirs = summary(run_chains(numpyro_nuts, target, PEERS, dtype="float64").draws)
    moments, worst = agreed(summary(hmc_draws(target, OURS)), theirs)
    if worst > SIGNIFICANT:
        sys.exit(f"{name}: HMC and NUTS differ by {worst:.1f} standard errors; nothing was written")
    found = {name: {**moments, "largest_difference_in_errors": worst}}
    facts = {"settings": {"HMC of ald_ext": vars(OURS), "NUTS of numpyro": vars(PEERS)}, "targets": found}
    write_json(arguments.out, describe_run(torch.device("cpu"), "python -m benchmarks.samplers.reference") | facts)


if __name__ == "__main__":
    main()
