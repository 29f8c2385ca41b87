"""Training runs that experiments share: each is made once, resumes where it was interrupted, and is found again."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data import ImageData
from ...models import LatentVariableModel, ParameterEnsemble
from ...training import TrainingConfig, TrainingInterrupted, train
from ...training.checkpoints import load_checkpoint, trained_model
from ...training.loop import CHECKPOINT, METRICS
from ..workers import Progress

#: Settings that do not change the result of a finished run.
IRRELEVANT = {"device", "data_root", "download", "capture", "threads"} | {
    *("checkpoint_every", "tensorboard", "pictures_every"),
}


def run_folder(config: TrainingConfig, data: ImageData, runs: Path) -> Path:
    """Return the folder of the run with these settings on these data: runs/DATASET/MODEL-seedK-FINGERPRINT."""
    settings = {name: value for name, value in config.to_dict().items() if name not in IRRELEVANT}
    key = fingerprint({**settings, "images": checksum(data.train_images), "test": checksum(data.test_images)})
    return runs / data.name / f"{config.model}-seed{config.seed}-{key}"


def train_once(
    config: TrainingConfig, data: ImageData, folder: Path, progress: Progress
) -> tuple[LatentVariableModel, ParameterEnsemble | None, dict[str, Any]]:
    """Return the run in a folder, trained now unless it was before: model, samples of its parameters, metrics.json.

    Args:
        config: its ``dataset`` is not used.
        data: the data set.
        folder: of :func:`run_folder`.
        progress: called with numbers of images, which add up to ``num_epochs`` times those of the training set.

    Raises:
        TrainingInterrupted: by SIGINT or SIGTERM; the next call resumes.
        OSError, ValueError, TrainingDivergedError: see ``ald_ext.training.train``.
    """
    if (folder / METRICS).is_file():
        progress(config.num_epochs * len(data.train_images))
    else:
        try:
            train(config, folder, data=data, resume=(folder / CHECKPOINT).is_file(), progress=progress)
        except TrainingInterrupted as interruption:
            number = interruption.signal_number
            message = f"{config.model} on {data.name}: stopped by signal {number}; the same command resumes"
            raise TrainingInterrupted(message, number) from interruption
    model, ensemble = trained_model(load_checkpoint(folder / CHECKPOINT, config.device))
    return model.to(config.device), ensemble, json.loads((folder / METRICS).read_text())


def fingerprint(values: dict[str, Any]) -> str:
    """Return eight characters that tell these settings from others."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def checksum(images: Tensor) -> int:
    """Return the CRC-32 of the images' bytes."""
    return zlib.crc32(images.contiguous().numpy().data)
