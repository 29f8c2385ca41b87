"""Training: the loop, checkpoints, pictures. Needs the extra "train"."""

from .config import TrainingConfig
from .divergence import TrainingDivergedError
from .interruption import TrainingInterrupted
from .loop import fit, train

__all__ = ["TrainingConfig", "TrainingDivergedError", "TrainingInterrupted", "fit", "train"]
