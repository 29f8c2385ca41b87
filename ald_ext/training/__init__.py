"""Training: data, loop, checkpoints, pictures. Needs the extra "train"."""

from .config import TrainingConfig
from .data import ImageData, load_dataset
from .divergence import TrainingDivergedError
from .interruption import TrainingInterrupted
from .loop import fit, train

__all__ = [
    "ImageData",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "fit",
    "load_dataset",
    "train",
]
