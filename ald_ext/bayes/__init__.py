"""Posteriors of networks: priors, samples of the parameters, predictions that are averages over them, diagnosis."""

from .priors import gaussian_prior

__all__ = ["gaussian_prior"]
