"""What SGNHT samples: the target where gradients are exact, and where they are noisy too, unlike SGHMC."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import SGHMC, SGNHT

CHAINS, NUM_DATA = 10_000, 10
STANDARD_ERROR = (2 / CHAINS) ** 0.5


def sample(kind: type[Any], device: torch.device, noise: float, temperature: float) -> tuple[Tensor, Any]:
    """Independent chains on U = θ²/2, started in it, whose loss U/N has gradients with noise of that deviation."""
    generator = torch.Generator(device).manual_seed(4)
    chains = temperature**0.5 * torch.randn(CHAINS, device=device, generator=generator)
    optimizer = kind([chains], 0.04 * NUM_DATA, num_data=NUM_DATA, temperature=temperature, seed=5)
    for _ in range(300):
        chains.grad = chains / NUM_DATA + noise * torch.randn(CHAINS, device=device, generator=generator)
        optimizer.step()
    return chains.double().cpu(), optimizer.state[chains]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_exact_gradients(device: torch.device, temperature: float) -> None:
    """θ, p and x, which has the variance a²/4; p lacks half a kick, so that its correlation with θ is h/2."""
    theta, state = sample(SGNHT, device, 0.0, temperature)
    p, x = (state[name].double().cpu() for name in ("momentum_buffer", "excess_friction"))
    variances = [temperature, temperature / NUM_DATA, 0.1**2 / 4]
    standard = torch.stack([values / variance**0.5 for values, variance in zip((theta, p, x), variances, strict=True)])
    covariance = standard @ standard.T / CHAINS
    expected = torch.tensor([[1.0, 0.1, 0.0], [0.1, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert (standard.mean(1).abs() < 5 * CHAINS**-0.5).all()
    assert ((covariance - expected).abs() < 5 * STANDARD_ERROR).all(), covariance


def test_noisy_gradients(device: torch.device) -> None:
    """The noise heats SGHMC's chains by 30%; SGNHT's friction takes it up."""
    temperature = 2.0
    noise = (0.3 * 2 * 0.1 * temperature / NUM_DATA / (0.04 * NUM_DATA)) ** 0.5
    heated, _ = sample(SGHMC, device, noise, temperature)
    assert float(heated.square().mean()) / temperature > 1.25
    right, state = sample(SGNHT, device, noise, temperature)
    assert abs(float(right.square().mean()) / temperature - 1) < 5 * STANDARD_ERROR
    assert float(state["excess_friction"].mean()) == pytest.approx(0.3 * 0.1, rel=0.1)


def test_zero_temperature_and_zero_lr_keep_the_friction(device: torch.device) -> None:
    """T = 0: no temperature to hold. lr = 0: no time goes by."""
    for options in ({"lr": 0.1, "temperature": 0.0}, {"lr": 0.0}):
        param = torch.ones(5, device=device)
        optimizer = SGNHT([param], num_data=1, **options)
        param.grad = torch.ones_like(param)
        optimizer.step()
        assert (optimizer.state[param]["excess_friction"] == 0).all()
        assert ((param == 1) == (options["lr"] == 0)).all()


@pytest.mark.parametrize("diffusion", [-0.1, 0.0, float("inf"), float("nan")])
def test_the_op_refuses_a_diffusion(diffusion: float) -> None:
    tensors = [[torch.ones(3)] for _ in range(4)]
    options = {"lr": 0.1, "num_data": 1.0, "temperature": 1.0, "weight_decay": 0.0, "maximize": False}
    options |= {"seed": 1, "step": 1, "noise_ids": [0], "offsets": [0]}
    with pytest.raises(RuntimeError, match=f"sgnht_step_: diffusion: got {diffusion:g}, expected a finite number > 0"):
        torch.ops.ald_ext.sgnht_step_(*tensors, **options, diffusion=diffusion)
    assert all((tensor == 1).all() for [tensor] in tensors)
