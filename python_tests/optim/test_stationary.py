"""The distribution that the iterates sample, on Gaussian targets, where the discretized chain is solved exactly.

For U(θ) = θ'Λθ/2, the loss U/N, lr = hN and a constant diagonal G, the iterates are θ ← (I - hGΛ)θ + √(2hTG) ξ. Their
covariance follows S ← A S A' + 2hTG, A = I - hGΛ, from S = 0 at θ = 0; it ends at T Λ⁻¹ but for an error of order h,
which is part of the expectation here. Many chains in parallel are independent, so an estimated covariance has the
standard error √((s_ii s_jj + s_ij²) / chains); the bounds are 5 of them.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import PSGLD, SGLD

CHAINS = 100_000
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
NUM_DATA = 10


def expected_covariance(h: float, temperature: float, preconditioner: Tensor, steps: int) -> Tensor:
    matrix = torch.eye(2, dtype=torch.float64) - h * preconditioner[:, None] * PRECISION
    covariance = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(steps):
        covariance = matrix @ covariance @ matrix.T + 2 * h * temperature * torch.diag(preconditioner)
    return covariance


def run_chains(chains: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """The covariance of the chains (their mean is zero by symmetry) after some steps on the Gaussian."""
    precision = PRECISION.to(chains)
    for _ in range(steps):
        chains.grad = chains @ precision / NUM_DATA
        optimizer.step()
    final = chains.double().cpu()
    return final.T @ final / len(final)


def assert_covariance(got: Tensor, expected: Tensor) -> None:
    variances = expected.diagonal()
    standard_error = ((torch.outer(variances, variances) + expected**2) / CHAINS).sqrt()
    assert ((got - expected).abs() < 5 * standard_error).all(), f"got {got}, expected {expected}"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("h", "steps"), [(0.05, 200), (0.4, 60)])
def test_sgld(device: torch.device, temperature: float, h: float, steps: int) -> None:
    chains = torch.zeros(CHAINS, 2, device=device)
    optimizer = SGLD([chains], h * NUM_DATA, num_data=NUM_DATA, temperature=temperature, seed=1)
    expected = expected_covariance(h, temperature, torch.ones(2, dtype=torch.float64), steps)
    assert_covariance(run_chains(chains, optimizer, steps), expected)
    # The stationary covariance of the chain, T Λ⁻¹ (I - hΛ/2)⁻¹, has been reached, and is near the target for small h.
    stationary = temperature * torch.linalg.inv(PRECISION @ (torch.eye(2, dtype=torch.float64) - h / 2 * PRECISION))
    torch.testing.assert_close(expected, stationary, rtol=1e-4, atol=0)
    relative_bias = torch.linalg.matrix_norm(stationary / temperature - COVARIANCE, 2) / 1.6
    assert relative_bias <= h / 2 * 2.5  # of order h/2 times the largest precision, 2.5


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_frozen_psgld(device: torch.device, temperature: float) -> None:
    """Each coordinate has its own G; the covariance that is sampled is the target's all the same."""
    eps, h, steps = 0.1, 0.02, 400
    chains = torch.zeros(CHAINS, 2, device=device)
    optimizer = PSGLD(
        [chains], h * NUM_DATA, num_data=NUM_DATA, temperature=temperature, seed=2, alpha=0.0, eps=eps, freeze_after=1
    )
    # alpha = 0 makes v the square of the first gradient, and G = 1 / (|g| + eps).
    first = torch.tensor([1.0, 0.3], device=device)
    chains.grad = first.expand(CHAINS, 2).contiguous()
    optimizer.step()
    chains.zero_()
    preconditioner = 1 / (first.double().cpu() + eps)
    expected = expected_covariance(h, temperature, preconditioner, steps)
    assert_covariance(run_chains(chains, optimizer, steps), expected)
    # The discretization's bias: of order h/2 times the largest eigenvalue of GΛ, which is below 4.5.
    assert ((expected / temperature - COVARIANCE).abs() < 1.1 * h / 2 * 4.5 * 1.6).all()


def chains_on_a_standard_normal(device: torch.device, lr: float, steps: int, **options: Any) -> tuple[Tensor, PSGLD]:
    chains = torch.zeros(20_000, device=device)
    optimizer = PSGLD([chains], lr, num_data=1, seed=3, **options)
    for _ in range(steps):
        chains.grad = chains.clone()
        optimizer.step()
    return chains, optimizer


def test_freezing_removes_the_bias_of_an_adapting_preconditioner(device: torch.device) -> None:
    """Too large a variance while v adapts; the one of the discretized chain once v is frozen."""
    lr, eps = 0.01, 1e-3
    standard_error = math.sqrt(2 / 20_000)
    adapting, _ = chains_on_a_standard_normal(device, lr, 1500, alpha=0.99, eps=eps)
    assert float(adapting.square().mean()) > 1 + 5 * standard_error

    chains, optimizer = chains_on_a_standard_normal(device, lr, 2500, alpha=0.99, eps=eps, freeze_after=500)
    preconditioner = 1 / (optimizer.state[chains]["square_avg"].double().sqrt() + eps)
    # Each chain has its own G and so its own exact variance, 1 / (1 - lr G / 2).
    scaled = chains.double().square() * (1 - lr * preconditioner / 2)
    assert abs(float(scaled.mean()) - 1) < 5 * standard_error
