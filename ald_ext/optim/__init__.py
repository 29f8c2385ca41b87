"""Langevin optimizers: drop-in replacements of torch.optim's whose iterates are posterior samples."""

from .psgld import PSGLD
from .sgld import SGLD

__all__ = ["PSGLD", "SGLD"]
