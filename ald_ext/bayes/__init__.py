"""Posteriors of networks."""

from .short_chains import Trial
from .suggestion import Suggestion, suggest_settings

__all__ = ["Suggestion", "Trial", "suggest_settings"]
