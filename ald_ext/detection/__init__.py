"""Anomaly detection in the form of scikit-learn and PyOD. Needs the extra "train"."""

from .detector import AnomalyDetector
from .synthetic import synthetic_anomalies

__all__ = ["AnomalyDetector", "synthetic_anomalies"]
