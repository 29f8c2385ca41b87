"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..models import MODELS, ModelConfig, config_from_dict, find_model_class
from ..models.config import check_settings

SCHEDULES = ("constant", "cosine", "polynomial")

#: Learning rate where none is given, of PSGLD and of Adam.
DEFAULT_LR = 4e-3

#: Epochs where none are given; fewer of models whose steps take many gradients.
DEFAULT_EPOCHS, FEWER_EPOCHS = 80, {"abp": 20, "dlgm": 30}

#: What may change when a run is resumed. The rest would make it another run.
RESUMABLE = {
    "epochs",
    "device",
    "data_root",
    "download",
    "evaluate_every",
    "pictures_every",
    "checkpoint_every",
    "tensorboard",
    "capture",
    "threads",
}


@dataclass(frozen=True)
class TrainingConfig:
    """What ``ald-ext train`` runs; written beside its results as config.json.

    Args:
        model: a name of :data:`ald_ext.models.MODELS`.
        dataset: see :func:`ald_ext.data.load_dataset`: "mnist5k" (embedded), another name, a .npz file or a folder.
        data_root: folder of the files of a data set that has a name.
        download: fetch files that are missing there.
        epochs: passes over the training images; None: 80, and fewer for ABP and DLGM, whose steps take longer.
        batch_size: images a minibatch.
        lr: step size of PSGLD or Adam.
        schedule: of lr over the run: "constant"; "cosine", down to ``final_lr`` · lr at the last step; "polynomial",
            lr · (1 + t/b)^-γ after t steps (Welling & Teh), which does not depend on the number of epochs.
        final_lr: the last lr over the first.
        decay_offset, decay_exponent: b, in steps, and 0.5 < γ <= 1.
        warm_up: steps over which lr rises from 0. PSGLD's v begins at 0, so that its first step without it would be
            lr/√(1 - alpha) long for every parameter, whatever its gradient.
        temperature: T of PSGLD; 1 samples the posterior, 0 optimizes.
        alpha, eps: of PSGLD's preconditioner.
        momentum: μ of models whose parameters are sampled: PSGLD is given running means of the gradients,
            ḡ ← μ ḡ + (1-μ) g, from ḡ = 0 on; 0: the gradients. Their noise is then less, and so is the preconditioner's
            v: lr and eps are to be lower.
        freeze_after: steps after which the preconditioner stays; None: never.
        seed: of the initial weights, the order of the data, and all noise.
        device: a torch device.
        bf16: networks compute in bfloat16 by autocast; parameters, likelihood and optimizer stay in float32.
        capture: CUDA only: a step is one captured graph; None: where the model allows it.
        threads: of the CPU; None: as many as are fastest, unless the user chose: see Note [Number of threads]
            in ald_ext.threads.
        evaluate_every: epochs from one evaluation on the test images to the next.
        pictures_every: epochs from one set of pictures to the next; None: only at the end.
        checkpoint_every: steps from one checkpoint to the next; None: one an epoch. The last step always has one.
        tensorboard: write scalars and pictures for TensorBoard to OUT/tensorboard.
        ensemble_size: samples of the parameters kept for predictive averages, of models whose parameters are sampled;
            0: none.
        ensemble_every: steps from one of them to the next.
        divergence_limit: a loss beyond it, in nats a datum, or one that is not finite, stops the run.
        network: size and form of the model.

    Raises:
        ValueError: a value out of its range.
    """

    model: str = "lae"
    dataset: str = "mnist5k"
    data_root: str | None = None
    download: bool = False
    epochs: int | None = None
    batch_size: int = 25
    lr: float = DEFAULT_LR
    schedule: str = "cosine"
    final_lr: float = 0.02
    decay_offset: float = 1000.0
    decay_exponent: float = 1.0
    warm_up: int = 500
    temperature: float = 1.0
    alpha: float = 0.99
    eps: float = 0.3
    momentum: float = 0.0
    freeze_after: int | None = None
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False
    capture: bool | None = None
    threads: int | None = None
    evaluate_every: int = 5
    pictures_every: int | None = None
    checkpoint_every: int | None = None
    tensorboard: bool = False
    ensemble_size: int = 10
    ensemble_every: int = 500
    divergence_limit: float = 1e8
    network: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        self._require("model", self.model in MODELS, f"one of {', '.join(MODELS)}")
        for name in ("batch_size", "evaluate_every", "ensemble_every"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        for name in ("epochs", "threads", "pictures_every", "checkpoint_every"):
            self._require(name, getattr(self, name) is None or getattr(self, name) >= 1, "None or >= 1")
        self._require("lr", math.isfinite(self.lr) and self.lr > 0, "a finite number > 0")
        self._require("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        self._require("final_lr", 0 < self.final_lr <= 1, "> 0 and <= 1")
        self._require("warm_up", self.warm_up >= 0, ">= 0")
        self._require("momentum", 0 <= self.momentum < 1, ">= 0 and < 1")
        self._require("decay_offset", self.decay_offset > 0, "> 0")
        self._require("decay_exponent", 0.5 < self.decay_exponent <= 1, "> 0.5 and <= 1")
        self._require("ensemble_size", self.ensemble_size >= 0, ">= 0")
        self._require("divergence_limit", self.divergence_limit > 0, "> 0")
        self._require("seed", 0 <= self.seed < 2**63, "0 <= seed < 2**63")

    def _require(self, name: str, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            raise ValueError(f"TrainingConfig: {name}: got {getattr(self, name)!r}, expected {expected}")

    @property
    def num_epochs(self) -> int:
        """epochs, or the model's default."""
        return FEWER_EPOCHS.get(self.model, DEFAULT_EPOCHS) if self.epochs is None else self.epochs

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and checkpoints hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON; what is missing has its default.

        Raises:
            ValueError: a name that is no setting, or a value out of its range.
        """
        check_settings("TrainingConfig", cls, {**values, "network": ModelConfig()})
        network = values.get("network", {})
        if not isinstance(network, dict):
            raise ValueError(f"TrainingConfig: network: got {network!r}, expected an object of settings")
        network = config_from_dict(find_model_class(values.get("model", cls.model)).config_class, network)
        return cls(**{**values, "network": network})

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Reads JSON, as :meth:`save` writes it.

        Raises:
            ValueError: no JSON, or not of these settings. OSError: the file cannot be read.
        """
        try:
            values = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"config: {str(path)!r} is no JSON file ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"config: {str(path)!r}: got a {type(values).__name__}, expected an object of settings")
        return cls.from_dict(values)

    def save(self, path: Path) -> None:
        """Writes JSON."""
        write_atomically(path, lambda file: file.write_text(json.dumps(self.to_dict(), indent=2) + "\n"))

    def check_resumes(self, saved: TrainingConfig) -> None:
        """ValueError if this is another run than ``saved``, so that it cannot go on from its checkpoint."""
        mine, theirs = flattened(self.to_dict()), flattened(saved.to_dict())
        shared = [name for name in mine if name in theirs and name not in RESUMABLE]  # all, of the same model
        different = [name for name in shared if mine[name] != theirs[name]]
        if different:
            got = ", ".join(f"{name}={mine[name]!r}" for name in different)
            expected = ", ".join(f"{name}={theirs[name]!r}" for name in different)
            raise ValueError(f"resume: the checkpoint is of another run: got {got}, expected {expected}")


def flattened(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of the network beside them, as "network.width"."""
    network = {f"network.{name}": value for name, value in values["network"].items()}
    return {**{name: value for name, value in values.items() if name != "network"}, **network}
