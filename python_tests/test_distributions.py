"""MarginalizedGaussian and DiagonalGaussian."""

from __future__ import annotations

import pytest
import torch

import ald_ext
from ald_ext.distributions import DiagonalGaussian


@pytest.mark.parametrize("prior", ["flat", "jeffreys", (2.0, 0.5)])
def test_marginal_gaussian_is_the_op(prior):
    torch.manual_seed(0)
    x, mean = torch.randn(2, 5, 3, 4)
    distribution = ald_ext.MarginalizedGaussian(mean, prior)
    assert distribution.batch_shape == (5,)
    assert distribution.event_shape == (3, 4)
    torch.testing.assert_close(distribution.log_prob(x), ald_ext.ops.marginal_gaussian_log_prob(x, mean, prior))
    assert distribution.mean is mean


def test_marginal_gaussian_is_largest_at_its_mode():
    mean = torch.zeros(1, 8)
    distribution = ald_ext.MarginalizedGaussian(mean, (2.0, 0.5))
    assert distribution.log_prob(distribution.mode) > distribution.log_prob(mean + 0.1)


def test_marginal_gaussian_refuses_another_prior():
    with pytest.raises(ValueError, match="prior: got 'cauchy', expected 'flat'"):
        ald_ext.MarginalizedGaussian(torch.zeros(2, 2), "cauchy")


def test_diagonal_gaussian_starts_standard_and_scores_by_the_normal_density():
    prior = DiagonalGaussian(3)
    z = torch.tensor([[0.5, -1.0, 2.0]])
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_diagonal_gaussian_samples_its_moments():
    prior = DiagonalGaussian(2)
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([1.0, -2.0]))
        prior.log_scale.copy_(torch.tensor([0.5, 2.0]).log())
    count = 20_000
    draws = prior.sample(count, torch.Generator().manual_seed(0)).detach()
    mean_error = (draws.mean(0) - prior.mean.detach()).abs() / (prior.log_scale.exp().detach() / count**0.5)
    assert (mean_error < 5).all()
    # The standard error of a variance of normals is sqrt(2 / n) times it.
    variance_error = (draws.var(0) / prior.log_scale.exp().detach() ** 2 - 1).abs() / (2 / count) ** 0.5
    assert (variance_error < 5).all()
