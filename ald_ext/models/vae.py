"""The variational autoencoder (Kingma & Welling 2013), the paper's baseline."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from .. import ops
from .latent_variable_model import GaussianPriorModel
from .likelihoods import at_least_float32


class VAE(GaussianPriorModel):
    """A VAE, which minimizes -ELBO = E_q[-log p(x | z)] + KL(q(z | x) ‖ p(z)), q and p(z) being diagonal Gaussians."""

    name: ClassVar = "vae"
    encoder_outputs: ClassVar = 2

    def posterior(self, x: Tensor) -> Normal:
        """Return q(z | x), a Gaussian with independent coordinates (N, d_z)."""
        mean, log_scale = at_least_float32(self.encoder(self.network_input(x))).chunk(2, dim=1)
        return Normal(mean, log_scale.exp(), validate_args=False)

    def encode(self, x: Tensor) -> Tensor:
        """Return the mean of q(z | x), (N, d_z)."""
        return self.posterior(x).mean

    def sample_posterior(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return a sample of q(z | x), (N, d_z), whose noise the values of the datum and the seed key."""
        posterior = self.posterior(x)
        noise = ops.latent_normal(self.noise_index(x), self.config.latent_dim, seed=seed, step=1)
        return posterior.mean + posterior.stddev * noise

    def negative_elbo(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return -ELBO of each datum, (N,), estimated with one sample of z, made of N(0, I) noise (N, d_z)."""
        posterior = self.posterior(x)
        z = posterior.mean + posterior.stddev * (torch.randn_like(posterior.mean) if noise is None else noise)
        divergence = kl_divergence(posterior, self.prior.distribution()).sum(-1)
        return self.negative_log_likelihood(x, z) + divergence

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean of -ELBO over the minibatch."""
        return self.negative_elbo(x).mean()

    @torch.no_grad()
    def score(self, x: Tensor, num_samples: int = 8, *, seed: int = 0) -> Tensor:
        """Return -ELBO of each datum, (N,), averaged over ``num_samples`` samples of z (paper: Section 8).

        Their noise is keyed by the seed and the values of the datum, so that its score depends on nothing else.
        """
        index, dimension = self.noise_index(x), self.config.latent_dim
        noise = [ops.latent_normal(index, dimension, seed=seed, step=1 + sample) for sample in range(num_samples)]
        return torch.stack([self.negative_elbo(x, of_sample) for of_sample in noise], dim=1).mean(1)
