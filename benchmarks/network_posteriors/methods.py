"""Methods that predict with their uncertainty, at an equal number of gradients of minibatches.

Each function trains, and returns a function of inputs that gives the outputs of its members or draws, (draws, n,
outputs), whose predictive distributions are averaged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT
from ald_ext.bayes import suggest_settings

from .problems import Problem

Predictor = Callable[[Tensor], Tensor]
#: Steps between two looks at the validation data; members of an ensemble; draws of SWAG, dropout and Laplace.
INTERVAL, MEMBERS, DRAWS = 100, 5, 50
BURN_IN = 0.2


def train(
    problem: Problem, network: nn.Module, optimizer: Any, steps: int, seed: int, after: Callable[[int], Any]
) -> None:
    """Make steps, and call ``after`` with the number of each."""
    step = 0
    while True:
        for inputs, targets in problem.loader(seed + step):
            if step == steps:
                return
            optimizer.zero_grad()
            problem.loss(network(inputs), targets).backward()
            optimizer.step()
            step += 1
            after(step)


@torch.no_grad()
def outputs(networks: list[Any], x: Tensor) -> Tensor:
    return torch.stack([network(x) for network in networks])


def validation_nll(problem: Problem, network: nn.Module) -> float:
    x, y = problem.validation
    with torch.no_grad():
        return float(problem.loss(network.eval()(x), y))


def adam_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)


def early_stopped(problem: Problem, budget: int, seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Adam without weight decay; the network is that of the best likelihood on the validation data."""
    torch.manual_seed(seed)
    network = make()
    best: list[Any] = [float("inf"), None]

    def look(step: int) -> None:
        if step % INTERVAL == 0 or step == budget:
            nll = validation_nll(problem, network)
            if nll < best[0]:
                best[:] = nll, copy.deepcopy(network)
            network.train()

    train(problem, network, adam_optimizer(network), budget, seed, look)
    return best[1].eval()


def adam(problem: Problem, seed: int) -> Predictor:
    network = early_stopped(problem, problem.budget, seed, problem.make)
    return lambda x: outputs([network], x)


def adam_to_the_end(problem: Problem, seed: int) -> Predictor:
    torch.manual_seed(seed)
    network = problem.make()
    train(problem, network, adam_optimizer(network), problem.budget, seed, lambda step: None)
    return lambda x: outputs([network], x)


def ensemble(problem: Problem, seed: int) -> Predictor:
    members = [early_stopped(problem, problem.budget // MEMBERS, seed + 100 * k, problem.make) for k in range(MEMBERS)]
    return lambda x: outputs(members, x)


def dropout(problem: Problem, seed: int) -> Predictor:
    """Of torch-uncertainty, with a dropout of 0.2 in front of the last layer."""
    from torch_uncertainty.methods import mc_dropout

    def make() -> nn.Module:
        layers = list(problem.make())
        return nn.Sequential(*layers[:-1], nn.Dropout(0.2), layers[-1])

    network = early_stopped(problem, problem.budget, seed, make)
    wrapped = mc_dropout(network, num_estimators=DRAWS, on_batch=False).eval()

    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        return wrapped(x).view(DRAWS, len(x), -1)

    return predict


def swag(problem: Problem, seed: int) -> Predictor:
    """Of torch-uncertainty: from the early stopped network, SGD with lr 0.05 and momentum 0.9 for half the budget."""
    from torch_uncertainty.methods.swag import SWAG

    budget = problem.budget
    network = early_stopped(problem, budget // 2, seed, problem.make).train()
    wrapped = SWAG(network, cycle_start=0, cycle_length=1, num_estimators=1)
    interval = max(budget // 200, 1)

    def look(step: int) -> None:
        if step % interval == 0:
            wrapped.update_wrapper(step // interval)

    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    train(problem, network, optimizer, budget - budget // 2, seed, look)
    draws = [wrapped.sample(wrapped.scale).eval() for _ in range(DRAWS)]
    return lambda x: outputs(draws, x)


def last_layer_laplace(problem: Problem, seed: int) -> Predictor:
    """Of laplace-torch, full in the last layer, with its defaults; the prior precision of the best validation NLL."""
    from laplace import Laplace

    network = early_stopped(problem, problem.budget, seed, problem.make)
    approximation = Laplace(network, "classification", "last_layer", "full")
    approximation.fit(problem.loader(seed))
    validation = DataLoader(TensorDataset(*problem.validation), 100)
    approximation.optimize_prior_precision(method="gridsearch", val_loader=validation)
    return lambda x: approximation(x).detach().log()[None]


def langevin(
    optimizer_class: Any, problem: Problem, seed: int, settings: dict[str, Any], num_draws: int = DRAWS
) -> Predictor:
    """One of ours, from random weights; without the first fifth of the steps."""
    torch.manual_seed(seed)
    network, budget = problem.make(), problem.budget
    burn_in = round(BURN_IN * budget)
    thinning = max((budget - burn_in) // num_draws, 1)
    frozen = {"freeze_after": burn_in} if optimizer_class is PSGLD else {}
    optimizer = optimizer_class(problem.groups(network), **settings, **frozen, seed=seed)
    draws: list[Any] = []

    def look(step: int) -> None:
        if step > burn_in and (step - burn_in) % thinning == 0:
            draws.append(copy.deepcopy(network))

    train(problem, network, optimizer, budget, seed, look)
    return lambda x: outputs(draws, x)


def suggested(optimizer_class: Any, problem: Problem) -> dict[str, Any]:
    """Settings by suggest_settings, whose gradients are not counted, as those of no other's tuning."""
    torch.manual_seed(0)
    network = problem.make()
    suggestion = suggest_settings(
        network,
        problem.loss,
        problem.loader(0),
        optimizer=optimizer_class,
        params=problem.groups(network),
        temperature=problem.temperature,
    )
    return suggestion.settings


OTHERS: dict[str, Callable[[Problem, int], Predictor]] = {
    "Adam, early stopping": adam,
    "Adam, to the end": adam_to_the_end,
    "deep ensemble of 5": ensemble,
    "MC dropout": dropout,
    "SWAG": swag,
    "Laplace, last layer": last_layer_laplace,
}
#: Those that are made for classes alone.
ONLY_CLASSES = ("Laplace, last layer",)
OURS = {"SGLD": SGLD, "PSGLD": PSGLD, "SGHMC": SGHMC, "SGNHT": SGNHT}
