"""Inference for new data: chains that begin at an encoder's outputs (paper: Algorithm 2)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ald_ext.samplers import (
    HMC,
    MALA,
    LangevinDynamics,
    LastLayerALD,
    LinearGaussianPotential,
    RandomFourierFeatures,
    UnderdampedLangevin,
    sampler_from_encoder,
)

DOUBLE = torch.float64


@pytest.fixture
def potential() -> LinearGaussianPotential:
    unit = torch.eye(2, dtype=DOUBLE)
    return LinearGaussianPotential(torch.zeros(2, dtype=DOUBLE), unit, 0.5 * unit)


@pytest.fixture
def encoder() -> nn.Module:
    return nn.Linear(2, 2, dtype=DOUBLE)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 2, dtype=DOUBLE)


KERNELS: dict[Any, dict[str, Any]] = {
    LangevinDynamics: {},
    MALA: {"adapt_steps": 5},
    HMC: {"num_leapfrog_steps": 3},
    UnderdampedLangevin: {"friction": 2.0},
}


@pytest.mark.parametrize("chains", [None, 1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_begin_at_the_outputs(
    kernel: Any, chains: int | None, potential: LinearGaussianPotential, encoder: nn.Module, x: Tensor
) -> None:
    """And go on as those of a sampler made by hand; the encoder gets no gradient."""
    options = {"step_size": 0.1, "seed": 4, "temperature": 0.8, **KERNELS[kernel]}
    sampler = sampler_from_encoder(encoder, potential, x, kernel=kernel, chains=chains, **options)
    assert type(sampler) is kernel
    start = encoder(x).detach() if chains is None else encoder(x).detach()[:, None].repeat(1, chains, 1)
    assert torch.equal(sampler.z, start)
    by_hand = kernel(potential, x, start, **options)
    for _ in range(8):
        z = sampler.step()
        assert torch.equal(z, by_hand.step())
    assert z.shape == start.shape
    if chains == 3:
        assert not torch.isclose(z[:, 0], z[:, 1]).all(-1).any()
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_chains_of_a_last_layer(potential: LinearGaussianPotential, x: Tensor) -> None:
    """Each chain of the last layer gives the start of one chain of the new data."""
    train = torch.randn(6, 2, dtype=DOUBLE)
    features = RandomFourierFeatures(2, 24, 1.0, dtype=DOUBLE)
    last_layer = LastLayerALD(features, potential, train, 2, chains=3, step_size=0.05)
    for _ in range(5):
        last_layer.step()
    sampler = sampler_from_encoder(last_layer, potential, x, step_size=0.1)
    assert type(sampler) is MALA, "the kernel where none is given"
    assert sampler.z.shape == (5, 3, 2)
    assert torch.equal(sampler.z, last_layer(x))
    weight = last_layer.weight.clone()
    assert not torch.equal(sampler.step(), last_layer(x))
    assert torch.equal(last_layer.weight, weight)
    with pytest.raises(ValueError, match=r"chains: got 4 for encoder outputs of shape \(5, 3, 2\), expected None"):
        sampler_from_encoder(last_layer, potential, x, chains=4, step_size=0.1)
