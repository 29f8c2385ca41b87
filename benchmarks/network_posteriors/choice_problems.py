"""Problems that suggest_settings had not seen when its rule was made, and those that it was made on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT

from .problems import (
    Problem,
    cross_entropy,
    diabetes,
    friedman,
    heteroscedastic,
    normal_nll,
    perceptron,
    split,
    standardized,
    wine,
)


@dataclass(frozen=True)
class Choice:
    """A problem, and the optimizer whose lr is looked for."""

    problem: Problem
    optimizer: Any

    @property
    def name(self) -> str:
        return f"{self.problem.name}, {self.optimizer.__name__}"


def poisson_nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of outputs (n, 1): the logarithm of the rate."""
    return F.poisson_nll_loss(outputs[..., 0], targets, reduction="none") + (targets + 1).lgamma()


def iris() -> Problem:
    data = datasets.load_iris()
    parts = split(standardized(data.data), data.target, (90, 0), 0)
    make = perceptron(4, 16, 3, activation=nn.Tanh)
    return Problem("iris, perceptron", *parts, make, cross_entropy, prior_gain=2.0, batch_size=30)


def cancer() -> Problem:
    data = datasets.load_breast_cancer()
    parts = split(standardized(data.data), data.target, (300, 0), 0)
    return Problem("breast cancer, logistic regression", *parts, perceptron(30, 2), cross_entropy, prior_gain=2.0)


def deep_digits() -> Problem:
    data = datasets.load_digits()
    parts = split(data.data / 16, data.target, (300, 0), 2)
    return Problem("digits, three layers", *parts, perceptron(64, 10, 10, 10), cross_entropy, prior_gain=2.0)


def impedance() -> Problem:
    """Friedman's second function of 4 variables, with noise of a known deviation."""
    x, y = datasets.make_friedman2(1200, noise=75.0, random_state=0)
    parts = split(standardized(x), (torch.as_tensor(y).float() - 475) / 375, (200, 0), 0)
    make = perceptron(4, 30, 1, activation=nn.Tanh)
    return Problem("impedance, perceptron", *parts, make, normal_nll(0.2), prior_gain=2.0)


def counts() -> Problem:
    """Poisson counts, of which two of five variables give the rate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1250, 5, generator=generator)
    rate = (1 + x[:, 0].sin() - 0.5 * x[:, 1].square()).exp()
    parts = split(x, torch.poisson(rate, generator=generator), (250, 0), 0)
    return Problem("counts, perceptron", *parts, perceptron(5, 20, 1), poisson_nll)


#: Those that the rule was made on, and those of which its figures were first seen when it was finished.
MADE_ON = (
    (wine, SGLD),
    (wine, PSGLD),
    (diabetes, SGLD),
    (diabetes, SGHMC),
    (heteroscedastic, SGLD),
    (heteroscedastic, SGNHT),
    (friedman, SGLD),
    (friedman, SGHMC),
)
UNSEEN = ((iris, PSGLD), (cancer, SGNHT), (deep_digits, SGHMC), (impedance, SGLD), (counts, SGHMC))
