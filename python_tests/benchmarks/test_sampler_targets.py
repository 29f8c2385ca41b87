"""The targets of the samplers' benchmark: densities, exact draws and exact moments belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks.samplers.targets import TARGETS

DRAWS = 40_000
EXACT = [name for name, target in TARGETS.items() if target.draw is not None]


def points(dimension: int) -> torch.Tensor:
    return torch.randn(6, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def within_errors(values: np.ndarray, expected: np.ndarray) -> None:
    """The mean over independent draws, (draws, ...), is that expected within 5 standard errors."""
    error = values.std(0) / len(values) ** 0.5
    assert (np.abs(values.mean(0) - expected) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", TARGETS)
def test_batched_densities_are_those_of_one(name: str) -> None:
    target = TARGETS[name]
    z = points(target.dimension)
    values = target.log_density(z)
    assert values.shape == (6,)
    torch.testing.assert_close(values, torch.stack([target.log_density(row) for row in z]))
    torch.testing.assert_close(target.log_density(z.view(2, 3, -1)), values.view(2, 3))


@pytest.mark.parametrize("name", TARGETS)
def test_densities_in_jax_are_the_same(name: str) -> None:
    jax = pytest.importorskip("jax")
    from benchmarks.samplers.jax_targets import log_density

    z = points(TARGETS[name].dimension).requires_grad_()
    values = TARGETS[name].log_density(z)
    (gradients,) = torch.autograd.grad(values.sum(), z)
    with jax.enable_x64(True):
        found = jax.vmap(jax.value_and_grad(log_density(name)))(jax.numpy.asarray(z.detach().numpy()))
    np.testing.assert_allclose(found[0], values.detach(), rtol=1e-10)
    np.testing.assert_allclose(found[1], gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", EXACT)
def test_exact_draws_are_of_the_density(name: str) -> None:
    """E[f_i(z_i) ∂_i log p] = -E[f_i'(z_i)] and E[∂_i log p] = 0, with f = tanh, which has every moment."""
    target = TARGETS[name]
    assert target.draw is not None
    z = torch.as_tensor(target.draw(np.random.default_rng(1), DRAWS)).requires_grad_()
    (score,) = torch.autograd.grad(target.log_density(z).sum(), z)
    f = torch.tanh(z.detach())
    within_errors((f * score + 1 - f.square()).numpy(), np.zeros(target.dimension))
    # Across coordinates too: E[f(z_i) ∂_j log p] = 0 where i ≠ j.
    within_errors((f.roll(1, -1) * score).numpy(), np.zeros(target.dimension))


@pytest.mark.parametrize("name", EXACT)
def test_moments_are_those_of_exact_draws(name: str) -> None:
    target, moments = TARGETS[name], TARGETS[name].moments()
    assert target.draw is not None
    values = target.quantities(target.draw(np.random.default_rng(2), DRAWS))
    within_errors(values, moments.mean)
    within_errors((values - moments.mean) ** 2, moments.sd**2)
