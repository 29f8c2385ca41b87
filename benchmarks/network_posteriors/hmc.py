"""HMC of the full posterior on the digits, and how near the predictions by minibatches are to its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ald_ext.progress import progress_bar
from ald_ext.samplers import HMC, CapturedPotential

from .comparison import Suggest
from .methods import OURS, langevin
from .problems import Problem
from .scores import agreement, class_scores, probabilities_of

CHAINS, LEAPFROG_STEPS = 4, 30
#: The prior's gain, the temperature and the gradients of the chains by minibatches in each comparison.
CASES = ((4.0, 1.0, 20_000), (16.0, 0.02, 20_000))
COMPARED = ("SGLD", "SGHMC")
#: Draws of each chain by minibatches, so many that their averages are not noisy beside the differences.
NUM_DRAWS = 400


def hamiltonian(problem: Problem, seed: int, *, adaptation: int, samples: int, show: bool) -> list[Tensor]:
    """Logits (draws, n, classes) of the test data, by each of some chains of HMC in units of the prior's deviations."""
    network = problem.make()
    names = [name for name, _ in network.named_parameters()]
    shapes = [parameter.shape for parameter in network.parameters()]
    n, groups = len(problem.train[0]), problem.groups(network)
    deviations = torch.cat(
        [torch.full((p.numel(),), (n * g["weight_decay"]) ** -0.5) for g in groups for p in g["params"]]
    )
    x, y = problem.train
    sizes = [shape.numel() for shape in shapes]

    def outputs(z: Tensor, inputs: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip((z * deviations).split(sizes), shapes, strict=True)]
        return functional_call(network, dict(zip(names, parts, strict=True)), (inputs,))

    def potential(_: Any, z: Tensor) -> Tensor:
        return vmap(lambda each: problem.nll(outputs(each, x), y).sum())(z) + z.square().sum(1) / 2

    sampler = HMC(
        CapturedPotential(potential),
        None,
        torch.randn(1, CHAINS, len(deviations), generator=torch.Generator().manual_seed(seed)),
        step_size=0.01,
        num_leapfrog_steps=LEAPFROG_STEPS,
        adapt_steps=adaptation,
        temperature=problem.temperature,
        seed=seed,
    )
    draws = []
    for step in progress_bar(range(adaptation + samples), show=show, desc="HMC", unit="step"):
        z = sampler.step()[0]
        if step >= adaptation:
            with torch.no_grad():
                draws.append(vmap(lambda each: outputs(each, problem.test[0]))(z))
    return list(torch.stack(draws, 1))


def compare_with_hmc(
    problem: Problem, case: tuple[float, float, int], suggest: Suggest, *, adaptation: int, samples: int, show: bool
) -> list[dict[str, Any]]:
    """Scores of HMC, agreement of half of its chains with the others, and of SGLD and SGHMC with all of them."""
    gain, temperature, budget = case
    problem = replace(problem, prior_gain=gain, temperature=temperature, budget=budget)
    x, y = problem.test
    chains = hamiltonian(problem, 0, adaptation=adaptation, samples=samples, show=show)
    halves = [torch.cat(half) for half in (chains[: CHAINS // 2], chains[CHAINS // 2 :])]
    exact = torch.cat(halves)
    compared = {"HMC, half of the chains and the others": (halves[0], halves[1], exact)}
    for method in COMPARED:
        found = langevin(OURS[method], problem, 0, suggest(method, problem), NUM_DRAWS)(x)
        compared[method] = (found, exact, found)
    common = {"prior_gain": gain, "temperature": temperature, "budget": budget, "samples": samples}
    return [
        {**common, "method": name, **agreement(probabilities_of(a), probabilities_of(b)), **class_scores(scored, y)}
        for name, (a, b, scored) in compared.items()
    ]
