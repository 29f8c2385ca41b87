"""The experiments of the paper, one file each, side by side with its numbers."""

from __future__ import annotations

from typing import Any

from .anomaly_detection import EXPERIMENT as ANOMALY_DETECTION
from .bivariate_gaussian import EXPERIMENT as BIVARIATE_GAUSSIAN
from .denoising import EXPERIMENT as DENOISING
from .dequantization import EXPERIMENT as DEQUANTIZATION
from .eight_gaussians import EXPERIMENT as EIGHT_GAUSSIANS
from .experiment import Experiment, run_experiment
from .image_experiment import ImageExperiment, ImageSettings, run_image_experiment
from .image_generation import EXPERIMENT as IMAGE_GENERATION
from .neural_likelihood import EXPERIMENT as NEURAL_LIKELIHOOD
from .scaling import EXPERIMENT as SCALING
from .training_speed import EXPERIMENT as TRAINING_SPEED
from .univariate_gaussian import EXPERIMENT as UNIVARIATE_GAUSSIAN

EXPERIMENTS: dict[str, Experiment[Any]] = {
    experiment.name: experiment
    for experiment in (BIVARIATE_GAUSSIAN, UNIVARIATE_GAUSSIAN, NEURAL_LIKELIHOOD, EIGHT_GAUSSIANS, SCALING)
}

IMAGE_EXPERIMENTS: dict[str, ImageExperiment] = {
    experiment.name: experiment
    for experiment in (IMAGE_GENERATION, DENOISING, ANOMALY_DETECTION, TRAINING_SPEED, DEQUANTIZATION)
}

__all__ = [
    "EXPERIMENTS",
    "IMAGE_EXPERIMENTS",
    "Experiment",
    "ImageExperiment",
    "ImageSettings",
    "run_experiment",
    "run_image_experiment",
]
