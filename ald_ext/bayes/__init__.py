"""Posteriors of networks."""

from .learning_coefficient import LearningCoefficient, local_learning_coefficient

__all__ = ["LearningCoefficient", "local_learning_coefficient"]
