"""The variational autoencoder (Kingma & Welling 2013), the paper's baseline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..dequantization import scale_pixels
from ..distributions import DiagonalGaussian
from .autoencoder import Autoencoder, ModelConfig


class VAE(Autoencoder):
    """Minimizes -ELBO = E_q[-log p(x | z)] + KL(q(z | x) ‖ p(z)), q a diagonal Gaussian, p(z) a learnable one."""

    encoder_outputs = 2

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.prior = DiagonalGaussian(self.config.latent_dim)

    def posterior(self, x: Tensor) -> Normal:
        """q(z | x) for uint8 images (N, C, 32, 32)."""
        mean, log_scale = self.encoder(scale_pixels(x)).chunk(2, dim=1)
        return Normal(mean, log_scale.exp(), validate_args=False)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z | x), (N, d_z)."""
        return self.posterior(x).mean

    def loss(self, x: Tensor) -> Tensor:
        """Mean of -ELBO over uint8 images, with one sample of z a datum."""
        posterior = self.posterior(x)
        noise = torch.randn_like(posterior.mean)
        z = posterior.mean + posterior.stddev * noise
        divergence = kl_divergence(posterior, self.prior.distribution()).sum(-1)
        return (self.negative_log_likelihood(x, z) + divergence).mean()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Decoded draws of the prior."""
        return self.decode(self.prior.sample(count, generator))
