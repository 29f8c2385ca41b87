"""Amortized Langevin dynamics for PyTorch, with fused kernels: optimizers, samplers and Langevin autoencoders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import bayes, dequantization, distributions, models, ops, optim, reference, samplers
from .distributions import MarginalizedGaussian
from .optim import PSGLD, SGHMC, SGLD, SGNHT, name_parameters
from .version import __version__

if TYPE_CHECKING:
    from . import data as data
    from . import detection as detection
    from . import metrics as metrics
    from . import paper as paper
    from . import training as training
    from .detection import AnomalyDetector as AnomalyDetector

__all__ = [
    "PSGLD",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "MarginalizedGaussian",
    "__version__",
    "bayes",
    "dequantization",
    "distributions",
    "models",
    "name_parameters",
    "ops",
    "optim",
    "reference",
    "samplers",
]

#: Public too, but imported when they are first asked for, and not by ``import *``: they need extras.
_LAZY = ["AnomalyDetector", "data", "detection", "metrics", "paper", "training"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return (
        __getattr__("detection").AnomalyDetector if name == "AnomalyDetector" else import_module(f".{name}", __name__)
    )


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAZY])
