"""ald_ext: amortized Langevin dynamics for PyTorch, with fused kernels."""

from . import ops, optim, reference
from .optim import PSGLD, SGLD

__version__ = "0.1.0"
__all__ = ["PSGLD", "SGLD", "__version__", "ops", "optim", "reference"]
