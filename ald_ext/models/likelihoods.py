"""p(x | z) given the decoder's output, on data that were dequantized, and what that output looks like as an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..dequantization import BINS, LangevinDequantizer
from ..reference import compute_dtype

if TYPE_CHECKING:
    from .config import ModelConfig

#: The smallest σ that is learned: at 0 the density has no bound.
SMALLEST_SCALE = 1e-3


class Likelihood(nn.Module, ABC):
    """log p(x | z), where z is seen through the decoder's output.

    Args:
        config: settings of the model, some of which are the likelihood's.
        dequantizer: module that makes real values of pixels.
    """

    #: The name in settings and on the command line.
    name: ClassVar[str]
    #: The settings that this likelihood reads and others ignore, by their names in ModelConfig.
    settings: ClassVar[tuple[str, ...]] = ()
    #: True if the density is one of pixels as they are: neither dequantized, nor of real data.
    discrete: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, dequantizer: nn.Module) -> None:
        super().__init__()
        self.dequantizer = dequantizer

    def observe(self, x: Tensor) -> Tensor:
        """Return the values that the density is of, (N, *shape): dequantized pixels, a draw where that is random."""
        observed: Tensor = self.dequantizer(x)
        return observed

    @abstractmethod
    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        """Return log p(observed | output), two tensors (N, *shape) -> (N,), for values that :meth:`observe` gave."""

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return log p(x | output), two tensors (N, *shape) -> (N,)."""
        return self.log_density(self.observe(x), output)

    def to_unit(self, output: Tensor) -> Tensor:
        """Return the decoder's output as brightness in [0, 1], or as real values where the data are real."""
        unit: Tensor = self.dequantizer.to_unit(output)  # type: ignore[operator]
        return unit

    def draw_unit(self, unit: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images of the same kind as the data from brightness: here the same brightness."""
        return unit

    def error_of_unit(self, x: Tensor, unit: Tensor) -> Tensor:
        """Return the mean squared error of each datum's reconstruction in [0, 1] (or real values), (N,)."""
        return (unit - to_brightness(x)).square().flatten(1).mean(1)

    def reconstruction_error(self, x: Tensor, output: Tensor) -> Tensor:
        """Return RE of each datum, (N,) (paper: Table 2), from the decoder's output."""
        return self.error_of_unit(x, self.to_unit(output))


class MarginalGaussianLikelihood(Likelihood):
    """N(x; output, λ⁻¹ I) with the precision λ, one a datum, integrated out (paper: Appendix B)."""

    name = "marginal-gaussian"
    settings = ("precision_prior",)

    def __init__(self, config: ModelConfig, dequantizer: nn.Module) -> None:
        super().__init__(config, dequantizer)
        self.precision_prior = config.precision_prior

    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        return ops.marginal_gaussian_log_prob(observed, output, self.precision_prior)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        if not isinstance(self.dequantizer, LangevinDequantizer):
            return super().log_prob(x, output)
        h = at_least_float32(self.dequantizer.offsets(x))
        return ops.dequantized_log_prob(x, h, output, self.precision_prior)[1]  # both in one pass


class GaussianLikelihood(Likelihood):
    """N(x; output, σ² I), log p = -‖x - output‖² / 2σ² - d log σ - (d/2) log 2π; σ = exp(log_scale) may be learned."""

    name = "gaussian"
    settings = ("scale", "learned_scale")

    def __init__(self, config: ModelConfig, dequantizer: nn.Module) -> None:
        super().__init__(config, dequantizer)
        log_scale = torch.tensor(math.log(config.scale))
        self.log_scale = nn.Parameter(log_scale, requires_grad=config.learned_scale)

    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        log_scale = self.log_scale.clamp_min(math.log(SMALLEST_SCALE))
        residual = (observed - output).flatten(1)
        dimension = residual.shape[1]
        constant = dimension * math.log(2 * math.pi) / 2
        return -residual.square().sum(1) * torch.exp(-2 * log_scale) / 2 - dimension * log_scale - constant


class BernoulliLikelihood(Likelihood):
    """Bernoulli pixels of probability σ(output), for images of 0 and 255 (binarized MNIST); grey is an expectation."""

    name = "bernoulli"
    discrete = True

    def observe(self, x: Tensor) -> Tensor:
        return to_brightness(x)

    def log_density(self, observed: Tensor, output: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(output, observed, reduction="none")
        return -losses.flatten(1).sum(1)

    def to_unit(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def draw_unit(self, unit: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return pixels of 0 and 1, drawn with the brightness as their probability."""
        return torch.bernoulli(unit, generator=generator)

    def error_of_unit(self, x: Tensor, unit: Tensor) -> Tensor:
        """Return the binary cross-entropy of each image's pixels, in nats, (N,) (paper: Table 2, BMNIST)."""
        losses = F.binary_cross_entropy(unit, to_brightness(x).to(unit), reduction="none")
        return losses.flatten(1).sum(1)

    def reconstruction_error(self, x: Tensor, output: Tensor) -> Tensor:
        return -self.log_prob(x, output)  # from the logits, which is exact where a probability rounds to 0 or 1


#: The likelihoods by their names in settings.
LIKELIHOODS: dict[str, type[Likelihood]] = {
    likelihood.name: likelihood for likelihood in (MarginalGaussianLikelihood, GaussianLikelihood, BernoulliLikelihood)
}


def to_brightness(x: Tensor) -> Tensor:
    """Return uint8 pixels as brightness in [0, 1]; floats are brightness, or real data, already."""
    return x.float() / (BINS - 1) if x.dtype == torch.uint8 else x


def at_least_float32(values: Tensor) -> Tensor:
    """Return 16-bit floats, which autocast gives, as float32, and other floats as they are."""
    return values.to(compute_dtype(values.dtype))
