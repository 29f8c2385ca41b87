"""Training runs that experiments share: each is made once, goes on where it was interrupted, and is found again."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data import ImageData
from ...models import LatentVariableModel, ParameterEnsemble
from ...training import TrainingConfig, TrainingInterrupted, train
from ...training.checkpoints import ensemble_of_checkpoint, load_checkpoint, model_of_checkpoint
from ...training.loop import CHECKPOINT, METRICS
from ..workers import Progress

#: Settings that do not change what a finished run is.
IRRELEVANT = (
    "device",
    "data_root",
    "download",
    "checkpoint_every",
    "tensorboard",
    "pictures_every",
    "capture",
    "threads",
)


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run left.

    Attributes:
        model: trained, on the device of the run.
        ensemble: samples of its parameters, or None.
        metrics: as in metrics.json.
    """

    model: LatentVariableModel
    ensemble: ParameterEnsemble | None
    metrics: dict[str, Any]


def run_folder(config: TrainingConfig, data: ImageData, runs: Path) -> Path:
    """Where the run with these settings on these data is, or is to be: runs/DATASET/MODEL-seedK-FINGERPRINT."""
    settings = {name: value for name, value in config.to_dict().items() if name not in IRRELEVANT}
    key = fingerprint({**settings, "images": checksum(data.train_images), "test": checksum(data.test_images)})
    return runs / data.name / f"{config.model}-seed{config.seed}-{key}"


def train_once(config: TrainingConfig, data: ImageData, runs: Path, progress: Progress) -> TrainedRun:
    """The run with these settings, trained now unless it was before.

    Args:
        config: ``dataset`` is not looked at.
        data: named; its name is that of a folder.
        runs: folder of all runs.
        progress: is called with numbers of images, ``num_epochs`` times those of the training set in all.

    Raises:
        TrainingInterrupted: by SIGINT or SIGTERM; the next call goes on from where it was.
        OSError, ValueError, TrainingDivergedError: as ``ald_ext.training.train``.
    """
    folder = run_folder(config, data, runs)
    if (folder / METRICS).is_file():
        progress(config.num_epochs * len(data.train_images))
    else:
        train_or_resume(config, data, folder, progress)
    checkpoint = load_checkpoint(folder / CHECKPOINT, config.device)
    model, _ = model_of_checkpoint(checkpoint)
    metrics = json.loads((folder / METRICS).read_text())
    return TrainedRun(model.to(config.device), ensemble_of_checkpoint(checkpoint), metrics)


def train_or_resume(config: TrainingConfig, data: ImageData, folder: Path, progress: Progress) -> None:
    """Goes on from the folder's checkpoint, if there is one. TrainingInterrupted tells how to go on."""
    try:
        train(config, folder, data=data, resume=(folder / CHECKPOINT).is_file(), progress=progress)
    except TrainingInterrupted as interruption:
        number = interruption.signal_number
        message = f"{config.model} on {data.name}: stopped by signal {number}; the same command goes on from there"
        raise TrainingInterrupted(message, number) from interruption


def fingerprint(values: dict[str, Any]) -> str:
    """Eight characters that tell these settings from others."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def checksum(images: Tensor) -> int:
    """Of bytes."""
    return zlib.crc32(images.contiguous().numpy().data)
