"""Chains of a network on several processes: what each rank runs, by ``distributed.worlds``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from ald_ext import SGHMC
from ald_ext.bayes import PosteriorSamples, collect_parameters, local_learning_coefficient


def collect(folder: Path, **options: Any) -> PosteriorSamples:
    """Full-batch steps, so that chains do not depend on the order of minibatches."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 3, generator=generator), torch.arange(30) % 3
    torch.manual_seed(5)
    warnings.simplefilter("error")
    return collect_parameters(
        nn.Linear(3, 3),
        lambda module, chain: SGHMC(module.parameters(), lr=1e-2, num_data=30, seed=1, chain=chain),
        cross_entropy,
        [(x, y)],
        burn_in=2,
        num_samples=5,
        samples=PosteriorSamples(folder / "samples", resume=True),
        vectorized=False,
        **options,
    )


def learning_coefficients() -> list[float]:
    """Estimates of all ranks, whose generators differ, without a seed."""
    torch.manual_seed(distributed.get_rank())
    module, x, y = nn.Linear(1, 1), torch.ones(4, 1), torch.zeros(4, 1)
    torch.nn.utils.vector_to_parameters(torch.zeros(2), module.parameters())
    result = local_learning_coefficient(
        module, mse_loss, [(x, y)], lr=0.1, num_data=100, localization=1.0, chains=2, num_steps=8, burn_in=0
    )
    estimates: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(estimates, result.estimate)
    return estimates


def both(folder: Path) -> list[list[int] | list[float]]:
    """The chains that rank 0 has run: of as many as there are ranks, if nothing is said, and of three; estimates."""
    chains = [collect(folder / "2").chains, collect(folder / "3", chains=3).chains]
    warnings.simplefilter("ignore")  # of so few steps
    return [*chains, learning_coefficients()]
