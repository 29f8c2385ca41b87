"""Posteriors of networks: priors, settings, parameter samples, predictions, diagnosis, learning coefficients."""

from .collecting import collect_parameters
from .diagnosis import PosteriorDiagnosis, diagnose
from .learning_coefficient import LearningCoefficient, local_learning_coefficient
from .parameter_samples import PosteriorSamples
from .prediction import Prediction, predict
from .priors import gaussian_prior
from .short_chains import Trial
from .suggestion import Suggestion, suggest_settings

__all__ = [
    "LearningCoefficient",
    "PosteriorDiagnosis",
    "PosteriorSamples",
    "Prediction",
    "Suggestion",
    "Trial",
    "collect_parameters",
    "diagnose",
    "gaussian_prior",
    "local_learning_coefficient",
    "predict",
    "suggest_settings",
]
