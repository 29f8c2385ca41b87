"""Measures ops and optimizer steps and writes <out>/<device>.json.

python -m benchmarks.speed --out benchmarks/results [--device cpu|cuda] [--quick] [--threads N] [--time-limit SECONDS]
"""

from dataclasses import asdict

import torch

from ..harness import measure, parse_arguments, progress
from ..measurement import copy_bandwidth
from .batches import (
    dequantization_cases,
    dequantization_shape_cases,
    likelihood_cases,
    likelihood_shape_cases,
    quantization_cases,
)
from .cases import SpeedCase
from .cuda_graph import GraphCase
from .dtensors import dtensor_cases
from .update import update_cases, update_dtype_cases

#: Seconds a case is measured for at least, and with --quick. A GPU's figures scatter less.
BUDGET_S, QUICK_BUDGET_S = {"cpu": 5.0, "cuda": 2.0}, 0.5

#: In the order in which they matter, should the time run out (--time-limit).
FAMILIES = (
    update_cases,
    likelihood_cases,
    dequantization_cases,
    update_dtype_cases,
    dtensor_cases,
    likelihood_shape_cases,
    dequantization_shape_cases,
    quantization_cases,
)


def all_cases(device: torch.device, quick: bool = False) -> list[SpeedCase]:
    """All cases of a device; ``quick`` leaves out the large ones."""
    return [case for family in FAMILIES for case in family(device, quick)]


def main() -> None:
    arguments = parse_arguments(__doc__)
    device = torch.device(arguments.device)
    budget_s = QUICK_BUDGET_S if arguments.quick else BUDGET_S[device.type]
    bandwidth = copy_bandwidth(device, budget_s)
    progress(f"copy_: {bandwidth.median:.1f} GB/s")

    # The graphs last: a capture that fails may leave the device unusable.
    graphs = [GraphCase(device)] if device.type == "cuda" else []
    cases = [*all_cases(device, arguments.quick), *graphs]
    facts = {"copy_bandwidth_gb_per_s": asdict(bandwidth)}
    measure(arguments.out / f"{device.type}.json", arguments, cases, budget_s, facts)


if __name__ == "__main__":
    main()
