"""Everything that is measured: run.py and test_speed.py use the same cases."""

from __future__ import annotations

import torch
from dequantization import dequantization_cases, dequantization_shape_cases, quantization_cases
from marginal_likelihood import likelihood_cases, likelihood_shape_cases
from update import update_cases, update_dtype_cases
from variants import Case

#: In the order of what is missed most, should the time run out (run.py --time-limit).
FAMILIES = (
    update_cases,
    likelihood_cases,
    dequantization_cases,
    update_dtype_cases,
    likelihood_shape_cases,
    dequantization_shape_cases,
    quantization_cases,
)


def all_cases(device: torch.device, quick: bool = False) -> list[Case]:
    """All cases of a device; ``quick`` leaves out the large ones."""
    return [case for family in FAMILIES for case in family(device, quick)]
