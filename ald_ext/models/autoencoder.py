"""What all models share: networks, data space, reconstruction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..dequantization import LangevinDequantizer, PixelScaling, UniformDequantizer, scale_pixels
from .networks import Decoder, Encoder, pixelwise_network

DEQUANTIZATIONS = ("none", "uniform", "langevin")


@dataclass(frozen=True)
class ModelConfig:
    """The size and form of a model.

    Args:
        channels: of the images.
        latent_dim: d_z.
        width: channels of the hidden layers.
        precision_prior: of the marginalized Gaussian: "flat", "jeffreys" or (a, b).
        dequantization: "none", "uniform" or "langevin".
    """

    channels: int = 1
    latent_dim: int = 32
    width: int = 16
    precision_prior: ops.PrecisionPrior = "flat"
    dequantization: str = "none"

    def __post_init__(self) -> None:
        ops.prior_shape_and_rate(self.precision_prior)
        for name in ("channels", "latent_dim", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"ald_ext.models.ModelConfig: {name}: got {getattr(self, name)}, expected >= 1")
        if self.dequantization not in DEQUANTIZATIONS:
            raise ValueError(
                f"ald_ext.models.ModelConfig: dequantization: got {self.dequantization!r}, "
                f"expected one of {', '.join(DEQUANTIZATIONS)}"
            )


def make_dequantizer(config: ModelConfig) -> PixelScaling | UniformDequantizer | LangevinDequantizer:
    """The dequantizer of a model."""
    if config.dequantization == "uniform":
        return UniformDequantizer()
    if config.dequantization == "langevin":
        return LangevinDequantizer(pixelwise_network(config.channels, config.width))
    return PixelScaling()


class Autoencoder(nn.Module, ABC):
    """Encoder, decoder and likelihood. A subclass states its potential as :meth:`loss`.

    Args:
        config: size and form; the keywords of :class:`ModelConfig` may be given instead.
    """

    #: Encoder outputs for each latent variable.
    encoder_outputs = 1
    #: True if the parameters are sampled by PSGLD, False if they are optimized by Adam.
    langevin = False

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config or ModelConfig(**options)
        outputs = self.encoder_outputs * self.config.latent_dim
        self.encoder = Encoder(self.config.channels, outputs, self.config.width)
        self.decoder = Decoder(self.config.latent_dim, self.config.channels, self.config.width)
        self.dequantizer = make_dequantizer(self.config)

    def encode(self, x: Tensor) -> Tensor:
        """uint8 images (N, C, 32, 32) -> latent variables (N, d_z)."""
        z: Tensor = self.encoder(scale_pixels(x))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Latent variables (N, d_z) -> brightness in [0, 1], (N, C, 32, 32)."""
        return self.dequantizer.to_unit(self.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """uint8 images -> brightness in [0, 1] of their reconstructions."""
        return self.decode(self.encode(x))

    def negative_log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x | z), (N,), with the precision marginalized (paper: Appendix B)."""
        return -ops.marginal_gaussian_log_prob(self.dequantizer(x), self.decoder(z), self.config.precision_prior)

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """The mean over a minibatch of uint8 images of what training lowers."""

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Brightness in [0, 1] of ``count`` new images; None for a model without a prior."""
        return None
