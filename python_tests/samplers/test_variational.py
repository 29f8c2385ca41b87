"""Amortized variational inference: shapes, the negative ELBO, fits whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal

from ald_ext.samplers import GaussianEncoder, LinearGaussianPotential, fit_variational, negative_elbo

DOUBLE = torch.float64

X = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-1.5, 1.0], [0.5, 1.5]], dtype=DOUBLE)


def make_potential() -> LinearGaussianPotential:
    """That of the paper's F.1, with a prior mean."""
    likelihood = torch.tensor([[0.7, 0.6], [0.6, 0.8]], dtype=DOUBLE)
    return LinearGaussianPotential(torch.tensor([0.3, -0.2], dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), likelihood)


def linear_encoder(covariance: str) -> GaussianEncoder:
    """Affine, as the exact posterior's mean is."""
    return GaussianEncoder(nn.Linear(2, GaussianEncoder.num_outputs(2, covariance), dtype=DOUBLE), 2, covariance)


def moments_of(encoder: GaussianEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Means (n, d) and covariances (n, d, d)."""
    posterior = encoder(x)
    if isinstance(posterior, MultivariateNormal):
        return posterior.mean, posterior.covariance_matrix
    return posterior.mean, posterior.variance.diag_embed()


def exact_negative_elbo(encoder: GaussianEncoder, potential: LinearGaussianPotential, x: Tensor) -> Tensor:
    """E_q[U] - H(q) by hand, (n,)."""
    mean, covariance = moments_of(encoder, x)
    _, target = potential.posterior(x)
    trace = (torch.linalg.inv(target) * covariance).sum((1, 2))
    return potential(x, mean) + trace / 2 - torch.linalg.slogdet(covariance).logabsdet / 2 - math.log(2 * math.pi) - 1


def negative_log_evidence(potential: LinearGaussianPotential, x: Tensor) -> Tensor:
    """-log ∫ exp(-U(x, z)) dz, (n,)."""
    mean, covariance = potential.posterior(x)
    return potential(x, mean) - math.log(2 * math.pi) - torch.linalg.slogdet(covariance).logabsdet / 2


@pytest.mark.parametrize(("latent_dim", "diagonal", "full"), [(1, 2, 2), (2, 4, 5), (5, 10, 20)])
def test_num_outputs(latent_dim: int, diagonal: int, full: int) -> None:
    """d means, d deviations, d(d - 1)/2 entries below them."""
    assert GaussianEncoder.num_outputs(latent_dim) == diagonal
    assert GaussianEncoder.num_outputs(latent_dim, "full") == full


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_distributions(covariance: str, latent_dim: int) -> None:
    """Of every output one parameter."""
    outputs = 3 * torch.randn(7, GaussianEncoder.num_outputs(latent_dim, covariance), dtype=DOUBLE)
    posterior = GaussianEncoder(nn.Identity(), latent_dim, covariance)(outputs)
    assert isinstance(posterior, Independent if covariance == "diagonal" else MultivariateNormal)
    assert posterior.batch_shape == (7,)
    assert posterior.event_shape == (latent_dim,)
    assert posterior.rsample((4,)).shape == (4, 7, latent_dim)
    assert posterior.log_prob(posterior.mean).shape == posterior.entropy().shape == (7,)
    assert torch.equal(posterior.mean, outputs[:, :latent_dim])
    deviation = torch.log1p(outputs[:, latent_dim : 2 * latent_dim].exp())
    if covariance == "diagonal":
        torch.testing.assert_close(posterior.stddev, deviation)
        return
    factor = posterior.scale_tril
    torch.testing.assert_close(factor.diagonal(dim1=1, dim2=2), deviation)
    assert (factor.triu(1) == 0).all()
    rows, columns = torch.tril_indices(latent_dim, latent_dim, -1)
    assert torch.equal(factor[:, rows, columns], outputs[:, 2 * latent_dim :])


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_deviations_stay_positive(covariance: str) -> None:
    """softplus of a very negative number is 0 in floating point; an ELBO with it is finite nevertheless."""
    outputs = torch.zeros(1, GaussianEncoder.num_outputs(2, covariance))
    outputs[:, 2:4] = -1000
    posterior = GaussianEncoder(nn.Identity(), 2, covariance)(outputs)
    assert posterior.entropy().isfinite().all()


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_negative_elbo_is_unbiased(covariance: str) -> None:
    """Within 5 Monte Carlo standard errors, and its gradient as well."""
    encoder, potential = linear_encoder(covariance), make_potential()
    estimates = torch.stack([negative_elbo(encoder, potential, X, 4).detach() for _ in range(1000)])
    assert estimates.shape == (1000, len(X))
    deviation = (estimates.mean(0) - exact_negative_elbo(encoder, potential, X)).abs() / estimates.std(0)
    assert (deviation * math.sqrt(1000) < 5).all()

    parameters = list(encoder.parameters())

    def gradient_of(loss: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss.sum(), parameters)])

    gradients = torch.stack([gradient_of(negative_elbo(encoder, potential, X, 4)) for _ in range(1000)])
    exact = gradient_of(exact_negative_elbo(encoder, potential, X))
    assert ((gradients.mean(0) - exact).abs() / gradients.std(0) * math.sqrt(1000) < 5).all()


def test_more_samples_have_less_spread() -> None:
    """Draws are independent: as 1/√samples."""
    encoder, potential = linear_encoder("full"), make_potential()
    one, many = (
        torch.stack([negative_elbo(encoder, potential, X, count).detach() for _ in range(1000)]).var(0)
        for count in (1, 16)
    )
    ratio = one / many
    assert (ratio > 16 / 2).all()
    assert (ratio < 16 * 2).all()


def test_full_covariance_reaches_the_exact_posterior() -> None:
    encoder, potential = linear_encoder("full"), make_potential()
    count = 0

    def on_step() -> None:
        nonlocal count
        count += 1

    losses = fit_variational(encoder, potential, X, num_steps=1500, lr=0.03, num_samples=256, on_step=on_step)
    assert count == len(losses) == 1500
    mean, covariance = potential.posterior(X)
    fitted_mean, fitted_covariance = moments_of(encoder, X)
    torch.testing.assert_close(fitted_mean, mean, rtol=0, atol=0.02)
    torch.testing.assert_close(fitted_covariance, covariance.expand(len(X), 2, 2), rtol=0.05, atol=0)
    gap = exact_negative_elbo(encoder, potential, X) - negative_log_evidence(potential, X)
    assert (gap >= 0).all()
    assert (gap < 1e-3).all()
    begin, end = (sum(part) / len(part) for part in (losses[:50], losses[-50:]))
    assert begin > end + 0.1
    assert abs(end - exact_negative_elbo(encoder, potential, X).mean().item()) < 0.05


def test_diagonal_covariance_reaches_the_mean_field_answer() -> None:
    """1/diag(Σ⁻¹), which is below the marginal variances, and the exact mean."""
    encoder, potential = linear_encoder("diagonal"), make_potential()
    fit_variational(encoder, potential, X, num_steps=1500, lr=0.03, num_samples=256)
    mean, covariance = potential.posterior(X)
    fitted_mean, fitted_covariance = moments_of(encoder, X)
    variance = 1 / torch.linalg.inv(covariance).diagonal()
    assert (variance < 0.7 * covariance.diagonal()).all()
    torch.testing.assert_close(fitted_mean, mean, rtol=0, atol=0.02)
    torch.testing.assert_close(
        fitted_covariance.diagonal(dim1=1, dim2=2), variance.expand(len(X), 2), rtol=0.05, atol=0
    )
    gap = exact_negative_elbo(encoder, potential, X) - negative_log_evidence(potential, X)
    best = (variance.log().sum() - torch.linalg.slogdet(covariance).logabsdet) / -2
    torch.testing.assert_close(gap, best.expand(len(X)), rtol=0, atol=1e-3)


def test_no_steps_change_nothing() -> None:
    encoder = linear_encoder("full")
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    assert fit_variational(encoder, make_potential(), X, num_steps=0) == []
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), before, strict=True))


def test_covariance_is_checked() -> None:
    for make in (lambda: GaussianEncoder(nn.Identity(), 2, "fu11"), lambda: GaussianEncoder.num_outputs(2, "fu11")):
        with pytest.raises(ValueError, match="GaussianEncoder: covariance: got 'fu11', expected 'diagonal' or 'full'"):
            make()
