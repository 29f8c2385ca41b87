"""A posterior with an exact answer, sampled by ranks that have a part of the data each."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.regression import WRAPPERS
from distributed.worlds import run_world


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_linear_regression(folder: Path, wrapper: str, world: int) -> None:
    """Means, variances and covariance within 5 Monte Carlo standard errors."""
    found = run_world("distributed.regression", "moments_in_mcse", world, folder)[wrapper]
    assert max(map(abs, found)) < 5, found
