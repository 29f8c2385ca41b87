"""ald_ext: amortized Langevin dynamics for PyTorch, with fused kernels."""

from typing import TYPE_CHECKING, Any

from . import dequantization, distributions, models, ops, optim, reference, samplers
from .distributions import MarginalizedGaussian
from .optim import PSGLD, SGHMC, SGLD
from .version import __version__

if TYPE_CHECKING:
    from .detection import AnomalyDetector as AnomalyDetector

__all__ = [
    "PSGLD",
    "SGHMC",
    "SGLD",
    "MarginalizedGaussian",
    "__version__",
    "dequantization",
    "distributions",
    "models",
    "ops",
    "optim",
    "reference",
    "samplers",
]


def __getattr__(name: str) -> Any:
    """``AnomalyDetector``, imported when it is asked for: it needs the extra "train", which the rest does without."""
    if name == "AnomalyDetector":
        from .detection import AnomalyDetector

        return AnomalyDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, the lazy one included. It is not in ``__all__``: ``import *`` would import it."""
    return sorted({*globals(), "AnomalyDetector"})
