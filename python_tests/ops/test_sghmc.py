"""What ops.sghmc_step_ promises, of the op itself: on a quadratic potential a step is linear in θ, p and ξ, so that a
few calls in float64 give its matrices, and those the exact stationary covariance.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import ops

NUM_DATA, CURVATURE, SEED, STEP = 10, 0.8, 3, 7
MOMENTA = pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])


def step(theta: Tensor, p: Tensor, lr: float, **options: Any) -> Tensor:
    """θ and p after a step on L = (curvature/2)·θ², stacked."""
    theta, p = theta.clone(), p.clone()
    ops.sghmc_step_(
        [theta], [CURVATURE * theta], [p], lr=lr, num_data=NUM_DATA, **{"seed": SEED, "step": STEP, **options}
    )
    return torch.stack([theta, p])


def matrices(device: torch.device, lr: float, momentum: float, temperature: float) -> tuple[Tensor, Tensor]:
    """A and b of (θ, p) ← A (θ, p) + b ξ."""
    basis = torch.eye(2, dtype=torch.float64, device=device)
    drift = step(basis[0], basis[1], lr, momentum=momentum, temperature=0.0)
    zero = torch.zeros(1, dtype=torch.float64, device=device)
    noise = step(zero, zero, lr, momentum=momentum, temperature=temperature)
    return drift.cpu(), noise.cpu() / ops.normal(1, seed=SEED, step=STEP, dtype=torch.float64)


def stationary_covariance(drift: Tensor, noise: Tensor) -> Tensor:
    """S = A S A' + b b', solved as a linear system."""
    system = torch.eye(4, dtype=torch.float64) - torch.kron(drift, drift)
    return torch.linalg.solve(system, (noise @ noise.T).flatten()).reshape(2, 2)


@MOMENTA
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("stability", [0.001, 0.1, 0.5, 0.99])
def test_gaussian_positions_are_exact(
    device: torch.device, stability: float, momentum: float, temperature: float
) -> None:
    """For every stable lr, lr·curvature < 4; p ~ N(0, T/N) too, whatever lr is."""
    lr = 4 * stability / CURVATURE
    covariance = stationary_covariance(*matrices(device, lr, momentum, temperature))
    unit = temperature / NUM_DATA
    expected = torch.tensor([[unit / CURVATURE, lr**0.5 / 2 * unit], [lr**0.5 / 2 * unit, unit]], dtype=torch.float64)
    # Rounding errors of A, grown by the condition of the system: at most 1 / (lr·curvature·(1-μ)) = 3e4.
    torch.testing.assert_close(covariance, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("stability", [1.01, 2.0])
def test_unstable_beyond(device: torch.device, stability: float) -> None:
    drift, _ = matrices(device, 4 * stability / CURVATURE, 0.5, 1.0)
    assert torch.linalg.eigvals(drift).abs().max() > 1


def chen_covariance(eta: float, alpha: float, temperature: float) -> Tensor:
    """Of θ and v under v ← (1-α)v - η∇U + N(0, 2αηT), θ ← θ + v (Chen et al. 2014, Eq. 15)."""
    k = NUM_DATA * CURVATURE
    drift = torch.tensor([[1 - eta * k, 1 - alpha], [-eta * k, 1 - alpha]], dtype=torch.float64)
    noise = math.sqrt(2 * alpha * eta * temperature) * torch.ones(2, 1, dtype=torch.float64)
    return stationary_covariance(drift, noise)


def test_conversion_from_chen_et_al(device: torch.device) -> None:
    """lr = η·N, momentum = 1 - α: the same dynamics to first order in α and √η; the errors are theirs."""
    errors = []
    for refinement in (1, 4, 16):
        eta, alpha = 0.01 / refinement**2, 0.1 / refinement  # smaller time steps √η, and as much less friction in each
        lr, momentum = eta * NUM_DATA, 1 - alpha
        drift, noise = matrices(device, lr, momentum, 1.0)
        covariance = stationary_covariance(drift, noise)
        theirs = chen_covariance(eta, alpha, 1.0)
        errors.append(float(theirs[0, 0] / covariance[0, 0]) - 1)
        # v = h·p; the speed of the slowest mode.
        torch.testing.assert_close(lr * covariance[1, 1], theirs[1, 1], rtol=alpha, atol=0)
        k = NUM_DATA * CURVATURE
        chen_drift = torch.tensor([[1 - eta * k, momentum], [-eta * k, momentum]], dtype=torch.float64)
        ours, chens = (torch.linalg.eigvals(matrix).abs().max() for matrix in (drift, chen_drift))
        torch.testing.assert_close(torch.log(ours), torch.log(chens), rtol=alpha, atol=0)
    # Of order η, 16 times smaller each time.
    assert errors[0] > 0.01
    assert all(15 < a / b < 18 for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("dtype", ops.PARAMETER_DTYPES, ids=str)
def test_with_lr_zero_no_time_goes_by(device: torch.device, dtype: torch.dtype, as_tensor: bool) -> None:
    """Neither θ nor p moves: a step that is not counted must not change the run."""
    theta, grad = torch.randn(2, 100, device=device).to(dtype)
    p = torch.randn(100, device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    before = theta.clone(), p.clone()
    lr = torch.zeros((), device=device) if as_tensor else 0.0
    ops.sghmc_step_([theta], [grad], [p], lr=lr, seed=1, step=1)
    assert torch.equal(theta, before[0])
    assert torch.equal(p, before[1])
