"""What all tests share: the devices to run on, fixed random numbers, threads set back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from ald_ext._extension import cuda_failure, cuda_module

# The same examples in every run: a failure is a bug, never luck.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("fixed")


def missing_cuda() -> str:
    """Why the CUDA tests cannot run here; empty where they can."""
    if not torch.cuda.is_available():
        return "needs a GPU: torch.cuda.is_available() is False"
    return "" if cuda_module is not None else f"the CUDA module did not load: {cuda_failure}"


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device whose kernels can run here."""
    if request.param == "cuda" and (reason := missing_cuda()):
        pytest.skip(reason)
    return torch.device(request.param)


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """For comparisons of CUDA with the CPU."""
    if reason := missing_cuda():
        pytest.skip(reason)
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _fixed_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """For tests that call torch.set_num_threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
