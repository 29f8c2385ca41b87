"""What the tests of networks' posteriors have in common: a regression whose posterior is known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks on many threads are slow where other tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """60 inputs of 3 variables, and one of three classes each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@pytest.fixture
def loader(data: tuple[Tensor, Tensor]) -> DataLoader:
    return DataLoader(TensorDataset(*data), 20, shuffle=True)


@pytest.fixture
def network() -> nn.Sequential:
    """With a buffer that changes, one that does not, and a layer that is frozen."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    network.register_buffer("mask", torch.full((2,), -torch.inf))
    network[3].requires_grad_(False)
    return network
