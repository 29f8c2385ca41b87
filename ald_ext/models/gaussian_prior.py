"""Models with a diagonal Gaussian prior on z."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..distributions import DiagonalGaussian
from .config import ModelConfig
from .latent_variable_model import LatentVariableModel


class GaussianPriorModel(LatentVariableModel):
    """A model with the prior p(z) = N(μ_z, diag σ_z²), whose parameters are learned (paper: F.4)."""

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.prior = DiagonalGaussian(self.config.latent_dim)

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log N(z; μ_z, diag σ_z²), (N, d_z) -> (N,)."""
        return self.prior.log_prob(z)

    def sample_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of the prior, (count, d_z)."""
        return self.prior.sample(count, generator)
