"""Checkpoints: one file of tensors and plain values, written atomically, read with weights_only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from ..models import MODELS, Autoencoder
from .config import TrainingConfig

FORMAT = 1
KEYS = {"format", "config", "epoch", "model", "optimizer", "random_state", "history", "seconds"}


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes the checkpoint whole or not at all."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **checkpoint}, file))


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The checkpoint of ``ald-ext train``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is corrupt, truncated, or no checkpoint of this package.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: got {str(path)!r}, expected a file that `ald-ext train` wrote")
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"checkpoint: {str(path)!r} is corrupt, truncated or of another program ({first_line(error)}); "
            "expected a file that `ald-ext train` wrote"
        ) from error
    found = set(checkpoint) if isinstance(checkpoint, dict) else set()
    if not found >= KEYS or checkpoint["format"] != FORMAT:
        raise ValueError(
            f"checkpoint: {str(path)!r} is no checkpoint of this version of ald_ext: "
            f"missing {sorted(map(str, KEYS - found))}, expected format {FORMAT}"
        )
    return checkpoint


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def model_of_checkpoint(checkpoint: dict[str, Any]) -> tuple[Autoencoder, TrainingConfig]:
    """The trained model, and the settings that it was trained with."""
    config = TrainingConfig.from_dict(checkpoint["config"])
    model = MODELS[config.model](config.network)
    model.load_state_dict(checkpoint["model"])
    return model, config
