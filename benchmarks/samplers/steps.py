"""What a step of HMC and MALA costs beside blackjax's jitted one: <out>/sampler_steps.json.

python -m benchmarks.samplers.steps --out benchmarks/results [--quick]

Both have the same start, step size and number of leapfrog steps, 16 chains and no adaptation, in float32 on one thread.
The kernels are the same Markov chains, so that the ratio of the times of a step is that of effective samples a second.
Runs of all take turns, and times are of CPU, the median over turns; compiling is told by itself. blackjax's loop over
steps is part of its jitted function, and ours is Python's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ald_ext.files import write_json
from ald_ext.samplers import HMC, MALA, CapturedPotential, DatapointSampler

from ..harness import make_folder, progress
from ..provenance import describe_run
from .peers import XLA_FLAGS, scan_draws
from .targets import TARGETS, Target

TARGET_NAMES = ("logistic regression", "Student's t")
CHAINS, LEAPFROG_STEPS, SEED = 16, 10, 0
#: Step sizes of HMC and MALA: at these, most proposals are accepted.
HMC_STEP_SIZE, MALA_STEP_SIZE = 0.02, 0.001
STEPS, TURNS, QUICK_STEPS, QUICK_TURNS = 100, 15, 2, 2

#: Makes so many steps.
Steps = Callable[[], object]


def of_ours(target: Target, name: str, steps: int, make_potential: Callable[[Any], Any]) -> Steps:
    potential = make_potential(lambda _x, z: -target.log_density(z))
    start = 0.1 * torch.randn(1, CHAINS, target.dimension, generator=torch.Generator().manual_seed(SEED))
    sampler: DatapointSampler
    if name == "HMC":
        options: dict[str, Any] = {"step_size": HMC_STEP_SIZE, "num_leapfrog_steps": LEAPFROG_STEPS}
        sampler = HMC(potential, None, start, seed=SEED, **options)
    else:
        sampler = MALA(potential, None, start, seed=SEED, step_size=MALA_STEP_SIZE)

    def run() -> None:
        for _ in range(steps):
            sampler.step()

    return run


def of_blackjax(target: Target, name: str, steps: int) -> Steps:
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    import blackjax
    import jax

    from .jax_targets import log_density

    density = log_density(target.name)
    if name == "HMC":
        metric = jax.numpy.ones(target.dimension)
        algorithm = blackjax.hmc(density, HMC_STEP_SIZE, metric, LEAPFROG_STEPS)
    else:
        algorithm = blackjax.mala(density, MALA_STEP_SIZE)

    def chain(key: Any, start: Any) -> Any:
        return scan_draws(jax, algorithm.step, algorithm.init(start), key, steps)[0]

    start = 0.1 * torch.randn(CHAINS, target.dimension, generator=torch.Generator().manual_seed(SEED))
    chains, inputs = jax.jit(jax.vmap(chain)), (jax.random.split(jax.random.key(SEED), CHAINS), start.numpy())
    return lambda: jax.block_until_ready(chains(*inputs))


#: By what they are called, functions of target, name of the sampler and number of steps.
VERSIONS: dict[str, Callable[[Target, str, int], Steps]] = {
    "plain": lambda *run: of_ours(*run, lambda potential: potential),
    "CapturedPotential": lambda *run: of_ours(*run, CapturedPotential),
    "compile=True": lambda *run: of_ours(*run, lambda potential: CapturedPotential(potential, compile=True)),
    "blackjax": of_blackjax,
}


def measure(target: Target, name: str, steps: int, turns: int) -> list[dict[str, Any]]:
    """Return a row for each version: CPU time of a step, and of what the first steps take more."""
    runs, first, times = {}, {}, {version: list[float]() for version in VERSIONS}
    for label, make in VERSIONS.items():
        begin = time.process_time()
        runs[label] = make(target, name, steps)
        runs[label]()
        first[label] = time.process_time() - begin
    for _ in range(turns):
        for label, run in runs.items():
            begin = time.process_time()
            run()
            times[label].append((time.process_time() - begin) / steps)
    medians = {label: statistics.median(values) for label, values in times.items()}
    return [
        {
            "target": target.name,
            "sampler": name,
            "version": label,
            "microseconds": 1e6 * seconds,
            "over_blackjax": medians["blackjax"] / seconds,
            "first_seconds": first[label] - steps * seconds,
        }
        for label, seconds in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of sampler_steps.json; made where it is missing"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps: figures mean nothing")
    arguments = parser.parse_args()
    make_folder(arguments.out, parser)
    torch.set_num_threads(1)
    steps, turns = (QUICK_STEPS, QUICK_TURNS) if arguments.quick else (STEPS, TURNS)
    rows = []
    for target in TARGET_NAMES:
        for name in ("HMC", "MALA"):
            rows += measure(TARGETS[target], name, steps, turns)
            for row in rows[-len(VERSIONS) :]:
                figures = f"{row['microseconds']:.0f} µs a step, speed over blackjax {row['over_blackjax']:.2f}"
                progress(f"{target}: {name}: {row['version']}: {figures}")
    facts = describe_run(torch.device("cpu"), "python -m benchmarks.samplers.steps")
    facts["versions"] |= {package: version(package) for package in ("blackjax", "jax")}
    facts |= {"quick": arguments.quick, "chains": CHAINS, "leapfrog_steps": LEAPFROG_STEPS, "steps": steps}
    write_json(path := arguments.out / "sampler_steps.json", {**facts, "rows": rows})
    progress(f"{path}: written")


if __name__ == "__main__":
    main()
