"""Methods that predict classes with their uncertainty, at an equal number of gradients of minibatches.

Each function trains, and returns a function of inputs that gives class probabilities (n, classes).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT
from ald_ext.bayes import suggest_settings
from ald_ext.samplers import HMC

from .problems import Problem

Predictor = Callable[[Tensor], Tensor]
#: Steps between two looks at the validation data; members of an ensemble; draws of SWAG, dropout and Laplace.
INTERVAL, MEMBERS, DRAWS = 100, 5, 50
BURN_IN, THINNING = 0.2, 50


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
def mean_probabilities(networks: list[Any], x: Tensor) -> Tensor:
    return torch.stack([network(x).softmax(1) for network in networks]).mean(0)


def validation_nll(problem: Problem, network: nn.Module) -> float:
    x, y = problem.validation
    with torch.no_grad():
        return float(problem.loss(network.eval()(x), y))


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

    train(problem, network, torch.optim.Adam(network.parameters(), lr=1e-3), budget, seed, look)
    return best[1].eval()


def adam(problem: Problem, budget: int, seed: int) -> Predictor:
    network = early_stopped(problem, budget, seed, problem.make)
    return lambda x: mean_probabilities([network], x)


def adam_to_the_end(problem: Problem, budget: int, seed: int) -> Predictor:
    torch.manual_seed(seed)
    network = problem.make()
    train(problem, network, torch.optim.Adam(network.parameters(), lr=1e-3), budget, seed, lambda step: None)
    return lambda x: mean_probabilities([network], x)


def ensemble(problem: Problem, budget: int, seed: int) -> Predictor:
    members = [early_stopped(problem, budget // MEMBERS, seed + 100 * k, problem.make) for k in range(MEMBERS)]
    return lambda x: mean_probabilities(members, x)


def dropout(problem: Problem, budget: int, seed: int) -> Predictor:
    """Of torch-uncertainty, with a dropout of 0.2 in front of the last layer."""
    from torch_uncertainty.methods import mc_dropout

    def make() -> nn.Module:
        layers = list(problem.make())
        return nn.Sequential(*layers[:-1], nn.Dropout(0.2), layers[-1])

    wrapped = mc_dropout(early_stopped(problem, budget, seed, make), num_estimators=DRAWS, on_batch=False).eval()

    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        return wrapped(x).view(DRAWS, len(x), -1).softmax(-1).mean(0)

    return predict


def swag(problem: Problem, budget: int, seed: int) -> Predictor:
    """Of torch-uncertainty: from the early stopped network, SGD with lr 0.05 and momentum 0.9 for half the budget."""
    from torch_uncertainty.methods.swag import SWAG

    network = early_stopped(problem, budget // 2, seed, problem.make).train()
    wrapped = SWAG(network, cycle_start=0, cycle_length=1, num_estimators=1)
    interval = max(budget // 200, 1)

    def look(step: int) -> None:
        if step % interval == 0:
            wrapped.update_wrapper(step // interval)

    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    train(problem, network, optimizer, budget - budget // 2, seed, look)
    draws = [wrapped.sample(wrapped.scale).eval() for _ in range(DRAWS)]
    return lambda x: mean_probabilities(draws, x)


def last_layer_laplace(problem: Problem, budget: int, seed: int) -> Predictor:
    """Of laplace-torch, full in the last layer, with the prior precision of the largest marginal likelihood."""
    from laplace import Laplace

    approximation = Laplace(early_stopped(problem, budget, seed, problem.make), "classification", "last_layer", "full")
    approximation.fit(problem.loader(seed))
    approximation.optimize_prior_precision(method="marglik")
    return lambda x: approximation(x, link_approx="mc", n_samples=DRAWS).detach()


def langevin(optimizer_class: Any, problem: Problem, budget: int, seed: int) -> Predictor:
    """One of ours, with the lr of suggest_settings, whose gradients are not counted, as those of no other's tuning."""
    torch.manual_seed(seed)
    network = problem.make()
    suggestion = suggest_settings(
        network,
        problem.loss,
        problem.loader(seed),
        optimizer=optimizer_class,
        params=problem.groups(network),
        temperature=problem.temperature,
        num_steps=min(budget // 5, 200),
    )
    burn_in = round(BURN_IN * budget)
    settings = {**suggestion.settings, "seed": seed}
    if optimizer_class is PSGLD:
        settings["freeze_after"] = burn_in
    draws: list[Any] = []

    def look(step: int) -> None:
        if step > burn_in and (step % THINNING == 0 or step == budget):
            draws.append(copy.deepcopy(network))

    train(problem, network, optimizer_class(problem.groups(network), **settings), budget, seed, look)
    return lambda x: mean_probabilities(draws, x)


def hamiltonian(problem: Problem, seed: int, *, adaptation: int, samples: int, chains: int = 2) -> list[Predictor]:
    """HMC with the full potential, in units of the prior's deviations; one predictor for each chain."""
    network = problem.make()
    names = [name for name, _ in network.named_parameters()]
    shapes = [parameter.shape for parameter in network.parameters()]
    sizes = [shape.numel() for shape in shapes]
    n, groups = len(problem.train[0]), problem.groups(network)
    deviations = torch.cat(
        [torch.full((p.numel(),), (n * g["weight_decay"]) ** -0.5) for g in groups for p in g["params"]]
    )
    x, y = problem.train

    def outputs(z: Tensor, inputs: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip((z * deviations).split(sizes), shapes, strict=True)]
        return functional_call(network, dict(zip(names, parts, strict=True)), (inputs,))

    def potential(_: Any, z: Tensor) -> Tensor:
        fitted = vmap(lambda each: problem.nll(outputs(each, x), y).sum())(z)
        return fitted + z.square().sum(1) / 2

    start = torch.randn(1, chains, len(deviations), generator=torch.Generator().manual_seed(seed))
    sampler = HMC(
        potential,
        torch.zeros(1, 1),
        start,
        step_size=0.01,
        num_leapfrog_steps=30,
        adapt_steps=adaptation,
        temperature=problem.temperature,
        seed=seed,
    )
    draws = []
    for step in range(adaptation + samples):
        sampler.step()
        if step >= adaptation:
            draws.append(sampler.z[0].clone())

    def predictor(chain: int) -> Predictor:
        @torch.no_grad()
        def predict(inputs: Tensor) -> Tensor:
            return torch.stack([outputs(draw[chain], inputs).softmax(1) for draw in draws]).mean(0)

        return predict

    return [predictor(chain) for chain in range(chains)]


OTHERS: dict[str, Callable[[Problem, int, int], Predictor]] = {
    "Adam, early stopping": adam,
    "Adam, to the end": adam_to_the_end,
    "deep ensemble of 5": ensemble,
    "MC dropout": dropout,
    "SWAG": swag,
    "Laplace, last layer": last_layer_laplace,
}
OURS = {"SGLD": SGLD, "PSGLD": PSGLD, "SGHMC": SGHMC, "SGNHT": SGNHT}
