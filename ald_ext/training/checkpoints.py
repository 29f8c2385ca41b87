"""Checkpoints: one file of tensors and plain values, written atomically, read with weights_only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..models import LatentVariableModel, ParameterEnsemble
from ..models.ensemble import ensemble_of_state
from ..models.saving import MODEL_KEYS, model_from_contents, read_tensors

#: What a run counts and measures: fields of Run and entries of a checkpoint; those of earlier versions lack the second.
MEASURED, MEASURED_LATER = (
    ("epoch", "batch", "step", "seconds", "history"),
    ("seconds_after_epoch", "threads_by_step", "changes"),
)
#: What a checkpoint holds beside what a model's file does.
RUN_KEYS = (*MEASURED, "config", "num_data", "optimizer", "scheduler", "random_state", "totals", "ensemble")


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the checkpoint of ``ald-ext train``. Raises as :func:`ald_ext.models.saving.read_tensors`."""
    return read_tensors(path, (*MODEL_KEYS, *RUN_KEYS), device)


def trained_model(checkpoint: dict[str, Any]) -> tuple[LatentVariableModel, ParameterEnsemble | None]:
    """Return the trained model, and the samples of the parameters that the run kept; None if there are none."""
    return model_from_contents(checkpoint), ensemble_of_state(checkpoint["ensemble"])
