"""p(x | z) given the decoder's output, on data that were dequantized, and what that output looks like as an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..dequantization import BINS, LangevinDequantizer, PixelScaling, RealValues, UniformDequantizer
from ..reference import compute_dtype
from .config import ModelConfig
from .networks import make_dequantization_network

#: Holds the learned σ away from 0, where the density has no bound.
SMALLEST_SCALE = 1e-3


class Likelihood(nn.Module, ABC):
    """log p(x | z), where z is seen through the decoder's output."""

    @abstractmethod
    def observe(self, x: Tensor) -> Tensor:
        """The values that the density is of, (N, *shape): dequantized pixels. Where that is random, a draw."""

    @abstractmethod
    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        """log p(observed | output), two tensors (N, *shape) -> (N,). Dynamics of z keep what they observed."""

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """log p(x | output), two tensors (N, *shape) -> (N,)."""
        return self.log_density(self.observe(x), output)

    @abstractmethod
    def to_unit(self, output: Tensor) -> Tensor:
        """The decoder's output as brightness in [0, 1]; of real data, as values of theirs."""

    def reconstruction_error(self, x: Tensor, output: Tensor) -> Tensor:
        """RE of each datum, (N,) (paper: Table 2): the mean squared error on pixels in [0, 1], or on real values."""
        return (self.to_unit(output) - to_brightness(x)).square().flatten(1).mean(1)


class GaussianLikelihood(Likelihood):
    """Base of the likelihoods on continuous values, which a dequantizer makes of pixels."""

    def __init__(self, dequantizer: nn.Module) -> None:
        super().__init__()
        self.dequantizer = dequantizer

    def observe(self, x: Tensor) -> Tensor:
        observed: Tensor = self.dequantizer(x)
        return observed

    def to_unit(self, output: Tensor) -> Tensor:
        unit: Tensor = self.dequantizer.to_unit(output)  # type: ignore[operator]
        return unit


class MarginalGaussianLikelihood(GaussianLikelihood):
    """N(x; output, λ⁻¹ I) with the precision λ, one a datum, integrated out (paper: Appendix B).

    Args:
        dequantizer: from pixels to real values.
        precision_prior: "flat", "jeffreys" or (a, b).
    """

    def __init__(self, dequantizer: nn.Module, precision_prior: ops.PrecisionPrior) -> None:
        super().__init__(dequantizer)
        self.precision_prior = precision_prior

    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        return ops.marginal_gaussian_log_prob(observed, output, self.precision_prior)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        if not isinstance(self.dequantizer, LangevinDequantizer):
            return super().log_prob(x, output)
        h = at_least_float32(self.dequantizer.offsets(x))
        return ops.dequantized_log_prob(x, h, output, self.precision_prior)[1]  # both in one pass


class FixedFormGaussianLikelihood(GaussianLikelihood):
    """N(x; output, σ² I), log p = -‖x - output‖² / 2σ² - d log σ - (d/2) log 2π.

    Args:
        dequantizer: from pixels to real values.
        scale: σ.
        learned: σ is a parameter, exp(log_scale).
    """

    def __init__(self, dequantizer: nn.Module, scale: float, learned: bool) -> None:
        super().__init__(dequantizer)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        log_scale = self.log_scale.clamp_min(math.log(SMALLEST_SCALE))
        residual = (observed - output).flatten(1)
        dimension = residual.shape[1]
        constant = dimension * math.log(2 * math.pi) / 2
        return -residual.square().sum(1) * torch.exp(-2 * log_scale) / 2 - dimension * log_scale - constant


class BernoulliLikelihood(Likelihood):
    """Bernoulli pixels of probability σ(output), for images of 0 and 255 (binarized MNIST); grey is an expectation."""

    def observe(self, x: Tensor) -> Tensor:
        return to_brightness(x)

    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(output, observed, reduction="none")
        return -losses.flatten(1).sum(1)

    def to_unit(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def reconstruction_error(self, x: Tensor, output: Tensor) -> Tensor:
        """The binary cross-entropy of each image, in nats, (N,) (paper: Table 2, BMNIST)."""
        return -self.log_prob(x, output)


def to_brightness(x: Tensor) -> Tensor:
    """uint8 to [0, 1]; floats are brightness, or real data, already."""
    return x.float() / (BINS - 1) if x.dtype == torch.uint8 else x


def at_least_float32(values: Tensor) -> Tensor:
    """What autocast computed in 16 bits, for what must not be."""
    return values.to(compute_dtype(values.dtype))


def make_dequantizer(config: ModelConfig) -> nn.Module:
    """The dequantizer of a model."""
    if config.data == "real":
        return RealValues()
    if config.dequantization == "uniform":
        return UniformDequantizer()
    if config.dequantization == "langevin":
        return LangevinDequantizer(make_dequantization_network(config))
    return PixelScaling()


def make_likelihood(config: ModelConfig) -> Likelihood:
    """The likelihood of a model."""
    if config.likelihood == "bernoulli":
        return BernoulliLikelihood()
    dequantizer = make_dequantizer(config)
    if config.likelihood == "gaussian":
        return FixedFormGaussianLikelihood(dequantizer, config.scale, config.learned_scale)
    return MarginalGaussianLikelihood(dequantizer, config.precision_prior)
