"""Potentials: their values, gradients, checks, and the exact answers of the Gaussian ones."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ald_ext.samplers import (
    GaussianPotential,
    LinearGaussianPotential,
    posterior_potential,
    potential_and_gradient,
    prior_potential,
)

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)


def double_normals(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_value_and_gradient(device: torch.device) -> None:
    x, z = double_normals(5, 3).to(device), double_normals(5, 3).to(device)
    value, gradient = potential_and_gradient(lambda x, z: (x * z**2).sum(1), x, z)
    torch.testing.assert_close(value, (x * z**2).sum(1))
    torch.testing.assert_close(gradient, 2 * x * z)
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_nothing_else_gets_a_gradient() -> None:
    """And it works under no_grad, with parameters and a z that require grad."""
    layer, z = torch.nn.Linear(3, 1), torch.randn(4, 3, requires_grad=True)
    with torch.no_grad():
        value, gradient = potential_and_gradient(lambda _x, z: layer(z)[:, 0], None, z)
    torch.testing.assert_close(gradient, layer.weight.detach().expand(4, 3))
    assert not value.requires_grad
    assert layer.weight.grad is None
    assert z.grad is None


def test_values_that_are_not_finite_come_as_they_are() -> None:
    """And do not touch the gradients of other rows."""
    z = torch.tensor([[-1.0], [0.0], [4.0]])
    value, gradient = potential_and_gradient(lambda _x, z: z.sqrt().sum(1), None, z)
    assert value.isnan().tolist() == [True, False, False]
    assert gradient[2].item() == 0.25


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (lambda _x, z: z.sum(), "potential: got a result of shape (), expected (4,)"),
        (lambda _x, z: z.sum(1, keepdim=True), "potential: got a result of shape (4, 1), expected (4,)"),
        (lambda _x, z: z.detach().sum(1), "potential: got values through which no gradient reaches z"),
        (lambda _x, z: torch.ones(len(z), requires_grad=True), "potential: got values through which no gradient"),
    ],
)
def test_errors_of_the_gradient(potential: object, message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"ald_ext.samplers.potential_and_gradient: {message}")):
        potential_and_gradient(potential, None, torch.randn(4, 2))


@pytest.mark.parametrize(
    "log_prior",
    [
        Normal(0.0, 2.0),
        Normal(torch.zeros(3, dtype=torch.float64), 2.0),
        Independent(Normal(torch.zeros(3, dtype=torch.float64), 2.0), 1),
        lambda z: Normal(0.0, 2.0).log_prob(z).sum(1),
    ],
)
def test_posterior_potential(log_prior: object) -> None:
    """Sums over the dimensions of a datum, whatever the form of the prior."""
    x, z = double_normals(6, 4), double_normals(6, 3)
    weight = double_normals(4, 3)
    potential = posterior_potential(log_prior, lambda x, z: Normal(z @ weight.T, 0.5).log_prob(x).sum(1))
    got = potential(x, z)
    for i in range(6):
        expected = -Normal(0.0, 2.0).log_prob(z[i]).sum() - Normal(weight @ z[i], 0.5).log_prob(x[i]).sum()
        torch.testing.assert_close(got[i], expected)


def test_a_sum_over_data_is_refused() -> None:
    """It would broadcast to a result of the right shape."""
    potential = posterior_potential(Normal(0.0, 1.0), lambda x, z: (x - z).square().sum())
    with pytest.raises(RuntimeError, match=r"ald_ext.samplers.posterior_potential: log_likelihood: got .* \(\)"):
        potential(torch.zeros(4, 2), torch.zeros(4, 2))
    potential = posterior_potential(lambda z: z.sum(), lambda x, z: (x - z).square().sum(1))
    with pytest.raises(RuntimeError, match=r"ald_ext.samplers.posterior_potential: log_prior: got .* \(\)"):
        potential(torch.zeros(4, 2), torch.zeros(4, 2))


def test_prior_potential() -> None:
    z = double_normals(5, 2)
    expected = z.square().sum(1) / 2
    torch.testing.assert_close(prior_potential(energy=lambda z: z.square().sum(1) / 2)(None, z), expected)
    torch.testing.assert_close(prior_potential(lambda z: -z.square().sum(1) / 2)(None, z), expected)
    by_distribution = prior_potential(Normal(0.0, 1.0))(None, z)
    torch.testing.assert_close(by_distribution - by_distribution[0], expected - expected[0])
    for arguments, got in (({}, "neither"), ({"log_prob": Normal(0.0, 1.0), "energy": torch.sum}, "both")):
        with pytest.raises(ValueError, match=f"ald_ext.samplers.prior_potential: log_prob, energy: got {got}"):
            prior_potential(**arguments)
    with pytest.raises(RuntimeError, match=r"ald_ext.samplers.prior_potential: energy: got .* shape \(\)"):
        prior_potential(energy=torch.sum)(None, z)


@pytest.mark.parametrize("by", ["covariance", "precision"])
def test_gaussian_potential(by: str) -> None:
    matrix = COVARIANCE if by == "covariance" else torch.linalg.inv(COVARIANCE)
    potential = GaussianPotential(MEAN, **{by: matrix})
    torch.testing.assert_close(potential.covariance, COVARIANCE)
    torch.testing.assert_close(potential.precision, torch.linalg.inv(COVARIANCE))
    z = double_normals(5, 2)
    expected = MultivariateNormal(MEAN, COVARIANCE).log_prob(MEAN) - MultivariateNormal(MEAN, COVARIANCE).log_prob(z)
    torch.testing.assert_close(potential(None, z), expected)
    assert potential(None, z.float()).dtype == torch.float32


@pytest.mark.parametrize("weight", [None, torch.tensor([[1.0, 0.5], [0.0, -1.0], [2.0, 1.0]], dtype=torch.float64)])
def test_linear_gaussian_potential(weight: Tensor | None) -> None:
    """U differs from -log N(z; posterior) by what does not depend on z: they agree in all differences."""
    outputs = 2 if weight is None else 3
    factor = double_normals(outputs, outputs)
    likelihood_covariance = factor @ factor.T + torch.eye(outputs)
    potential = LinearGaussianPotential(MEAN, COVARIANCE, likelihood_covariance, weight)
    x, z = double_normals(6, outputs), double_normals(6, 2)
    mean, covariance = potential.posterior(x)
    assert mean.shape == (6, 2)
    posterior = MultivariateNormal(mean, covariance)
    torch.testing.assert_close(potential(x, z) - potential(x, mean), posterior.log_prob(mean) - posterior.log_prob(z))
    # The joint density itself, at one datum.
    identity = torch.eye(2, dtype=torch.float64) if weight is None else weight
    joint = MultivariateNormal(MEAN, COVARIANCE).log_prob(z) + MultivariateNormal(
        z @ identity.T, likelihood_covariance
    ).log_prob(x)
    constant = potential(x, z) + joint
    torch.testing.assert_close(constant, constant[:1].expand(6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianPotential(MEAN), "GaussianPotential: covariance, precision: got neither"),
        (
            lambda: GaussianPotential(MEAN, COVARIANCE, precision=COVARIANCE),
            "GaussianPotential: covariance, precision: got both",
        ),
        (lambda: GaussianPotential(MEAN[None], COVARIANCE), "GaussianPotential: mean: got shape (1, 2)"),
        (lambda: GaussianPotential(MEAN, COVARIANCE[:1]), "GaussianPotential: covariance: got shape (1, 2)"),
        (lambda: GaussianPotential(MEAN, -COVARIANCE), "GaussianPotential: covariance: got [[-1.0"),
        (
            lambda: GaussianPotential(MEAN, precision=torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            "GaussianPotential: precision: got [[1.0, 0.5], [0.0, 1.0]], expected a symmetric",
        ),
        (
            lambda: LinearGaussianPotential(MEAN, COVARIANCE, COVARIANCE, torch.ones(2, 3)),
            "LinearGaussianPotential: weight: got shape (2, 3), expected (k, 2)",
        ),
        (
            lambda: LinearGaussianPotential(MEAN, COVARIANCE, COVARIANCE, torch.ones(3, 2)),
            "LinearGaussianPotential: likelihood_covariance: got shape (2, 2), expected (3, 3)",
        ),
        (
            lambda: LinearGaussianPotential(MEAN[None], COVARIANCE, COVARIANCE),
            "LinearGaussianPotential: prior_mean: got shape (1, 2)",
        ),
    ],
)
def test_errors_of_gaussian_potentials(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"ald_ext.samplers.{message}")):
        make()
