"""Autoencoders: LAEs without noise, with a flat or a sparse prior on z (paper: Section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import setting
from .config import ModelConfig
from .latent_variable_model import LatentVariableModel


@dataclass(frozen=True)
class AEConfig(ModelConfig):
    """Settings of an autoencoder.

    Args:
        sparsity: β of the prior p(z) ∝ exp(-β ‖z‖₁), in nats; 0 is a flat prior.
    """

    sparsity: float = setting(0.0, at_least=0)


class AE(LatentVariableModel):
    """An autoencoder, which minimizes the mean over data of U(x, f(x)) = -log p(x | z = f(x)) + β ‖f(x)‖₁."""

    name: ClassVar = "ae"
    config_class: ClassVar[type[ModelConfig]] = AEConfig
    has_prior: ClassVar = False
    config: AEConfig

    def log_prior(self, z: Tensor) -> Tensor | float:
        """Return -β ‖z‖₁, (N, d_z) -> (N,)."""
        return -self.config.sparsity * z.abs().sum(1) if self.config.sparsity else 0.0

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean potential of the minibatch at z = f(x)."""
        return self.potential(x).mean()

    @torch.no_grad()
    def score(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return the reconstruction error of each datum, (N,) (paper: Section 8)."""
        return self.reconstruction_error(x)


@dataclass(frozen=True)
class SparseAEConfig(AEConfig):
    """An autoencoder whose prior is sparse from the start."""

    sparsity: float = setting(1.0, at_least=0)


class SparseAE(AE):
    """The sparse autoencoder, a MAP estimate of what the AE estimates by maximum likelihood."""

    name: ClassVar = "sparse-ae"
    config_class: ClassVar[type[ModelConfig]] = SparseAEConfig
