"""Anomaly detection in the form of scikit-learn and PyOD. Needs the extra "train"."""

from .detector import AnomalyDetector

__all__ = ["AnomalyDetector"]
