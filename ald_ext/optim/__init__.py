"""Langevin optimizers: drop-in replacements of torch.optim's whose iterates are posterior samples; their schedules."""

from .names import name_parameters
from .psgld import PSGLD
from .schedulers import CyclicalCosine, PolynomialDecay
from .sghmc import SGHMC
from .sgld import SGLD
from .sgnht import SGNHT

__all__ = ["PSGLD", "SGHMC", "SGLD", "SGNHT", "CyclicalCosine", "PolynomialDecay", "name_parameters"]
