"""Checkpoints: one file of tensors and plain values, written atomically, read with weights_only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import torch
from torch import Tensor

from ..models import LatentVariableModel, ParameterEnsemble
from ..models.ensemble import EnsembleState, ensemble_of_state
from ..models.saving import ModelFile, model_from_contents, read_contents, required_fields
from ..optim.checks import OptimizerState
from ..settings import check_values, require, setting, shortened
from .config import TrainingConfig

Sum = Annotated[Tensor, torch.float64, 0]
GeneratorState = Annotated[Tensor, torch.uint8, 1]


@dataclass
class Totals:
    """Sums over an epoch of the loss and of the model's diagnostics."""

    images: int = 0
    sums: dict[str, Sum] = field(default_factory=dict)

    def add(self, count: int, loss: Tensor, diagnostics: dict[str, Tensor]) -> None:
        """Add the means of a minibatch of ``count`` images."""
        self.images += count
        for name, value in {"loss": loss, **diagnostics}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
            self.sums[name].add_(value.detach(), alpha=count)

    def means(self) -> dict[str, float]:
        """Return the means over the images since the epoch began."""
        return {name: value.item() / self.images for name, value in self.sums.items()}


@dataclass
class SchedulerState:
    """What PyTorch's schedulers keep, some of it in some versions; they would take over anything else unseen."""

    base_lrs: list[float]
    last_epoch: int
    lr_lambdas: list[NoneType]  # type: ignore[nonetype-type]
    _step_count: int
    _last_lr: list[float]
    _is_initial: bool = False
    _get_lr_called_within_step: bool = False


@dataclass
class RandomState:
    """States of torch's generators."""

    cpu: GeneratorState
    cuda: GeneratorState | None = None


@dataclass(kw_only=True)
class Measured:
    """What a run counts and measures, in fields of :class:`.run.Run`; those that came later have defaults."""

    epoch: int = setting(dataclasses.MISSING, at_least=0)
    batch: int = setting(dataclasses.MISSING, at_least=0)
    step: int = setting(dataclasses.MISSING, at_least=0)
    seconds: float = setting(dataclasses.MISSING, at_least=0)
    history: list[dict[str, float]]
    seconds_after_epoch: list[float] = field(default_factory=list)
    threads_by_step: list[tuple[int, int]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(kw_only=True)
class Checkpoint(Measured, ModelFile):
    """What a checkpoint holds: a run between two steps. A field that came later has a default."""

    config: dict[str, Any]
    num_data: int
    optimizer: OptimizerState
    scheduler: SchedulerState
    random_state: RandomState
    totals: Totals
    ensemble: EnsembleState
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_values(self, "checkpoint")
        require(len(self.history) == self.epoch, "checkpoint: history", len(self.history), f"{self.epoch} epochs")
        for row in self.history:
            got = shortened(list(row))
            require({"epoch", "step", "loss"} <= row.keys(), "checkpoint: history", got, "epoch, step, loss and others")


MEASURED = required_fields(Measured)
MEASURED_LATER = tuple(each.name for each in dataclasses.fields(Measured) if each.name not in MEASURED)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the checkpoint of ``ald-ext train``. Raises as :func:`ald_ext.models.saving.read_contents`."""
    checkpoint = read_contents(path, Checkpoint, device)
    TrainingConfig.from_dict(checkpoint["config"])
    known = {each.name for each in dataclasses.fields(SchedulerState)}
    scheduler = {name: value for name, value in checkpoint["scheduler"].items() if name in known}
    return {**checkpoint, "scheduler": scheduler}


def trained_model(checkpoint: dict[str, Any]) -> tuple[LatentVariableModel, ParameterEnsemble | None]:
    """Return the trained model, and the samples of the parameters that the run kept; None if there are none."""
    model, ensemble = model_from_contents(checkpoint), ensemble_of_state(checkpoint["ensemble"])
    if ensemble is not None:
        ensemble.check(model)
    return model, ensemble
