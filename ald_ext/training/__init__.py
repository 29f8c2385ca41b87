"""Training: data, loop, checkpoints, pictures. Needs the extra "train"."""

from .config import TrainingConfig
from .data import ImageData, load_dataset
from .loop import TrainingDivergedError, train

__all__ = ["ImageData", "TrainingConfig", "TrainingDivergedError", "load_dataset", "train"]
