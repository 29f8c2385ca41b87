"""Scores of predicted class probabilities, and how near two predictive distributions are."""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

#: Bins of the confidence.
NUM_BINS = 15


def expected_calibration_error(probabilities: Tensor, y: Tensor) -> float:
    """Mean |accuracy - confidence| over equal bins of the confidence, weighted by their numbers (Guo et al. 2017)."""
    confidence, classes = probabilities.max(1)
    bins = (confidence * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    gaps = torch.zeros(NUM_BINS).index_add(0, bins, (classes == y).float() - confidence)
    return float(gaps.abs().sum() / len(y))


def scores(probabilities: Tensor, y: Tensor, foreign: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy, NLL in nats, Brier score, ECE, and the AUROC of the predictive entropy for inputs that are foreign."""
    found = {
        "accuracy": float((probabilities.argmax(1) == y).float().mean()),
        "nll": float(-probabilities.gather(1, y[:, None]).clamp_min(1e-12).log().mean()),
        "brier": float((probabilities - torch.nn.functional.one_hot(y, probabilities.shape[1])).square().sum(1).mean()),
        "ece": expected_calibration_error(probabilities, y),
    }
    entropy = torch.special.entr(probabilities).sum(1)
    for name, other in foreign.items():
        entropies = torch.cat([entropy, torch.special.entr(other).sum(1)])
        found[f"auroc_{name}"] = float(roc_auc_score(torch.arange(len(entropies)) >= len(entropy), entropies))
    return found


def agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    """Share of inputs with the same likeliest class, and the mean total variation."""
    same = (first.argmax(1) == second.argmax(1)).float().mean()
    return {"top_1": float(same), "total_variation": float((first - second).abs().sum(1).mean() / 2)}
