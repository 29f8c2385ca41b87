"""Autoencoders: LAEs without noise, with a flat or a sparse prior on z (paper: Section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .config import ModelConfig
from .latent_variable_model import LatentVariableModel


@dataclass(frozen=True)
class AEConfig(ModelConfig):
    """Settings of an autoencoder.

    Args:
        sparsity: β of the prior p(z) ∝ exp(-β ‖z‖₁), in nats; 0: flat.
    """

    sparsity: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("sparsity", self.sparsity >= 0, ">= 0")


class AE(LatentVariableModel):
    """Minimizes U(x, f(x)) = -log p(x | z = f(x)) + β ‖f(x)‖₁, the mean over data."""

    name: ClassVar = "ae"
    config_class: ClassVar[type[ModelConfig]] = AEConfig
    has_prior: ClassVar = False
    config: AEConfig

    def log_prior(self, z: Tensor) -> Tensor | float:
        """-β ‖z‖₁."""
        return -self.config.sparsity * z.abs().sum(1) if self.config.sparsity else 0.0

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Mean potential."""
        return self.potential(x).mean()

    def score(self, x: Tensor) -> Tensor:
        """The reconstruction error (paper: Section 8)."""
        return self.reconstruction_error(x)


@dataclass(frozen=True)
class SparseAEConfig(AEConfig):
    """An autoencoder whose prior is sparse from the start."""

    sparsity: float = 1.0


class SparseAE(AE):
    """The sparse autoencoder: MAP where the AE is MLE."""

    name: ClassVar = "sparse-ae"
    config_class: ClassVar[type[ModelConfig]] = SparseAEConfig
