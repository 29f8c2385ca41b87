"""The lr of suggest_settings beside the best of a grid, by the held-out likelihood of an equal number of steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ald_ext import SGLD
from ald_ext.bayes import suggest_settings

from .problems import Problem

#: Steps of the optimization and of the chain, and between draws.
WARM_UP, STEPS, THINNING = 1000, 2000, 20
#: Factors between neighbours of the grid, and how far it reaches to both sides of the suggestion.
FACTOR, REACH = 2.0, 2


def predictive_nll(problem: Problem, lr: float, start: Any, seed: int, steps: int) -> Tensor:
    """-log of the mean likelihood of the chain's draws, for each test datum (n,); infinite if the chain diverges."""
    network = copy.deepcopy(start)
    optimizer = SGLD(
        problem.groups(network),
        lr=lr,
        num_data=len(problem.train[0]),
        temperature=problem.temperature,
        seed=seed,
    )
    x, y = problem.test
    log_likelihoods, step = [], 0
    loader = problem.loader(seed)
    while step < steps:
        for inputs, targets in loader:
            optimizer.zero_grad()
            problem.loss(network(inputs), targets).backward()
            optimizer.step()
            step += 1
            if step > steps // 4 and step % THINNING == 0:
                with torch.no_grad():
                    log_likelihoods.append(-problem.nll(network(x), y))
    logs = torch.stack(log_likelihoods)
    mean = logs.logsumexp(0) - math.log(len(logs))
    return torch.where(mean.isfinite(), -mean, math.inf)


def optimized(problem: Problem, seed: int, steps: int) -> Any:
    """A network after some steps of Adam, with the prior."""
    torch.manual_seed(seed)
    network = problem.make()
    optimizer = torch.optim.Adam(problem.groups(network), lr=0.01)
    step = 0
    while step < steps:
        for inputs, targets in problem.loader(seed):
            optimizer.zero_grad()
            problem.loss(network(inputs), targets).backward()
            optimizer.step()
            step += 1
    return network


def compare_choice(problem: Problem, *, seeds: int, quick: bool) -> dict[str, Any]:
    """The suggestion, the likelihood over the grid around it, and how far the best of the grid is from it."""
    warm_up, steps, reach = (300, 60, 1) if quick else (WARM_UP, STEPS, REACH)
    torch.manual_seed(0)
    network = problem.make()
    suggestion = suggest_settings(
        network,
        problem.loss,
        problem.loader(0),
        params=problem.groups(network),
        temperature=problem.temperature,
        warm_up=warm_up,
        num_steps=32 if quick else 200,
    )
    suggested = suggestion.settings["lr"]
    grid = [suggested * FACTOR**power for power in range(-reach, reach + 1)]
    starts = [optimized(problem, seed, warm_up) for seed in range(seeds)]
    nlls = []
    for lr in grid:
        chains = [predictive_nll(problem, lr, start, seed, steps).mean() for seed, start in enumerate(starts)]
        nlls.append(float(torch.stack(chains).mean()))
    best = grid[min(range(len(grid)), key=nlls.__getitem__)]
    return {
        "problem": problem.name,
        "suggested_lr": suggested,
        "best_lr": best,
        "ratio": suggested / best,
        "nll_at_suggestion": nlls[reach],
        "nll_at_best": min(nlls),
        "grid": grid,
        "nll": nlls,
        "temperatures": [[trial.lr, trial.temperature] for trial in suggestion.trials],
    }
