"""ald_ext: amortized Langevin dynamics for PyTorch, with fused kernels."""

from . import dequantization, distributions, models, ops, optim, reference, samplers
from .distributions import MarginalGaussian
from .optim import PSGLD, SGHMC, SGLD
from .version import __version__

__all__ = [
    "PSGLD",
    "SGHMC",
    "SGLD",
    "MarginalGaussian",
    "__version__",
    "dequantization",
    "distributions",
    "models",
    "ops",
    "optim",
    "reference",
    "samplers",
]
