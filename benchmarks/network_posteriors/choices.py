"""Measures how near the lr of suggest_settings is to the best of a grid, and writes choices.json to the folder --out.

python -m benchmarks.network_posteriors.choices --out benchmarks/results [--problems unseen] [--quick]

The best lr of a number of steps is that whose average prediction is nearest to the exact posterior's, of HMC: smaller
ones have not got around by then, larger ones sample another distribution. As distance stands the mean absolute
difference of log predictive densities of held-out data, averaged over chains from several optima. Every lr whose mean
distance is within one standard error of the smallest counts as best.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ald_ext import PSGLD
from ald_ext.bayes import suggest_settings
from ald_ext.bayes.network_chains import NetworkChains
from ald_ext.files import write_json
from ald_ext.progress import progress_bar
from ald_ext.samplers import DynamicHMC, sample

from ..provenance import describe_run
from .choice_problems import MADE_ON, UNSEEN, Choice
from .problems import Problem

FILE = "choices.json"
SETS = {"made on": MADE_ON, "unseen": UNSEEN}
#: Steps of the optimization and of the chain, and between draws.
WARM_UP, STEPS, THINNING = 1000, 2000, 20
#: Factors between neighbours of the grid, and how far it reaches to both sides of the suggestion.
FACTOR, REACH = 2.0, 3
#: Chains of HMC, draws of each, and leapfrog steps at most.
CHAINS, DRAWS, MAX_LEAPFROG_STEPS = 4, 150, 50


def mean_likelihood_nll(log_likelihoods: Tensor) -> Tensor:
    """-log of the mean likelihood over draws (draws, n), for each datum (n,); infinite where it is not finite."""
    mean = log_likelihoods.logsumexp(0) - math.log(len(log_likelihoods))
    return torch.where(mean.isfinite(), -mean, math.inf)


def minibatches(problem: Problem, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of shuffled training data, without end."""
    generator, (x, y) = torch.Generator().manual_seed(seed), problem.train
    while True:
        for rows in torch.randperm(len(x), generator=generator).split(problem.batch_size):
            yield x[rows], y[rows]


def predictive_nlls(choice: Choice, settings: list[dict[str, float]], starts: list[Any], steps: int) -> Tensor:
    """Those of chains with each of the settings from each of the starts, (settings, starts, n)."""
    problem, (x, y) = choice.problem, choice.problem.test
    modules = [copy.deepcopy(start) for _ in settings for start in starts]
    chains = NetworkChains(modules, problem.loss, vectorized=True)
    seeds = [seed for _ in settings for seed in range(len(starts))]
    repeated = [each for each in settings for _ in starts]
    optimizers = [
        choice.optimizer(problem.groups(module), seed=seed, **each)
        for module, seed, each in zip(modules, seeds, repeated, strict=True)
    ]
    batches, draws = [minibatches(problem, seed) for seed in range(len(starts))], []
    for step in range(1, steps + 1):
        chains.gradients([next(each) for each in batches] * len(settings))
        for optimizer in optimizers:
            optimizer.step()
        if step > steps // 4 and step % THINNING == 0:
            with torch.no_grad():
                draws.append(torch.stack([-problem.nll(module(x), y) for module in modules]))
    return mean_likelihood_nll(torch.stack(draws)).unflatten(0, (len(settings), len(starts)))


def optimized(problem: Problem, seed: int, steps: int) -> Any:
    """A network after some steps of Adam, with the prior, whose lr falls from 0.01 to 0 as that of suggest_settings."""
    torch.manual_seed(seed)
    network = problem.make()
    optimizer = torch.optim.Adam(problem.groups(network), lr=0.01)
    for step, (inputs, targets) in zip(range(steps), minibatches(problem, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / steps)
        optimizer.zero_grad()
        problem.loss(network(inputs), targets).backward()
        optimizer.step()
    return network


def exact_nll(problem: Problem, starts: list[Any], draws: int) -> tuple[Tensor, Tensor]:
    """Those of HMC's draws for each test datum, of all its chains (n,) and of each (chains, n)."""
    network, (x, y) = problem.make(), problem.train
    precisions = {p: len(x) * group["weight_decay"] for group in problem.groups(network) for p in group["params"]}
    priors = {name: precisions[p] for name, p in network.named_parameters()}

    def log_density(parameters: dict[str, Tensor]) -> Tensor:
        nll = problem.nll(functional_call(network, parameters, (x,)), y).sum()
        prior = sum(priors[name] * value.square().sum() / 2 for name, value in parameters.items())
        return -(nll + prior) / problem.temperature

    given = {name: torch.stack([dict(s.named_parameters())[name].detach() for s in starts]) for name in priors}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights of equal units need not agree; predictions are compared below
        kernel = partial(DynamicHMC, max_leapfrog_steps=MAX_LEAPFROG_STEPS)
        posterior = sample(log_density, given, num_samples=draws, warm_up=draws, kernel=kernel, seed=0)
    inputs, targets = problem.test

    def log_likelihood(parameters: dict[str, Tensor]) -> Tensor:
        return -problem.nll(functional_call(network, parameters, (inputs,)), targets)

    with torch.no_grad():
        each_draw = vmap(vmap(log_likelihood), chunk_size=10)(posterior.samples)  # (draws, chains, n)
    chains = torch.stack([mean_likelihood_nll(chain) for chain in each_draw.unbind(1)])
    return mean_likelihood_nll(each_draw.flatten(0, 1)), chains


def compare_choice(choice: Choice, *, quick: bool = False) -> dict[str, Any]:
    """The suggestion, distances from the posterior over the grid around it, and its ratio to the best lr."""
    problem = choice.problem
    warm_up, steps, reach, chains, draws = (100, 80, 1, 2, 20) if quick else (WARM_UP, STEPS, REACH, CHAINS, DRAWS)
    torch.manual_seed(0)
    network = problem.make()
    began = time.process_time()
    suggestion = suggest_settings(
        network,
        problem.loss,
        problem.loader(0),
        optimizer=choice.optimizer,
        params=problem.groups(network),
        temperature=problem.temperature,
        warm_up=warm_up,
        num_steps=32 if quick else 200,
    )
    seconds = time.process_time() - began
    suggested = suggestion.settings["lr"]
    grid = [suggested * FACTOR**power for power in range(-reach, reach + 1)]
    frozen = {"freeze_after": steps // 4} if choice.optimizer is PSGLD else {}
    starts = [optimized(problem, seed, warm_up) for seed in range(chains)]
    exact, each_chain = exact_nll(problem, starts, draws)
    nlls = predictive_nlls(choice, [{**suggestion.settings, **frozen, "lr": lr} for lr in grid], starts, steps)
    distances = (nlls - exact).abs().mean(2)
    means, errors = distances.mean(1), distances.std(1) / math.sqrt(chains)
    best = means.argmin()
    good = [lr for lr, mean in zip(grid, means, strict=True) if mean <= means[best] + errors[best]]
    nearest = min(good, key=lambda lr: abs(math.log(lr / suggested)))
    return {
        "problem": problem.name,
        "optimizer": choice.optimizer.__name__,
        "suggested_lr": suggested,
        "best_lrs": good,
        "ratio": suggested / nearest,
        "grid": grid,
        "distances": means.tolist(),
        "standard_errors": errors.tolist(),
        "nll": nlls.mean((1, 2)).tolist(),
        "exact_nll": exact.mean().item(),
        "exact_distance": (each_chain - exact).abs().mean().item(),
        "seconds": seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
        "reasons": suggestion.reasons,
        "temperatures": [[trial.lr, trial.judged_temperature] for trial in suggestion.trials],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--number", type=int, nargs="+", help="only these of each set, from 0")
    parser.add_argument("--quick", action="store_true", help="hardly any steps, to see that it runs")
    options = parser.parse_args(arguments)
    path = options.out / FILE
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in options.problems:
        rows = results.setdefault(name, [])
        for number, (make, optimizer) in enumerate(progress_bar(SETS[name], show=not options.quick, desc=name)):
            if options.number is None or number in options.number:
                row = compare_choice(Choice(make(), optimizer), quick=options.quick)
                same = (row["problem"], row["optimizer"])
                rows[:] = [*(other for other in rows if (other["problem"], other["optimizer"]) != same), row]
                results["run"] = describe_run(torch.device("cpu"), "python -m benchmarks.network_posteriors.choices")
                options.out.mkdir(parents=True, exist_ok=True)
                write_json(path, results)


if __name__ == "__main__":
    main()
