"""The Langevin autoencoder (paper: Section 4, Algorithm 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..distributions import DiagonalGaussian
from .autoencoder import Autoencoder, ModelConfig


class LAE(Autoencoder):
    """Encoder, decoder and prior sampled together by Langevin dynamics; each step gives new posterior samples z = f(x).

    The potential of a datum is U = -log p(x | z) - log p(z) at z = f(x) (Eqs. 8-10; a flat prior on the parameters),
    with a learnable diagonal Gaussian p(z). Train the mean of U with :class:`ald_ext.PSGLD`, ``num_data`` = number of
    images (Eqs. 6, 7, 9): the noise makes the difference to an autoencoder.
    """

    langevin = True

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.prior = DiagonalGaussian(self.config.latent_dim)

    def potential(self, x: Tensor) -> Tensor:
        """U of every datum, (N, C, 32, 32) uint8 -> (N,)."""
        z = self.encode(x)
        return self.negative_log_likelihood(x, z) - self.prior.log_prob(z)

    def loss(self, x: Tensor) -> Tensor:
        """Mean potential over uint8 images."""
        return self.potential(x).mean()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Decoded draws of the prior."""
        return self.decode(self.prior.sample(count, generator))
