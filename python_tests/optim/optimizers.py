"""The optimizers and their implementations, a small network that they train, and state dicts through a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT

OPTIMIZERS: dict[str, Callable[..., Any]] = {"sgld": SGLD, "psgld": PSGLD, "sghmc": SGHMC, "sgnht": SGNHT}
EVERY_KIND = pytest.mark.parametrize("kind", OPTIMIZERS)

FLAGS: list[dict[str, bool]] = [{}, {"foreach": True}, {"fused": False}]
EVERY_IMPLEMENTATION = pytest.mark.parametrize("flags", FLAGS, ids=["fused", "foreach", "plain"])


def network(device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Always the same; its initialization leaves the default generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(device, dtype)


def mean_loss(model: nn.Module) -> Tensor:
    """A fixed regression, with gradients that differ from parameter to parameter."""
    x = torch.linspace(-2, 2, 48, dtype=torch.float64).reshape(8, 6).sin().to(next(model.parameters()))
    return (model(x) - x[:, :3] ** 2).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        mean_loss(model).backward()
        optimizer.step()


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
