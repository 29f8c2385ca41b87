"""What the tests of samplers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(restore_threads: Iterator[None]) -> None:
    """Tensors are small here."""
    torch.set_num_threads(1)
