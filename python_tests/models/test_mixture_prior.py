"""The prior that is refitted to a model: what it fits, what it draws, and what models make of it."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from ald_ext.models import AE, CLAE, DLGM, LAE, VAE, MixturePrior

pytest.importorskip("sklearn")

WEIGHTS = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([[-4.0, 1.0], [3.0, 0.0]])
SCALE_TRILS = torch.tensor([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [-0.4, 1.0]]])
MIXTURE = MixturePrior(WEIGHTS, MEANS, SCALE_TRILS)
COUNT = 20_000
SIZES = {"shape": (1, 2, 2), "network": "mlp", "hidden_units": 4, "latent_dim": 2}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(count: int = 40) -> Tensor:
    return torch.randint(0, 256, (count, 1, 2, 2), dtype=torch.uint8, generator=generator())


def test_draws_have_the_moments_of_the_mixture() -> None:
    """Within five standard errors, those of products from the draws themselves; one after another in any order."""
    draws = MIXTURE.sample(COUNT, generator())
    covariances = SCALE_TRILS @ SCALE_TRILS.mT
    exact = torch.einsum("k,kij->ij", WEIGHTS, covariances + MEANS[:, :, None] * MEANS[:, None, :])
    products = draws[:, :, None] * draws[:, None, :]
    for values, mean in ((draws, WEIGHTS @ MEANS), (products, exact)):
        assert ((values.mean(0) - mean).abs() < 5 * values.std(0) / COUNT**0.5).all()
    left = (draws[:, 0] < 0).double()
    assert abs(left[:100].mean() - 0.3) < 5 * (0.3 * 0.7 / 100) ** 0.5  # not sorted by component
    assert torch.equal(MIXTURE.sample(COUNT, generator()), draws)


def test_a_mixture_is_found_again() -> None:
    """Far apart components, so that weights and means are those of the draws on either side."""
    draws = MIXTURE.sample(COUNT, generator())
    fitted = MixturePrior.fit(draws, 2, ridge=0.0)
    order = fitted.means[:, 0].argsort()
    for side, place in ((draws[draws[:, 0] < -0.7], order[0]), (draws[draws[:, 0] >= -0.7], order[1])):
        weight = len(side) / COUNT
        assert abs(fitted.weights[place] - weight) < 5 * (weight * (1 - weight) / COUNT) ** 0.5
        assert ((fitted.means[place] - side.mean(0)).abs() < 5 * side.std(0) / len(side) ** 0.5).all()
    found, exact = (scale_trils @ scale_trils.mT for scale_trils in (fitted.scale_trils[order], SCALE_TRILS))
    variances = exact.diagonal(dim1=1, dim2=2)
    squares = variances[:, :, None] * variances[:, None, :] + exact.square()  # of a Gaussian's fourth moments
    assert ((found - exact).abs() < 5 * (squares / (COUNT * WEIGHTS)[:, None, None]).sqrt()).all()


def test_one_component_is_the_mean_and_covariance_and_the_ridge() -> None:
    z = torch.randn(50, 3, generator=generator())
    fitted = MixturePrior.fit(z, 1, ridge=0.5)
    ridge = 0.5 * z.var(0, correction=0).mean() * torch.eye(3)
    torch.testing.assert_close(fitted.means, z.mean(0)[None])
    torch.testing.assert_close(fitted.scale_trils @ fitted.scale_trils.mT, (torch.cov(z.T, correction=0) + ridge)[None])
    assert len(MixturePrior.fit(z, 100).weights) == 12  # four data for each
    assert MixturePrior.fit(torch.ones(9, 2), 3).sample(5, generator()).allclose(torch.ones(5, 2), atol=1e-4)


def test_models_draw_from_a_refitted_prior_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model, x = AE(**SIZES), images(60)
    with pytest.raises(ValueError, match="ae has no prior"):
        model.sample(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prior = model.refit_prior(x, components=1)
    torch.testing.assert_close(prior.means, model.encode(x).detach().mean(0)[None])
    drawn = model.sample(7, generator(), prior=prior)
    torch.testing.assert_close(drawn, model.decode(prior.sample(7, generator())).detach())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not drawn.requires_grad


def test_posterior_samples_are_those_that_a_model_infers() -> None:
    """A VAE's have its standard deviation and belong to the datum; an LAE's and a DLGM's are the encoder's."""
    torch.manual_seed(0)
    x, model = images(5), VAE(**SIZES)
    posterior = model.posterior(x)
    standard = torch.stack(
        [(model.sample_posterior(x, seed=s) - posterior.mean) / posterior.stddev for s in range(400)]
    )
    assert standard.mean().abs() < 5 / standard.numel() ** 0.5
    assert abs(standard.var() - 1) < 5 * (2 / standard.numel()) ** 0.5
    torch.testing.assert_close(model.sample_posterior(x)[3:], model.sample_posterior(x[3:]))
    for other in (LAE(**SIZES), DLGM(**SIZES)):
        torch.testing.assert_close(other.sample_posterior(x), other.encode(x))
    moved = DLGM(**SIZES)
    assert not torch.equal(moved.sample_posterior(x, seed=1), moved.sample_posterior(x))


@pytest.mark.parametrize(
    ("z", "components", "message"),
    [
        (torch.zeros(4, 2), 0, "components: got 0, expected >= 1"),
        (torch.zeros(1, 2), 1, "z: got (1, 2), expected (n, d_z), two data at least"),
        (torch.zeros(4, 2, dtype=torch.int64), 1, "z: got int64, expected floating-point numbers"),
        (torch.full((4, 2), torch.nan), 1, "z: got values that are not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(z: Tensor, components: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"MixturePrior: {message}")):
        MixturePrior.fit(z, components)


def test_spectral_normalization_bounds_the_slope_of_the_energy() -> None:
    """Each layer has a largest singular value of 1 after some steps, so no slope is above 1."""
    torch.manual_seed(0)
    model = CLAE(**SIZES, num_data=8, spectral_normalization=True, energy_smoothness=0.0)
    with torch.no_grad():
        for weight in (layer.parametrizations.weight.original for layer in list(model.energy_network)[::2]):
            weight.mul_(30)
    for _ in range(50):
        model.loss(images(8), torch.arange(8))
    for layer in list(model.energy_network)[::2]:
        torch.testing.assert_close(torch.linalg.matrix_norm(layer.weight, 2), torch.tensor(1.0), rtol=1e-3, atol=0)
    assert 0 < model.steepness(torch.randn(100, 2, generator=generator())) <= 1.001
    model.loss(images(8), torch.arange(8)).backward()
    assert all(parameter.grad is not None for parameter in model.energy_network.parameters())
