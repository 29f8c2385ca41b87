"""Checkpoints: one file of tensors and plain values, written atomically, read with weights_only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..models import LatentVariableModel, ParameterEnsemble
from ..models.saving import MODEL_KEYS, model_from_contents, read_tensors, write_tensors
from .config import TrainingConfig

#: Beside what a model's file holds.
RUN_KEYS = (
    "config",
    "epoch",
    "batch",
    "step",
    "num_data",
    "optimizer",
    "scheduler",
    "random_state",
    "totals",
    "history",
    "ensemble",
    "seconds",
)


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes the checkpoint whole or not at all. OSError if the disk or the folder does not take it."""
    write_tensors(path, checkpoint)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The checkpoint of ``ald-ext train``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is corrupt, truncated, of another version, or no checkpoint of this package.
    """
    return read_tensors(path, (*MODEL_KEYS, *RUN_KEYS), device)


def model_of_checkpoint(checkpoint: dict[str, Any]) -> tuple[LatentVariableModel, TrainingConfig]:
    """The trained model, and the settings that it was trained with."""
    return model_from_contents(checkpoint), TrainingConfig.from_dict(checkpoint["config"])


def ensemble_of_checkpoint(checkpoint: dict[str, Any]) -> ParameterEnsemble | None:
    """The samples of the parameters that the run kept; None if there are none."""
    state = checkpoint["ensemble"]
    if not state["samples"]:
        return None
    ensemble = ParameterEnsemble(len(state["samples"]))
    ensemble.load_state_dict(state)
    return ensemble
