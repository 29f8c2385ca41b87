"""Posteriors of networks."""

from .suggestion import Suggestion, Trial, suggest_settings

__all__ = ["Suggestion", "Trial", "suggest_settings"]
