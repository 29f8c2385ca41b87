"""The experiments of the paper, one file each, side by side with its numbers."""

from __future__ import annotations

from typing import Any

from .bivariate_gaussian import EXPERIMENT as BIVARIATE_GAUSSIAN
from .eight_gaussians import EXPERIMENT as EIGHT_GAUSSIANS
from .experiment import Experiment, run_experiment
from .neural_likelihood import EXPERIMENT as NEURAL_LIKELIHOOD
from .scaling import EXPERIMENT as SCALING
from .univariate_gaussian import EXPERIMENT as UNIVARIATE_GAUSSIAN

EXPERIMENTS: dict[str, Experiment[Any]] = {
    experiment.name: experiment
    for experiment in (BIVARIATE_GAUSSIAN, UNIVARIATE_GAUSSIAN, NEURAL_LIKELIHOOD, EIGHT_GAUSSIANS, SCALING)
}

__all__ = ["EXPERIMENTS", "Experiment", "run_experiment"]
