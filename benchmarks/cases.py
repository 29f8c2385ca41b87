"""Everything that is measured: run.py and test_speed.py use the same cases."""

from __future__ import annotations

import torch
from dequantization import dequantization_cases, quantization_cases
from marginal_likelihood import likelihood_cases
from update import update_cases
from variants import Case


def all_cases(device: torch.device, quick: bool = False) -> list[Case]:
    """All cases of a device; ``quick`` leaves out the large ones."""
    families = (update_cases, likelihood_cases, dequantization_cases, quantization_cases)
    return [case for family in families for case in family(device, quick)]
