"""What SGHMC samples: Gaussian targets with no error of the discretization, and how it stands beside SGD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim.test_stationary import CHAINS, COVARIANCE, NUM_DATA, PRECISION, assert_covariance
from torch import Tensor

from ald_ext import SGHMC, SGLD

#: The mean of the target.
CENTER = torch.tensor([0.7, -1.3], dtype=torch.float64)


def sample(device: torch.device, lr: float, steps: int, **options: Any) -> tuple[Tensor, Tensor]:
    """The positions and momenta of independent chains on U = (θ-c)'Λ(θ-c)/2, where the loss is U/N."""
    chains = torch.zeros(CHAINS, 2, device=device)
    optimizer = SGHMC([chains], lr, num_data=NUM_DATA, seed=6, **options)
    precision, center = PRECISION.to(chains), CENTER.to(chains)
    for _ in range(steps):
        chains.grad = (chains - center) @ precision / NUM_DATA
        optimizer.step()
    return chains.double().cpu(), optimizer.state[chains]["momentum_buffer"].double().cpu()


def assert_normal(values: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within 5 Monte Carlo standard errors."""
    assert ((values.mean(0) - mean).abs() < 5 * (covariance.diagonal() / CHAINS).sqrt()).all(), values.mean(0)
    centered = values - mean
    assert_covariance(centered.T @ centered / CHAINS, covariance)


# The largest curvature of U is 2.5: lr = 16 N / 10 is the limit. The slowest of the modes, of curvature 0.625, has
# forgotten its start by a factor of 1e-4 or more.
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("time_step", "momentum", "steps"), [(0.1, 0.5, 250), (1.2, 0.5, 60), (0.4, 0.8, 60)])
def test_gaussian(device: torch.device, temperature: float, time_step: float, momentum: float, steps: int) -> None:
    """Mean and covariance of the target itself, though the time steps are large: no error of the discretization."""
    theta, p = sample(device, time_step * NUM_DATA, steps, momentum=momentum, temperature=temperature)
    assert_normal(theta, CENTER, temperature * COVARIANCE)
    assert_normal(p, torch.zeros(2), temperature / NUM_DATA * torch.eye(2, dtype=torch.float64))


def test_sgld_would_fail_that_test(device: torch.device) -> None:
    """At the lr where SGHMC is exact, the largest variance of SGLD is 1 / (1 - 0.4·2.5/2) = 2 times too large."""
    chains = torch.zeros(CHAINS, 2, device=device)
    optimizer = SGLD([chains], 0.4 * NUM_DATA, num_data=NUM_DATA, seed=6)
    for _ in range(60):
        chains.grad = chains @ PRECISION.to(chains) / NUM_DATA
        optimizer.step()
    values = chains.double().cpu()
    with pytest.raises(AssertionError):
        assert_normal(values, torch.zeros(2), COVARIANCE)


def test_lr_may_change_in_the_middle(device: torch.device) -> None:
    """p's distribution does not depend on lr, so chains that have arrived stay so: no burn-in after a change."""
    chains = torch.randn(CHAINS, 1, dtype=torch.float64).to(device)
    optimizer = SGHMC([chains], 0.05, num_data=1, momentum=0.3, seed=7)
    for lr in (0.05, 1.0, 0.2):
        optimizer.param_groups[0]["lr"] = lr
        for _ in range(100 if lr == 0.05 else 40):
            chains.grad = chains.clone()
            optimizer.step()
        momenta = optimizer.state[chains]["momentum_buffer"]
        for values in (chains, momenta):
            assert abs(float(values.square().mean()) - 1) < 5 * (2 / CHAINS) ** 0.5


def test_momentum_moves_further(device: torch.device) -> None:
    """Without a force θ diffuses as under SGLD of step size (lr/2)·(1+μ)/(1-μ): variance lr·(1+μ)/(1-μ)·T/N a step."""
    lr, steps = 0.1, 200
    for momentum in (0.0, 0.5, 0.9):
        chains = torch.zeros(20_000, device=device)
        optimizer = SGHMC([chains], lr, num_data=NUM_DATA, momentum=momentum, seed=8)
        for _ in range(steps):
            chains.grad = torch.zeros_like(chains)
            optimizer.step()
        # From p = 0 on, and up to the end: about 1 / (1 - μ) steps less.
        expected = lr * (1 + momentum) / (1 - momentum) / NUM_DATA * steps
        missing = 2 / (1 - momentum) / steps
        got = float(chains.double().square().mean()) / expected
        assert 1 - missing - 5 * (2 / 20_000) ** 0.5 < got < 1 + 5 * (2 / 20_000) ** 0.5


def test_a_step_of_lr_zero_makes_states_of_zeros(device: torch.device) -> None:
    """torch.distributed.checkpoint takes such a step of gradients 0 before it loads."""
    param = torch.ones(5, device=device)
    optimizer = SGHMC([param], 0.0, num_data=1)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert (optimizer.state[param]["momentum_buffer"] == 0).all()
    assert (param == 1).all()
    assert optimizer.param_groups[0]["step"] == 0
