"""The experiments of the paper, one file each, side by side with its figures."""

from __future__ import annotations

from typing import Any

from .images.anomaly_detection import AnomalyDetection, AnomalyDetectionChosen
from .images.anomaly_settings import AnomalySettings
from .images.denoising import Denoising
from .images.dequantization import Dequantization
from .images.experiment import ImageExperiment, ImageSettings
from .images.image_generation import ImageGeneration
from .images.runner import run_image_experiment
from .images.sample_quality import SampleQuality
from .images.training_speed import TrainingSpeed
from .results import Results, find_results
from .toy.bivariate_gaussian import BivariateGaussian
from .toy.eight_gaussians import EightGaussians
from .toy.experiment import Experiment, run_experiment
from .toy.gan_limit import GANLimit
from .toy.neural_likelihood import NeuralLikelihood
from .toy.scaling import Scaling
from .toy.univariate_gaussian import UnivariateGaussian

TOY = (BivariateGaussian(), UnivariateGaussian(), NeuralLikelihood(), EightGaussians(), GANLimit(), Scaling())
IMAGES = (
    *(ImageGeneration(), SampleQuality(), Denoising()),
    *(AnomalyDetection(), AnomalyDetectionChosen(), AnomalySettings()),
    *(TrainingSpeed(), Dequantization()),
)

#: The toy experiments by name.
EXPERIMENTS: dict[str, Experiment[Any]] = {experiment.name: experiment for experiment in TOY}
#: The experiments on images by name.
IMAGE_EXPERIMENTS: dict[str, ImageExperiment] = {experiment.name: experiment for experiment in IMAGES}

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
