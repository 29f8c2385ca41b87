"""Deep latent Gaussian models trained by MCMC that an encoder starts (Hoffman 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops import draw_seed
from ..samplers import MALA
from ..samplers.potential import potential_and_gradient
from .config import ModelConfig
from .vae import VAE

#: How fast log of the step size follows the acceptance.
ADAPTATION_RATE = 0.05


@dataclass(frozen=True)
class DLGMConfig(ModelConfig):
    """Settings of a DLGM.

    Args:
        mcmc_steps: of MALA a minibatch, from a sample of q(z | x) on.
        step_size: of MALA, where its adaptation begins.
        target_acceptance: that the step size, one for all data, adapts to.
    """

    mcmc_steps: int = 5
    step_size: float = 1e-3
    target_acceptance: float = 0.574

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("mcmc_steps", self.mcmc_steps >= 1, ">= 1")
        self._require("step_size", self.step_size > 0, "> 0")
        self._require("target_acceptance", 0 < self.target_acceptance < 1, "a number between 0 and 1")


class DLGM(VAE):
    """A VAE whose decoder learns from MCMC: z ~ q(z | x), moved by MALA steps towards p(z | x) (Hoffman 2017).

    The encoder minimizes -ELBO under the decoder of the moment; decoder and prior minimize the mean potential
    U = -log p(x | z) - log p(z) at the final z.

    ``diagnostics``: the acceptance rate and the step size.
    """

    name: ClassVar = "dlgm"
    config_class: ClassVar[type[ModelConfig]] = DLGMConfig
    why_not_captured: ClassVar = "its MCMC steps are counted on the host"
    config: DLGMConfig
    log_step_size: Tensor
    seed: Tensor
    step_count: Tensor

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.register_buffer("log_step_size", torch.tensor(self.config.step_size).log())
        self.register_buffer("seed", torch.tensor(draw_seed()))
        self.register_buffer("step_count", torch.tensor(0))

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """The mean potential at the final z; its gradient for the encoder is that of -ELBO.

        E_q[U] - H(q) reaches the encoder by z alone: by the gradient of U at z, which leaves the decoder out.
        """
        posterior = self.posterior(x)
        z = posterior.mean + posterior.stddev * torch.randn_like(posterior.mean)
        observed = self.observe(x)
        _, gradient = potential_and_gradient(self.observed_potential, observed, z)
        negative_elbo = ((gradient * z).sum(1) - posterior.stddev.log().sum(1)).mean()  # up to its value
        final = self._moved(observed, z.detach(), index)
        return self.potential(x, final).mean() + (negative_elbo - negative_elbo.detach())

    def _moved(self, observed: Tensor, z: Tensor, index: Tensor | None) -> Tensor:
        """z after the MCMC steps; adapts their size."""
        settings = self.config
        step_size = float(self.log_step_size.exp())
        sampler = MALA(self.observed_potential, observed, z, step_size=step_size, seed=int(self.seed), data=index)
        sampler.start_after(int(self.step_count))
        for _ in range(settings.mcmc_steps):
            sampler.step()
        acceptance = sampler.acceptance_rate.mean()
        self.log_step_size += ADAPTATION_RATE * (acceptance - settings.target_acceptance)
        self.step_count += settings.mcmc_steps
        self.diagnostics = {"acceptance": acceptance, "step_size": self.log_step_size.exp()}
        return sampler.z
