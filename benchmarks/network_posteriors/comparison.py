"""Scores of every method on one split of a problem, with its settings chosen on the validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from .methods import ONLY_CLASSES, OTHERS, OURS, langevin
from .problems import Problem
from .scores import class_scores, entropy_auroc, regression_scores

#: Gains of the prior and temperatures of which the validation data choose one; those of MNIST were chosen for digits.
CLASS_PRIORS = {"digits": ((16.0, 0.1), (16.0, 0.02)), "MNIST": ((16.0, 0.02),)}
REGRESSION_PRIORS = ((1.0, 1.0), (0.5, 1.0))
Suggest = Callable[[str, Problem], dict[str, Any]]


def methods_for(problem: Problem) -> list[str]:
    return [*(name for name in OTHERS if problem.classifies or name not in ONLY_CLASSES), *OURS]


def priors_for(problem: Problem) -> Sequence[tuple[float, float]]:
    return CLASS_PRIORS.get(problem.name, REGRESSION_PRIORS)


def scores(problem: Problem, outputs: Tensor, y: Tensor) -> dict[str, float]:
    return (class_scores if problem.classifies else regression_scores)(outputs, y)


def compare(problem: Problem, method: str, seed: int, suggest: Suggest) -> dict[str, Any]:
    """Scores on the test data and each shift of them, by the settings with the least validation NLL.

    Args:
        suggest: settings of one of our methods, by its name, for a problem.
    """
    tried: list[dict[str, Any]] = []
    best: Any = None
    x, y = problem.validation
    for gain, temperature in priors_for(problem) if method in OURS else [(None, None)]:
        if method in OURS:
            tempered = replace(problem, prior_gain=gain, temperature=temperature)
            settings = suggest(method, tempered)
            predict = langevin(OURS[method], tempered, seed, settings)
            choice = {"prior_gain": gain, **settings}
        else:
            predict, choice = OTHERS[method](problem, seed), {}
        found = scores(problem, predict(x), y)
        tried.append({**choice, "validation": found})
        nll = found["nll"] if math.isfinite(found["nll"]) else math.inf
        if best is None or nll < best[0]:
            best = nll, predict, choice
    _, predict, choice = best
    x, y = problem.test
    outputs = predict(x)
    row: dict[str, Any] = {"chosen": choice, "tried": tried, "test": scores(problem, outputs, y), "shifts": {}}
    for name, shift in problem.shifts.items():
        shifted = predict(shift(x))
        row["shifts"][name] = {**scores(problem, shifted, y), "auroc": entropy_auroc(outputs, shifted)}
    return row
