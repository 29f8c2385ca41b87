"""Measures every case in alternation and writes <out>/<device>.json, and from it table, plot and page of results.

python benchmarks/run.py --out benchmarks/results [--device cpu|cuda] [--quick] [--threads N] [--time-limit SECONDS]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import all_cases
from cuda_graph import measure_graphs
from measurement import Quantiles, Samples, copy_bandwidth, measure_alternating
from names import OURS, RATIOS, kind_of
from provenance import describe_run
from results_page import write_page
from torch._dynamo.exc import TorchDynamoException
from variants import Case, Run

from ald_ext._extension import cuda_failure, cuda_module
from ald_ext.files import write_atomically

#: Seconds a case is measured for at least, and with --quick. A GPU's figures scatter less.
BUDGET_S, QUICK_BUDGET_S = {"cpu": 5.0, "cuda": 2.0}, 0.5

#: A variant that raises these is left out: this machine cannot compile it, or lacks the memory or the time. Others fail
#: the run, at its end.
TOLERATED = (TorchDynamoException, torch.OutOfMemoryError, TimeoutError)
#: What the results say of a case for which no time was left, and the exit status then, which is that of timeout(1).
NO_TIME_LEFT = TimeoutError.__name__
OUT_OF_TIME = 124


def main() -> None:
    arguments = parse_arguments(__doc__)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    deadline = time.monotonic() + arguments.time_limit
    save = partial(save_results, arguments.out / f"{arguments.device}.json")
    provenance = describe_run(torch.device(arguments.device), arguments.origin)
    results, problems = measure_all(torch.device(arguments.device), arguments.quick, deadline, provenance, save)
    write_page(arguments.out)
    finish(results, problems)


def save_results(path: Path, results: dict[str, Any]) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(results, indent=2) + "\n"))


def finish(results: dict[str, Any], problems: Sequence[str]) -> None:
    """Exits with 1 and what went wrong, if anything did; with OUT_OF_TIME if cases were left out for lack of time."""
    if problems:
        sys.exit("\n".join(["the results are written, but:", *problems]))
    late = [item for item in results["left_out"] if item["error"] == NO_TIME_LEFT]
    if late:
        progress(f"the results are written; {len(late)} cases were left out, as no time was left")
        sys.exit(OUT_OF_TIME)


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The command line; what cannot work is refused here, before anything is measured."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; made where it is missing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds: figures are rough")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument(
        "--time-limit", type=float, default=math.inf, metavar="SECONDS", help="start no case after so many seconds"
    )
    parser.add_argument("--origin", default="make bench", help="what the results say of where they come from")
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


def measure_all(
    device: torch.device,
    quick: bool,
    deadline: float,
    provenance: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Any], list[str]]:
    """Everything that the JSON file holds, and what went wrong. ``save`` is given what there is, case after case."""
    budget_s = QUICK_BUDGET_S if quick else BUDGET_S[device.type]
    bandwidth = copy_bandwidth(device, budget_s)
    progress(f"copy_: {bandwidth.median:.1f} GB/s")
    results: dict[str, Any] = {
        "device": device.type,
        "quick": quick,
        **provenance,
        "copy_bandwidth_gb_per_s": asdict(bandwidth),
        "rows": [],
        "ratios": [],
        "left_out": [],
    }
    problems = measure_cases(all_cases(device, quick), device, budget_s, deadline, results, save)
    if device.type == "cuda":
        # Last: a capture that fails may leave the device unusable.
        results["cuda_graph_rows"], wrong = measure_graphs(device, budget_s, progress)
        problems += [f"CUDA graph: {name}: replays differ from steps" for name in wrong]
        save(results)
    return results, problems


def measure_cases(
    cases: Sequence[Case],
    device: torch.device,
    budget_s: float,
    deadline: float,
    results: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> list[str]:
    """Adds rows, ratios and what was left out, and saves them case after case. Returns what was not to be left out."""
    problems: list[str] = []
    begin = time.monotonic()
    for case in cases:
        samples, failures = measure_case_in_time(case, device, budget_s, deadline)
        results["rows"] += [describe_row(case, name, sample) for name, sample in samples.items()]
        results["ratios"] += describe_ratios(case, samples)
        for name, error in failures.items():
            # The message names paths of this machine: it goes to the screen alone.
            where = {"family": case.family, "size": case.size, "variant": name}
            results["left_out"].append({**where, "error": type(error).__name__})
            message = f"{case.family}, {case.size}: {name}: {type(error).__name__}: {error}"
            progress(f"left out: {message}")
            if not isinstance(error, TOLERATED):
                problems.append(message)
        progress(f"{time.monotonic() - begin:4.0f} s  {case.family}, {case.size}: {summary(case, samples)}")
        save(results)
    return problems


def measure_case_in_time(
    case: Case, device: torch.device, budget_s: float, deadline: float
) -> tuple[dict[str, Samples], dict[str, Exception]]:
    """As measure_case; one that fails as a whole, or comes too late, does not keep the others from the file."""
    if time.monotonic() > deadline:
        return {}, {"all variants": TimeoutError("no time left")}
    try:
        return measure_case(case, device, budget_s)
    except Exception as error:
        return {}, {"all variants": error.with_traceback(None)}


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_case(case: Case, device: torch.device, budget_s: float) -> tuple[dict[str, Samples], dict[str, Exception]]:
    """Samples by variant, and the errors of those that could not be prepared, compute something else, or fail later."""
    inputs = case.new_inputs()
    runs: dict[str, Run] = {}
    failures: dict[str, Exception] = {}
    for variant in case.variants:
        try:
            runs[variant.name] = case.prepare(variant, inputs)
        except Exception as error:
            failures[variant.name] = error.with_traceback(None)  # whose frames would keep large tensors
    samples, late_failures = measure_alternating(runs, device, budget_s)
    return samples, {**failures, **late_failures}


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
        for numerator, denominator in RATIOS[kind_of(case.family)]
        if numerator in samples and denominator in samples
    ]


def summary(case: Case, samples: dict[str, Samples]) -> str:
    if OURS not in samples:
        return f"{len(samples)} variants"
    ours = Quantiles.of(samples[OURS].seconds).median / case.elements * 1e9
    return f"{OURS} {ours:.3g} ns per element, {len(samples[OURS].seconds)} rounds"


if __name__ == "__main__":
    main()
