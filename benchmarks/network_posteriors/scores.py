"""Scores of predictive distributions, which are means over the outputs of draws, and how near two of them are."""

from __future__ import annotations

import math

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

#: Bins of the confidence.
NUM_BINS = 15
#: The share of data that intervals of a regression should hold.
COVERAGE = 0.9


def probabilities_of(outputs: Tensor) -> Tensor:
    """Mean class probabilities (n, classes) of logits (draws, n, classes)."""
    return outputs.double().softmax(2).mean(0)


def expected_calibration_error(probabilities: Tensor, y: Tensor) -> float:
    """Mean |accuracy - confidence| over equal bins of the confidence, weighted by their numbers (Guo et al. 2017)."""
    confidence, classes = probabilities.max(1)
    bins = (confidence * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    gaps = torch.zeros(NUM_BINS, dtype=confidence.dtype).index_add(0, bins, (classes == y).double() - confidence)
    return float(gaps.abs().sum() / len(y))


def class_scores(outputs: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, NLL in nats, Brier score and ECE of logits (draws, n, classes)."""
    probabilities = probabilities_of(outputs)
    classes = torch.nn.functional.one_hot(y, probabilities.shape[1])
    return {
        "accuracy": float((probabilities.argmax(1) == y).double().mean()),
        "nll": float(-probabilities.gather(1, y[:, None]).clamp_min(1e-12).log().mean()),
        "brier": float((probabilities - classes).square().sum(1).mean()),
        "ece": expected_calibration_error(probabilities, y),
    }


def entropy_auroc(outputs: Tensor, foreign: Tensor) -> float:
    """The AUROC of the predictive entropy, for data against foreign ones."""
    entropies = [torch.special.entr(probabilities_of(each)).sum(1) for each in (outputs, foreign)]
    return float(roc_auc_score([0] * len(entropies[0]) + [1] * len(entropies[1]), torch.cat(entropies).nan_to_num()))


def regression_scores(outputs: Tensor, y: Tensor) -> dict[str, float]:
    """RMSE, NLL in nats, and coverage of central 90 % intervals of a mixture of normals.

    Args:
        outputs: means and log deviations (draws, n, 2).
        y: (n,).
    """
    mean, log_deviation = outputs.double().unbind(2)
    normal = torch.distributions.Normal(mean, log_deviation.exp(), validate_args=False)
    below = normal.cdf(y.double()).mean(0)
    tail = (1 - COVERAGE) / 2
    return {
        "rmse": float((mean.mean(0) - y).square().mean().sqrt()),
        "nll": float(math.log(len(mean)) - normal.log_prob(y.double()).logsumexp(0).mean()),
        "coverage": float(((below >= tail) & (below <= 1 - tail)).double().mean()),
    }


def agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    """Share of inputs with the same likeliest class, and the mean total variation, of probabilities (n, classes)."""
    same = (first.argmax(1) == second.argmax(1)).double().mean()
    return {"top_1": float(same), "total_variation": float((first - second).abs().sum(1).mean() / 2)}
