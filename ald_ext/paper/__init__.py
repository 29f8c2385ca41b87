"""The experiments of the paper, one file each, side by side with its figures."""

from __future__ import annotations

from typing import Any

from .images import anomaly_detection, denoising, dequantization, image_generation, training_speed
from .images.experiment import ImageExperiment, ImageSettings
from .images.runner import run_image_experiment
from .results import Results, find_results
from .toy import bivariate_gaussian, eight_gaussians, neural_likelihood, scaling, univariate_gaussian
from .toy.experiment import Experiment, run_experiment

#: The toy experiments by name.
EXPERIMENTS: dict[str, Experiment[Any]] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (bivariate_gaussian, univariate_gaussian, neural_likelihood, eight_gaussians, scaling)
}

#: The experiments on images by name.
IMAGE_EXPERIMENTS: dict[str, ImageExperiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (image_generation, denoising, anomaly_detection, training_speed, dequantization)
}

__all__ = [
    "EXPERIMENTS",
    "IMAGE_EXPERIMENTS",
    "Experiment",
    "ImageExperiment",
    "ImageSettings",
    "Results",
    "find_results",
    "run_experiment",
    "run_image_experiment",
]
