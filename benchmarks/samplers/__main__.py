"""Runs samplers on targets whose moments are known, and writes <out>/samplers.json.

python -m benchmarks.samplers --out benchmarks/results [--targets NAME ...] [--samplers NAME ...] [--quick]

All samplers have the same initial states, numbers of chains, of steps of warm-up and of draws, and otherwise their own
defaults, in float32 on one thread. Libraries of others are those of benchmarks/samplers/requirements.txt; what is not
installed is left out, by name. Where only some samplers or targets are run, the file keeps what it has of others.
`python -m benchmarks.samplers.page` makes the page of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from ald_ext.files import write_json

from ..harness import make_folder, progress
from ..provenance import describe_run
from .measures import measure
from .ours import OURS
from .peers import PEERS
from .runs import Sampler, Settings
from .targets import TARGETS

QUICK = Settings(chains=4, warm_up=40, draws=40)


def available(names: list[str]) -> tuple[dict[str, Sampler], list[str]]:
    """Return the samplers of these names that can run here, and the packages that others lack."""
    samplers, missing = {}, []
    for name in names:
        package, sampler = PEERS.get(name) or ("ald_ext", OURS[name])
        if importlib.util.find_spec(package):
            samplers[name] = sampler
        else:
            missing.append(f"{name}: {package} is not installed")
    return samplers, missing


def run_all(path: Path, targets: list[str], samplers: dict[str, Sampler], settings: Settings, facts: Any) -> list[str]:
    """Write the file after each run, and return what went wrong."""
    kept = json.loads(path.read_text()) if path.exists() else {"rows": [], "versions": {}}
    fresh = {(target, sampler) for target in targets for sampler in samplers}
    rows = [row for row in kept["rows"] if (row["target"], row["sampler"]) not in fresh]
    facts["versions"] = kept["versions"] | facts["versions"]
    problems = []
    for name in targets:
        for sampler_name, sampler in samplers.items():
            try:
                figures = measure(sampler(TARGETS[name], settings), TARGETS[name])
            except Exception as error:  # of one library, which does not keep the others from the file
                problems.append(f"{name}: {sampler_name}: {type(error).__name__}: {error}")
                progress(f"left out: {problems[-1]}")
                continue
            rows.append({"target": name, "sampler": sampler_name, "commit": facts["commit"], **figures})
            shown = ", ".join(f"{key} {figures.get(key, float('nan')):.3g}" for key in ("ess", "r_hat", "seconds"))
            progress(f"{name}: {sampler_name}: {shown}")
            write_json(path, {**facts, "rows": rows})
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of samplers.json; made where it is missing")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="NAME")
    names = [*OURS, *PEERS]
    parser.add_argument("--samplers", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a few short chains: figures mean nothing")
    arguments = parser.parse_args()
    make_folder(arguments.out, parser)
    torch.set_num_threads(1)
    settings = QUICK if arguments.quick else Settings()
    samplers, missing = available(arguments.samplers)
    for line in missing:
        progress(f"left out: {line}")
    origin = "python -m benchmarks.samplers"
    facts = describe_run(torch.device("cpu"), origin) | {"quick": arguments.quick, "settings": vars(settings)}
    packages = sorted({package for package, _ in PEERS.values() if importlib.util.find_spec(package)})
    facts["versions"] |= {package: version(packages_distributions()[package][0]) for package in packages}
    path = arguments.out / "samplers.json"
    if path.exists() and json.loads(path.read_text())["settings"] != vars(settings):
        sys.exit(f"--out: got {path} with other settings, expected a folder without it, or with runs of these settings")
    problems = run_all(path, arguments.targets, samplers, settings, facts)
    if problems:
        sys.exit("\n".join(["the results are written, but:", *problems]))
    progress(f"{path}: written; python -m benchmarks.samplers.page --results {arguments.out} makes the page of it")


if __name__ == "__main__":
    main()
