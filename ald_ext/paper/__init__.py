"""The experiments of the paper, one file each, side by side with its numbers."""

from __future__ import annotations

from typing import Any

from .experiment import Experiment, run_experiment
from .images.anomaly_detection import EXPERIMENT as ANOMALY_DETECTION
from .images.denoising import EXPERIMENT as DENOISING
from .images.dequantization import EXPERIMENT as DEQUANTIZATION
from .images.image_experiment import ImageExperiment, ImageSettings, run_image_experiment
from .images.image_generation import EXPERIMENT as IMAGE_GENERATION
from .images.training_speed import EXPERIMENT as TRAINING_SPEED
from .toy.bivariate_gaussian import EXPERIMENT as BIVARIATE_GAUSSIAN
from .toy.eight_gaussians import EXPERIMENT as EIGHT_GAUSSIANS
from .toy.neural_likelihood import EXPERIMENT as NEURAL_LIKELIHOOD
from .toy.scaling import EXPERIMENT as SCALING
from .toy.univariate_gaussian import EXPERIMENT as UNIVARIATE_GAUSSIAN

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
