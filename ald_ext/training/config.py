"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..models import MODELS, ModelConfig


@dataclass(frozen=True)
class TrainingConfig:
    """What ``ald-ext train`` runs; written beside its results as config.json.

    Args:
        model: "lae", "ae" or "vae".
        dataset: "mnist5k" (embedded) or "mnist".
        data_root: folder of the data set's files; mnist5k needs none.
        epochs: passes over the training images.
        batch_size: images a minibatch.
        lr: step size of PSGLD (LAE) or Adam (AE, VAE).
        temperature: T of PSGLD; 1 samples the posterior, 0 optimizes.
        alpha, eps: of PSGLD's preconditioner.
        seed: of the initial weights, the order of the data, and all noise.
        device: a torch device.
        network: size and form of the model.

    Raises:
        ValueError: a value out of its range.
    """

    model: str = "lae"
    dataset: str = "mnist5k"
    data_root: str | None = None
    epochs: int = 30
    batch_size: int = 50
    lr: float = 1e-3
    temperature: float = 1.0
    alpha: float = 0.99
    eps: float = 0.1
    seed: int = 0
    device: str = "cpu"
    network: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        self._require("model", self.model in MODELS, f"one of {', '.join(MODELS)}")
        self._require("epochs", self.epochs >= 1, ">= 1")
        self._require("batch_size", self.batch_size >= 1, ">= 1")
        self._require("lr", math.isfinite(self.lr) and self.lr > 0, "a finite number > 0")
        self._require("seed", 0 <= self.seed < 2**63, "0 <= seed < 2**63")

    def _require(self, name: str, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            raise ValueError(f"TrainingConfig: {name}: got {getattr(self, name)!r}, expected {expected}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and checkpoints hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON."""
        network = dict(values["network"])
        prior = network["precision_prior"]
        network["precision_prior"] = prior if isinstance(prior, str) else tuple(prior)
        return cls(**{**values, "network": ModelConfig(**network)})

    def save(self, path: Path) -> None:
        """Writes JSON."""
        write_atomically(path, lambda file: file.write_text(json.dumps(self.to_dict(), indent=2) + "\n"))
