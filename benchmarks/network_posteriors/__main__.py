"""Measures posteriors of networks, and writes network_posteriors.json to the folder --out after each part.

python -m benchmarks.network_posteriors --out benchmarks/results [--parts digits agreement] [--splits 1]
[--budget 10000] [--quick]

`digits` takes the methods of other packages from torch-uncertainty and laplace-torch (the dependency group
network-posteriors of pyproject.toml), and leaves out those it lacks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ald_ext.files import write_json
from ald_ext.progress import progress_bar

from ..provenance import describe_run
from .methods import OTHERS, OURS, Predictor, hamiltonian, langevin
from .problems import Problem, digits
from .scores import agreement, scores

FILE = "network_posteriors.json"
#: Of the temperatures the validation data choose.
PRIOR_GAIN, TEMPERATURES = 16.0, (1.0, 0.1, 0.02)


def foreign_inputs(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Images turned by a quarter, and with noise of deviation 0.3."""
    images = x.view(-1, 8, 8)
    noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return {"turned": images.rot90(1, (1, 2)).reshape(x.shape), "noisy": (x + noise).clamp(0, 1)}


def score(predict: Predictor, problem: Problem) -> dict[str, float]:
    x, y = problem.test
    return scores(predict(x), y, {name: predict(inputs) for name, inputs in foreign_inputs(x).items()})


def tuned(split: int, budget: int, temperatures: Sequence[float]) -> list[dict[str, Any]]:
    """What SGHMC reaches on validation and test data at each temperature, the best on validation data first."""
    tried = []
    for temperature in temperatures:
        problem = digits(split, prior_gain=PRIOR_GAIN, temperature=temperature)
        x, y = problem.validation
        predict = langevin(OURS["SGHMC"], problem, budget, 0)
        row = {"prior_gain": PRIOR_GAIN, "temperature": temperature}
        tried.append({**row, "validation": scores(predict(x), y, {}), "test": score(predict, problem)})
    return sorted(tried, key=lambda row: row["validation"]["nll"])


def measure_digits(splits: int, budget: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Scores of every method on the test digits, after each split."""
    rows, settings, left_out = [], [], {}
    for split in progress_bar(range(splits), show=not quick, desc="digits", unit="split"):
        tried = tuned(split, budget, (0.1,) if quick else TEMPERATURES)
        chosen = {name: tried[0][name] for name in ("prior_gain", "temperature")}
        problem = digits(split, **chosen)
        settings.append({"split": split, "chosen": chosen, "tried": tried})
        runs = {name: partial(make, problem, budget, split) for name, make in OTHERS.items()}
        runs |= {name: partial(langevin, kind, problem, budget, split) for name, kind in OURS.items()}
        for name, run in runs.items():
            try:
                rows.append({"method": name, "split": split, **score(run(), problem)})
            except ImportError as error:
                left_out[name] = str(error)
        yield {"budget": budget, "settings": settings, "rows": rows, "left_out": left_out}


def measure_agreement(budget: int, adaptation: int, samples: int, chosen: dict[str, float] | None) -> dict[str, Any]:
    """Scores of HMC under several priors, and how near the predictions of SGLD and SGHMC are to it under two."""
    cases = [{"prior_gain": gain, "temperature": 1.0} for gain in (4.0, 16.0)]
    compared = [cases[0], *([chosen] if chosen else [])]
    rows = []
    for case in [*compared, *cases[1:]]:
        problem = digits(0, **case)
        x, y = problem.test
        first, second = (predict(x) for predict in hamiltonian(problem, 0, adaptation=adaptation, samples=samples))
        exact = (first + second) / 2
        predictions = {"HMC, a chain and the other": (first, second, exact)}
        for name in ("SGLD", "SGHMC") if case in compared else ():
            found = langevin(OURS[name], problem, budget, 0)(x)
            predictions[name] = (found, exact, found)
        for name, (one, other, scored) in predictions.items():
            rows.append({**case, "method": name, **agreement(one, other), **scores(scored, y, {})})
    return {"budget": budget, "samples": samples, "rows": rows}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--splits", type=int, default=1, help="of the digits")
    parser.add_argument("--budget", type=int, default=10_000, help="gradients of minibatches of each method")
    parser.add_argument("--quick", action="store_true", help="hardly any steps, to see that it runs")
    options = parser.parse_args(arguments)
    budget = 200 if options.quick else options.budget
    path = options.out / FILE
    results = json.loads(path.read_text()) if path.exists() else {}
    results["run"] = describe_run(torch.device("cpu"), "python -m benchmarks.network_posteriors")
    for part in options.parts:
        if part == "digits":
            found: Iterable[Any] = measure_digits(1 if options.quick else options.splits, budget, options.quick)
        else:
            chosen = results.get("digits", {}).get("settings", [{}])[0].get("chosen")
            found = (measure_agreement(budget, *((2, 4) if options.quick else (80, 100)), chosen),)
        for so_far in found:
            results[part] = so_far
            options.out.mkdir(parents=True, exist_ok=True)
            write_json(path, results)


PARTS = ("digits", "agreement")

if __name__ == "__main__":
    main()
