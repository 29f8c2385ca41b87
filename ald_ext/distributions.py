"""Distributions of the paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from . import ops

__all__ = ["MarginalizedGaussian"]


class MarginalizedGaussian(Distribution):
    """A Gaussian with a given mean, whose precision, one for each datum, is integrated out (paper: Appendix B).

    The density is that of :func:`ald_ext.ops.marginal_gaussian_log_prob`; under the flat and the Jeffreys prior it is
    improper, so there is nothing to sample.

    Args:
        mean: (N, ...), N data with the other dimensions.
        prior: prior of the precision: "flat", "jeffreys" or (a, b) for Gamma(a, b).
        validate_args: see torch.distributions.Distribution.

    Raises:
        ValueError: another prior.
    """

    arg_constraints = {}  # noqa: RUF012 - the interface of torch.distributions
    support = constraints.real

    def __init__(self, mean: Tensor, prior: ops.PrecisionPrior = "flat", validate_args: bool | None = None) -> None:
        ops.prior_shape_and_rate(prior)
        self.loc = mean
        self.prior = prior
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean of the Gaussian, and the mode."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mean of the Gaussian."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), (N, ...) -> (N,)."""
        return ops.marginal_gaussian_log_prob(value, self.loc, self.prior)


class DiagonalGaussian(torch.nn.Module):
    """N(μ, diag σ²) over latent variables, with learnable μ and log σ (paper: Eq. 10 and F.4), initially N(0, I).

    Args:
        dimension: d_z.
        learnable: False to keep N(0, I).
    """

    def __init__(self, dimension: int, learnable: bool = True) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(dimension), requires_grad=learnable)
        self.log_scale = torch.nn.Parameter(torch.zeros(dimension), requires_grad=learnable)

    def distribution(self) -> torch.distributions.Normal:
        """Return the distributions of the coordinates."""
        return torch.distributions.Normal(self.mean, self.log_scale.exp(), validate_args=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(z; μ, diag σ²), (N, d_z) -> (N,)."""
        whitened = (z - self.mean) * torch.exp(-self.log_scale)
        constant = z.shape[-1] * math.log(2 * math.pi) / 2
        return -(whitened.square() / 2 + self.log_scale).sum(-1) - constant

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws, (count, d_z)."""
        device = self.mean.device
        noise = torch.randn(count, self.mean.numel(), generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.log_scale.exp() * noise
