"""Deep latent Gaussian models trained by MCMC that an encoder starts (Hoffman 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..samplers.potential import potential_and_gradient
from ..settings import setting
from .adaptive_langevin import AdaptiveLangevin, LatentLangevinConfig
from .config import ModelConfig
from .vae import VAE


@dataclass(frozen=True)
class DLGMConfig(LatentLangevinConfig):
    """Settings of a DLGM, whose latent variables start at the encoder's samples."""

    langevin_steps: int = setting(5, at_least=1)
    inference_steps: int = setting(20, at_least=1)


class DLGM(VAE):
    """A VAE whose decoder learns from MCMC: z ~ q(z | x), moved by Langevin steps towards p(z | x) (Hoffman 2017).

    The encoder minimizes -ELBO under the current decoder; decoder and prior minimize the mean potential
    U = -log p(x | z) - log p(z) at the final z. Hoffman's kernel is HMC. With few gradients for each minibatch,
    Langevin steps without a test reconstructed better in our runs: a test rejects the descent from the first sample.

    ``diagnostics`` holds the step size h.
    """

    name: ClassVar = "dlgm"
    config_class: ClassVar[type[ModelConfig]] = DLGMConfig
    why_not_captured: ClassVar = "its Langevin steps are counted on the host"
    config: DLGMConfig

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.dynamics = AdaptiveLangevin(self.config.step_size, self.config.target_acceptance)

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean potential at the final z, whose gradient for the encoder is that of -ELBO.

        E_q[U] - H(q) reaches the encoder through z alone, by the gradient of U at z, which leaves out the decoder.
        """
        index = torch.arange(len(x), device=x.device) if index is None else index
        posterior = self.posterior(x)
        z = posterior.mean + posterior.stddev * torch.randn_like(posterior.mean)
        potential, observed, steps = self.observed_potential, self.observe(x), self.config.langevin_steps
        value, gradient = potential_and_gradient(potential, observed, z)
        negative_elbo = ((gradient * z).sum(1) - posterior.stddev.log().sum(1)).mean()  # up to its value
        final = self.dynamics.move(potential, observed, z.detach(), index, steps, evaluated=(value, gradient))
        self.diagnostics = {"step_size": self.dynamics.step_size.clone()}
        return self.potential(x, final).mean() + (negative_elbo - negative_elbo.detach())

    def sample_posterior(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return samples of p(z | x), (N, d_z), those of :meth:`encode`."""
        return self.encode(x, seed=seed)

    def encode(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return samples of p(z | x), ``inference_steps`` Langevin steps (noise keyed by x's values) from q's mean."""
        start = self.posterior(x).mean.detach()
        steps = self.config.inference_steps
        return self.dynamics.sample(self.observed_potential, self.observe(x), start, steps, self.noise_index(x), seed)
