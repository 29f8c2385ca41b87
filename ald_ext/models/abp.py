"""Alternating back-propagation (Han et al. 2016): Langevin dynamics of each datum's own latent variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..samplers import LangevinDynamics
from .config import ModelConfig
from .gaussian_prior import GaussianPriorModel
from .persistent_chains import PersistentChains


@dataclass(frozen=True)
class ABPConfig(ModelConfig):
    """Settings of alternating back-propagation.

    Args:
        langevin_steps: on z, each time a datum is in a minibatch.
        step_size: η of z ← z - η ∇U + √(2η) ξ; half the square of Han et al.'s s.
        inference_steps: on z of new data, from draws of N(0, I) on.
    """

    langevin_steps: int = 10
    step_size: float = 3e-3
    inference_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("langevin_steps", "inference_steps"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("step_size", self.step_size > 0, "> 0")

    @property
    def num_chains(self) -> int:
        """One a datum. ValueError if the number of data is not given."""
        self._require("num_data", self.num_data is not None, "the number of training data, each of which has its z")
        return self.num_data or 0


class ABP(GaussianPriorModel):
    """A decoder without encoder: z_i of every datum stays, and moves by Langevin steps whenever the datum is seen.

        z_i ← z_i - η ∇_z U(x_i, z_i) + √(2η) ξ,      U = -log p(x | z) - log p(z)      (10 times a minibatch)

    then decoder and prior take a step on the mean of U at the new z (maximum likelihood). The chains are part of the
    checkpoint; their noise is keyed by datum.
    """

    name: ClassVar = "abp"
    config_class: ClassVar[type[ModelConfig]] = ABPConfig
    encoder_outputs: ClassVar = 0
    why_not_captured: ClassVar = "its Langevin steps are counted on the host"
    config: ABPConfig

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.chains = PersistentChains(self.config.num_chains, self.config.latent_dim)

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Mean potential at the latent variables that ``index`` names, after they were moved. ValueError without it."""
        if index is None:
            raise ValueError("ald_ext.models.ABP.loss: index: got None, expected the index of each datum")
        steps, step_size = self.config.langevin_steps, self.config.step_size
        z = self.chains.advance(self.observed_potential, self.observe(x), index, num_steps=steps, step_size=step_size)
        return self.potential(x, z).mean()

    def encode(self, x: Tensor) -> Tensor:
        """Samples of p(z | x) after ``inference_steps`` Langevin steps, whose noise is that of data 0, 1, …"""
        start = torch.zeros(len(x), self.config.latent_dim, device=self.prior.mean.device)
        observed, step_size = self.observe(x), self.config.step_size
        sampler = LangevinDynamics(self.observed_potential, observed, start, step_size=step_size, seed=0)
        for _ in range(self.config.inference_steps):
            sampler.step()
        return sampler.z
