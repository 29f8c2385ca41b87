"""What all tests share: the devices to run on, fixed random numbers, and what a test sets for its whole process."""

from __future__ import annotations

import os
import signal
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
        return "they need a GPU, and torch.cuda.is_available() is False"
    return "" if cuda_module is not None else f"the CUDA module did not load: {cuda_failure}"


def pytest_configure(config: pytest.Config) -> None:
    """Divides the cores among the processes that test side by side, and those that tests start."""
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``-k cuda`` finds the tests of CUDA. Without it, thousands of skips would tell what one line at the end does."""
    of_cuda = [item for item in items if "cuda" in getattr(item, "fixturenames", ())]
    for item in of_cuda:
        item.extra_keyword_matches.add("cuda")
    if missing_cuda():
        items[:] = [item for item in items if "cuda" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=of_cuda)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if reason := missing_cuda():
        terminalreporter.write_line(f"The CUDA tests were left out: {reason}.")


@pytest.fixture(scope="session", params=["cpu"] if missing_cuda() else ["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device whose kernels can run here."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """For comparisons of CUDA with the CPU; its tests are left out where there is none."""
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


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """As in a terminal, for a test and the processes that it starts: nohup and scripts' background jobs ignore some."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL)
    previous = [signal.signal(number, handler) for number, handler in zip(numbers, handlers, strict=True)]
    yield
    for number, handler in zip(numbers, previous, strict=True):
        signal.signal(number, handler)
