"""Measures every case in alternation and writes <out>/<device>.json, and from it a table (.md) and a plot (.png).

python benchmarks/run.py --out benchmarks/results [--device cpu|cuda] [--quick] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from cases import all_cases
from measurement import Quantiles, Samples, copy_bandwidth, measure_alternating
from provenance import describe_machine, describe_versions, git_commit
from report import draw_plot, write_table
from torch._dynamo.exc import TorchDynamoException
from variants import Case

from ald_ext._extension import cuda_failure, cuda_module

#: Seconds a case is measured for at least, and with --quick.
BUDGET_S, QUICK_BUDGET_S = 5.0, 0.5

#: Which variant's time over which one's.
RATIOS = {
    "update": [
        ("plain PyTorch", "ald_ext op"),
        ("in-place PyTorch", "ald_ext op"),
        ("torch._foreach", "ald_ext op"),
        ("torch.compile", "ald_ext op"),
        ("normal_ alone", "ald_ext op"),
        ("ald_ext op", "Adam(fused=True)"),
        ("ald_ext.PSGLD", "ald_ext op"),
    ],
    "marginal likelihood": [("plain PyTorch", "ald_ext op"), ("torch.compile", "ald_ext op")],
    "dequantization": [
        ("plain PyTorch", "ald_ext op"),
        ("plain PyTorch, unstable tails", "ald_ext op"),
        ("torch.compile", "ald_ext op"),
        ("torch.compile, unstable tails", "ald_ext op"),
    ],
    "quantization": [("plain PyTorch", "ald_ext op"), ("torch.compile", "ald_ext op")],
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results = measure_all(torch.device(arguments.device), arguments.quick)
    stem = arguments.out / arguments.device
    replace_file(stem.with_suffix(".json"), lambda path: path.write_text(json.dumps(results, indent=2) + "\n"))
    replace_file(stem.with_suffix(".md"), lambda path: path.write_text(write_table(results)))
    replace_file(stem.with_suffix(".png"), lambda path: draw_plot(results, path))


def parse_arguments() -> argparse.Namespace:
    """The command line; what cannot work is refused here, before anything is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; made where it is missing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds: figures are rough")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    arguments = parser.parse_args()
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads: got {arguments.threads}, expected 1 or more")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: got cuda, but torch finds no GPU; expected cpu")
    if arguments.device == "cuda" and cuda_module is None:
        parser.error(f"--device: got cuda, but {cuda_failure}")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: got {arguments.out}, expected a folder that can be made: {error.strerror}")
    if not os.access(arguments.out, os.W_OK):
        parser.error(f"--out: got {arguments.out}, expected a folder that can be written to")
    return arguments


def measure_all(device: torch.device, quick: bool) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    # What is described is what runs: a commit made meanwhile does not count.
    provenance = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": describe_machine(device),
        "versions": describe_versions(device),
    }
    budget_s = QUICK_BUDGET_S if quick else BUDGET_S
    bandwidth = copy_bandwidth(device, budget_s)
    progress(f"copy_: {bandwidth.median:.1f} GB/s")
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    begin = time.monotonic()
    for case in all_cases(device, quick):
        samples, failures = measure_case(case, device, budget_s)
        left_out += [
            {"family": case.family, "size": case.size, "variant": name, "error": error}
            for name, error in failures.items()
        ]
        rows += [describe_row(case, name, sample) for name, sample in samples.items()]
        ratios += describe_ratios(case, samples)
        progress(f"{time.monotonic() - begin:4.0f} s  {case.family}, {case.size}: {summary(case, samples)}")
    return {
        "device": device.type,
        "quick": quick,
        **provenance,
        "copy_bandwidth_gb_per_s": asdict(bandwidth),
        "rows": rows,
        "ratios": ratios,
        "left_out": left_out,
    }


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_case(case: Case, device: torch.device, budget_s: float) -> tuple[dict[str, Samples], dict[str, str]]:
    """Samples by variant, and the errors of the variants that torch.compile cannot compile on this machine."""
    inputs = case.new_inputs()
    runs, failures = {}, {}
    for variant in case.variants:
        try:
            runs[variant.name] = case.prepare(variant, inputs)
        except TorchDynamoException as error:
            # The message names paths of this machine: it goes to the screen alone.
            failures[variant.name] = type(error).__name__
            progress(f"{case.family}, {case.size}: left out {variant.name}: {error}")
    return measure_alternating(runs, device, budget_s), failures


def describe_row(case: Case, name: str, samples: Samples) -> dict[str, Any]:
    seconds = Quantiles.of(samples.seconds)
    bytes_per_element = next(variant.bytes_per_element for variant in case.variants if variant.name == name)
    return {
        "family": case.family,
        "size": case.size,
        "elements": case.elements,
        "variant": name,
        "seconds": asdict(seconds),
        "ns_per_element": asdict(Quantiles.of([value / case.elements * 1e9 for value in samples.seconds])),
        "bytes_per_element": bytes_per_element,
        "gb_per_s": bytes_per_element * case.elements / seconds.median / 1e9,
        "rounds": len(samples.seconds),
        "calls_per_sample": samples.calls,
    }


def describe_ratios(case: Case, samples: dict[str, Samples]) -> list[dict[str, Any]]:
    """Of samples of the same round, so that a machine that slows down for a while leaves them alone."""
    return [
        {
            "family": case.family,
            "size": case.size,
            "numerator": numerator,
            "denominator": denominator,
            **asdict(
                Quantiles.of(
                    [a / b for a, b in zip(samples[numerator].seconds, samples[denominator].seconds, strict=True)]
                )
            ),
        }
        for numerator, denominator in RATIOS[case.family]
        if numerator in samples and denominator in samples
    ]


def summary(case: Case, samples: dict[str, Samples]) -> str:
    ours = Quantiles.of(samples["ald_ext op"].seconds).median / case.elements * 1e9
    rounds = len(samples["ald_ext op"].seconds)
    return f"ald_ext op {ours:.3g} ns per element, {rounds} rounds"


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes beside ``path`` and renames, so that a reader finds the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    temporary.replace(path)


if __name__ == "__main__":
    main()
