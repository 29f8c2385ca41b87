"""Alternating back-propagation (Han et al. 2016): Langevin dynamics of each datum's own latent variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .adaptive_langevin import AdaptiveLangevin, LatentLangevinConfig, PersistentChains
from .config import ModelConfig
from .latent_variable_model import GaussianPriorModel


@dataclass(frozen=True)
class ABPConfig(LatentLangevinConfig):
    """Settings of alternating back-propagation."""

    @property
    def num_chains(self) -> int:
        """The number of data, each of which has a chain. ValueError if it is not given."""
        self._require("num_data", self.num_data is not None, "the number of training data, each of which has its z")
        return self.num_data or 0


class ABP(GaussianPriorModel):
    """A decoder without encoder: each datum keeps a z_i, which moves by Langevin steps whenever the datum is seen.

        z_i ← z_i - h ∇_z U(x_i, z_i) + √(2h) ξ,      U = -log p(x | z) - log p(z)      (10 times for each minibatch)

    Then decoder and prior take a step on the mean of U at the new z (maximum likelihood). The chains are part of the
    checkpoint; their noise is keyed by datum. New data start at the prior's mean.

    ``diagnostics`` holds the step size h.
    """

    name: ClassVar = "abp"
    config_class: ClassVar[type[ModelConfig]] = ABPConfig
    encoder_outputs: ClassVar = 0
    why_not_captured: ClassVar = "its Langevin steps are counted on the host"
    config: ABPConfig

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        dynamics = AdaptiveLangevin(self.config.step_size, self.config.target_acceptance)
        self.chains = PersistentChains(self.config.num_chains, self.config.latent_dim, dynamics)

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean potential at the moved latent variables of the data ``index``. ValueError without it."""
        if index is None:
            raise ValueError("ald_ext.models.ABP.loss: index: got None, expected the index of each datum")
        z = self.chains.advance(self.observed_potential, self.observe(x), index, self.config.langevin_steps)
        self.diagnostics = {"step_size": self.chains.dynamics.step_size.clone()}
        return self.potential(x, z).mean()

    def encode(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return samples of p(z | x) after ``inference_steps`` Langevin steps, whose noise x's values key."""
        start = self.prior.mean.detach().expand(len(x), -1)
        arguments = (self.observed_potential, self.observe(x), start, self.config.inference_steps)
        return self.chains.dynamics.sample(*arguments, self.noise_index(x), seed)

    def sample_posterior(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return samples of p(z | x), (N, d_z), those of :meth:`encode`."""
        return self.encode(x, seed=seed)

    @torch.no_grad()
    def score(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return the potential at one sample of p(z | x), (N,); the seed is that of its noise."""
        return self.potential(x, self.encode(x, seed=seed))
