"""What every benchmark shares: its command line, its cases, and the JSON file <out>/<name>.json."""

import argparse
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from ald_ext._extension import cuda_failure, cuda_module
from ald_ext.files import write_json

from .measurement import Run, Samples, measure_alternating, noted, quantiles
from .provenance import describe_run

#: A variant that raises these is left out: this machine cannot compile it, or lacks the memory or the time. Others fail
#: the run, at its end.
TOLERATED = (TorchDynamoException, torch.OutOfMemoryError, TimeoutError)
#: The exit status where no time was left for some cases, which is that of timeout(1).
OUT_OF_TIME = 124

#: What is timed: the size of a problem (or the model of a training step), and the variant that solves it.
Key = tuple[str, str]


class Case(ABC):
    """What is measured in one alternation; its family is the heading of its table, the sizes are the columns."""

    family: str
    sizes: Sequence[str]

    @abstractmethod
    def preparations(self) -> Mapping[Key, Callable[[], Run]]:
        """What returns the callable to be timed, once it was found right, by size and variant."""

    @abstractmethod
    def row(self, key: Key, samples: Samples) -> dict[str, Any]:
        """What the file says of a variant beside what every row has."""

    @abstractmethod
    def ratios(self) -> Sequence[tuple[Key, Key]]:
        """Whose time is told as a multiple of whose."""

    def check_afterwards(self, run: Run) -> None:  # noqa: B027 (most cases have nothing to check)
        """Raises where the callable does not work as it should after it was timed."""


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
    make_folder(arguments.out, parser)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    arguments.deadline = time.monotonic() + arguments.time_limit
    return arguments


def make_folder(out: Path, parser: argparse.ArgumentParser) -> None:
    """Makes the folder of --out, or ends with what is wrong with it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: got {out}, expected a folder that can be made: {error.strerror}")
    if not os.access(out, os.W_OK):
        parser.error(f"--out: got {out}, expected a folder that can be written to")


def measure(
    path: Path, arguments: argparse.Namespace, cases: Sequence[Case], budget_s: float, facts: dict[str, Any]
) -> None:
    """Measures all cases and saves the file after each; exits with what went wrong, if anything did.

    Args:
        path: of the JSON file.
        arguments: of :func:`parse_arguments`.
        cases: in the order in which they matter, should the time run out.
        budget_s: seconds that each size of a case is measured for at least.
        facts: what the file says beside the figures.
    """
    device = torch.device(arguments.device)
    # What is described is what runs: a commit made meanwhile does not count.
    results = {"device": device.type, "quick": arguments.quick, **describe_run(device, arguments.origin), **facts}
    results |= {"rows": [], "ratios": [], "left_out": []}
    problems: list[str] = []
    begin = time.monotonic()
    for case in cases:
        failures: dict[Key, Exception]
        try:
            if time.monotonic() > arguments.deadline:
                raise TimeoutError("no time left")
            samples, failures = measure_case(case, device, budget_s * len(case.sizes))
        except Exception as error:  # a case that fails as a whole does not keep the others from the file
            samples, failures = {}, {(", ".join(case.sizes), "all variants"): error.with_traceback(None)}
        for (size, variant), found in samples.items():
            row = {"family": case.family, "size": size, "variant": variant, "seconds": quantiles(found.seconds)}
            row |= case.row((size, variant), found)
            results["rows"].append(row | {"rounds": len(found.seconds), "calls_per_sample": found.calls})
        results["ratios"] += describe_ratios(case, samples)
        for (size, variant), error in failures.items():
            # The message names paths of this machine: it goes to the screen alone.
            name = type(error).__name__
            results["left_out"].append({"family": case.family, "size": size, "variant": variant, "error": name})
            message = f"{case.family}, {size}: {variant}: {name}: {error}"
            progress(f"left out: {message}")
            if not isinstance(error, TOLERATED):
                problems.append(message)
        progress(f"{time.monotonic() - begin:4.0f} s  {case.family}, {', '.join(case.sizes)}: {len(samples)} variants")
        write_json(path, results)
    if problems:
        sys.exit("\n".join(["the results are written, but:", *problems]))
    if late := [item for item in results["left_out"] if item["error"] == TimeoutError.__name__]:
        progress(f"the results are written; {len(late)} cases were left out, as no time was left")
        sys.exit(OUT_OF_TIME)
    progress(f"{path}: written; python -m benchmarks.page --results {path.parent} makes the page of it")


def measure_case(case: Case, device: torch.device, budget_s: float) -> tuple[dict[Key, Samples], dict[Key, Exception]]:
    """Samples, and the errors of variants that could not be prepared, compute something else, or fail later."""
    torch._dynamo.reset()  # or the guards of what was compiled for other sizes would be tried first, at every call
    runs: dict[Key, Run] = {}
    failures: dict[Key, Exception] = {}
    for key, prepare in case.preparations().items():
        with noted(failures, key):
            runs[key] = prepare()
    samples, late_failures = measure_alternating(runs, device, budget_s)
    failures |= late_failures
    for key in samples:
        with noted(failures, key):
            case.check_afterwards(runs[key])
    return {key: found for key, found in samples.items() if key not in failures}, failures


def describe_ratios(case: Case, samples: Mapping[Key, Samples]) -> list[dict[str, Any]]:
    """Ratios are of samples of the same round, so that a machine that slows down for a while leaves them alone."""
    ratios = []
    for above, below in case.ratios():
        if above in samples and below in samples:
            pairs = zip(samples[above].seconds, samples[below].seconds, strict=True)
            denominator = below[1] if below[0] == above[0] else f"{below[1]}, {below[0]}"
            ratio = {"family": case.family, "size": above[0], "numerator": above[1], "denominator": denominator}
            ratios.append(ratio | quantiles([one / other for one, other in pairs]))
    return ratios


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
