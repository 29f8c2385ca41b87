"""Posteriors of networks: priors, samples of the parameters, predictions that are averages over them, diagnosis."""

from .collecting import collect_parameters
from .diagnosis import PosteriorDiagnosis, diagnose
from .parameter_samples import PosteriorSamples
from .prediction import Prediction, predict
from .priors import gaussian_prior

__all__ = [
    "PosteriorDiagnosis",
    "PosteriorSamples",
    "Prediction",
    "collect_parameters",
    "diagnose",
    "gaussian_prior",
    "predict",
]
