"""How it is measured: in alternation, each round runs every variant once."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Run = Callable[[], Any]
Key = TypeVar("Key", bound=Hashable)

#: A sample is as many calls in a row as take about this long, so that reading the clock costs nothing beside them.
SAMPLE_SECONDS = 2e-3
MIN_ROUNDS = 15
#: The size of a copied buffer, far larger than any cache.
COPY_BYTES = 2**29


@dataclass(frozen=True)
class Samples:
    """Seconds per call, one figure for each round, and the calls of a sample."""

    calls: int
    seconds: list[float]


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, and the 20th and 80th percentiles."""
    p20, _, _, p80 = statistics.quantiles(values, n=5, method="inclusive")
    return {"median": statistics.median(values), "p20": p20, "p80": p80}


@contextlib.contextmanager
def noted(failures: dict[Key, Exception], key: Key) -> Iterator[None]:
    """An error inside is kept, without the frames of its traceback, which would keep large tensors."""
    try:
        yield
    except Exception as error:
        failures[key] = error.with_traceback(None)


def seconds_per_call(run: Run, calls: int, device: torch.device) -> float:
    """The mean over calls in a row, to the end of the last one's work."""
    if device.type == "cuda":
        # Events, as launches return before the work is done. Waiting for the launching CPU counts, as it does in use.
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def measure_alternating(
    runs: Mapping[Key, Run], device: torch.device, budget_s: float
) -> tuple[dict[Key, Samples], dict[Key, Exception]]:
    """Rounds of one sample for each variant, until there are MIN_ROUNDS and ``budget_s`` seconds are over.

    Whatever else the machine does then meets all variants alike, and two samples of one round can be compared. The
    order rotates, so that no variant always follows the same one's caches and heat. A variant that raises is left out
    from then on, and its samples too; its error is returned.
    """
    samples: dict[Key, Samples] = {}
    failures: dict[Key, Exception] = {}
    for name, run in runs.items():
        with noted(failures, name):
            # A few calls, which also warm up.
            fastest = min(seconds_per_call(run, 1, device) for _ in range(5))
            samples[name] = Samples(max(1, math.ceil(SAMPLE_SECONDS / fastest)), [])
    deadline = time.monotonic() + budget_s
    rounds = 0
    while samples and (rounds < MIN_ROUNDS or time.monotonic() < deadline):
        names = list(samples)
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            with noted(failures, name):
                # One call is not timed: it brings the caches and the allocator into this variant's own state.
                runs[name]()
                samples[name].seconds.append(seconds_per_call(runs[name], samples[name].calls, device))
        samples = {name: found for name, found in samples.items() if name not in failures}
        rounds += 1
    return samples, failures


def copy_bandwidth(device: torch.device, budget_s: float) -> dict[str, float]:
    """GB/s of copy_ between two large buffers, counting the bytes read and the bytes written."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    samples, failures = measure_alternating({"copy_": lambda: target.copy_(source)}, device, budget_s)
    for error in failures.values():
        raise error
    return quantiles([2 * COPY_BYTES / seconds / 1e9 for seconds in samples["copy_"].seconds])
