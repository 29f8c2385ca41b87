"""Measures posteriors of networks, and writes network_posteriors.json to the folder --out after each result.

python -m benchmarks.network_posteriors --out benchmarks/results [--parts digits mnist regression agreement]
[--splits 3] [--again] [--quick]

A result that the file has is kept, so that a run that was stopped continues; --again measures it anew. The methods of
other packages are those of torch-uncertainty and laplace-torch (the dependency group network-posteriors of
pyproject.toml); those that are missing are left out, with a warning.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ald_ext.files import write_json
from ald_ext.progress import progress_bar

from ..provenance import describe_run
from .comparison import compare, methods_for
from .hmc import CASES, compare_with_hmc
from .methods import OURS, suggested
from .problems import COMPARED, Problem, digits

FILE = "network_posteriors.json"
PARTS = (*COMPARED, "agreement")
#: The budget of each method in a quick run, which is there to see that it runs.
QUICK_BUDGET = 100


class Results:
    """What has been measured, in a file that is written after each result."""

    def __init__(self, path: Path, again: list[str], quick: bool) -> None:
        self.path, self.quick = path, quick
        self.values = json.loads(path.read_text()) if path.exists() else {}
        self.values = {name: value for name, value in self.values.items() if name not in again}
        self.values["run"] = describe_run(torch.device("cpu"), "python -m benchmarks.network_posteriors")

    def add(self, part: str, value: Any) -> None:
        self.values[part] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.values)

    def suggest(self, method: str, problem: Problem) -> dict[str, Any]:
        """The settings that were suggested for the first split of a problem that was measured, and for all others."""
        key = [problem.name, method, problem.prior_gain, problem.temperature]
        if self.quick:
            return {"lr": 1e-3, "num_data": len(problem.train[0]), "temperature": problem.temperature}
        found = self.values.get("suggestions", [])
        for each in found:
            if each["key"] == key:
                return dict(each["settings"])
        settings = suggested(OURS[method], problem)
        self.add("suggestions", [*found, {"key": key, "settings": settings}])
        return settings


def measure(part: str, splits: int, results: Results) -> None:
    """Add the scores of every method on each split of a part's problems that the file lacks."""
    quick = results.quick

    def jobs() -> Iterator[tuple[Problem, int, str]]:
        for make in COMPARED[part][:1] if quick else COMPARED[part]:
            for split in range(splits):
                problem = make(split)
                problem = replace(problem, budget=QUICK_BUDGET) if quick else problem
                for method in methods_for(problem):
                    yield problem, split, method

    for problem, split, method in progress_bar(list(jobs()), show=not quick, desc=part, unit="run"):
        rows = results.values.get(part, [])
        key = {"problem": problem.name, "split": split, "method": method}
        same = [row for row in rows if {name: row[name] for name in key} == key]
        if any(row["budget"] == problem.budget for row in same):
            continue
        try:
            found = {**key, "budget": problem.budget, **compare(problem, method, split, results.suggest)}
            results.add(part, [*(row for row in rows if row not in same), found])
        except ImportError as error:
            warnings.warn(f"benchmarks.network_posteriors: {method} is left out: {error}", stacklevel=2)


def measure_agreement(results: Results) -> None:
    """Add the cases of the comparison with HMC that the file lacks."""
    quick = results.quick
    effort = (
        {"adaptation": 2, "samples": 4, "show": False} if quick else {"adaptation": 80, "samples": 200, "show": True}
    )
    for case in [(*CASES[0][:2], QUICK_BUDGET)] if quick else CASES:
        rows = results.values.get("agreement", [])
        same = [row for row in rows if (row["prior_gain"], row["temperature"]) == case[:2]]
        if not any((row["budget"], row["samples"]) == (case[2], effort["samples"]) for row in same):
            found = compare_with_hmc(digits(0), case, results.suggest, **effort)
            results.add("agreement", [*(row for row in rows if row not in same), *found])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--splits", type=int, default=3, help="of the data of each problem")
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    parser.add_argument("--quick", action="store_true", help="hardly any steps, to see that it runs")
    options = parser.parse_args(arguments)
    results = Results(options.out / FILE, [*options.parts, "suggestions"] if options.again else [], options.quick)
    for part in options.parts:
        if part == "agreement":
            measure_agreement(results)
        else:
            measure(part, 1 if options.quick else options.splits, results)


if __name__ == "__main__":
    main()
