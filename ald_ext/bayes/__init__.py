"""Posteriors of networks: priors, settings, samples of the parameters, predictions that are averages over them,
diagnosis."""

from .collecting import collect_parameters
from .diagnosis import PosteriorDiagnosis, diagnose
from .parameter_samples import PosteriorSamples
from .prediction import Prediction, predict
from .priors import gaussian_prior
from .short_chains import Trial
from .suggestion import Suggestion, suggest_settings

__all__ = [
    "PosteriorDiagnosis",
    "PosteriorSamples",
    "Prediction",
    "Suggestion",
    "Trial",
    "collect_parameters",
    "diagnose",
    "gaussian_prior",
    "predict",
    "suggest_settings",
]
