"""Bayesian linear regression on several ranks, each with data of its own: what runs in the worlds of test_posterior.py.

Every row of the parameter is a chain with a data set of its own, so that chains are independent and say how exact their
averages are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as distributed
from distributed.wrapped import whole
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ald_ext import SGLD

CHAINS, NUM_DATA, BATCH = 301, 64, 16
PRIOR_PRECISION = 4.0
STEPS, BURN_IN, THINNING = 1800, 600, 20

WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {"DDP": DistributedDataParallel, "FSDP2": fully_shard}


class Regressions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CHAINS, 2, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean over the minibatch of -log N(y; x·w, 1), summed over the chains."""
        return ((y - (x * self.weight).sum(-1)) ** 2 / 2).sum(-1).mean()


def moments_in_mcse(folder: Path) -> dict[str, list[float]]:
    """How far means, variances and the covariance are from the exact ones, in Monte Carlo standard errors."""
    torch.manual_seed(0)
    x = torch.randn(NUM_DATA, CHAINS, 2, dtype=torch.float64) + torch.tensor([0.0, 0.5])
    y = (x * torch.randn(CHAINS, 2)).sum(-1) + torch.randn(NUM_DATA, CHAINS)
    precision = torch.einsum("nci,ncj->cij", x, x) + PRIOR_PRECISION * torch.eye(2)
    mean = torch.linalg.solve(precision, torch.einsum("nci,nc->ci", x, y))
    factor = torch.linalg.cholesky(precision)  # of the inverse covariance: factor^T (w - mean) ~ N(0, I)

    rank, world = distributed.get_rank(), distributed.get_world_size()
    own_x, own_y = x[rank::world], y[rank::world]
    batches = torch.Generator().manual_seed(rank)
    found = {}
    for name, wrap in WRAPPERS.items():
        model = wrap(Regressions())
        # num_data is that of the whole data set, though a rank has a part: wrappers average gradients over ranks.
        options = {"num_data": NUM_DATA, "weight_decay": PRIOR_PRECISION / NUM_DATA}
        optimizer = SGLD(model.parameters(), 0.008, **options, seed=1)
        samples = []
        for step in range(STEPS):
            optimizer.zero_grad()
            batch = torch.randperm(len(own_x), generator=batches)[: BATCH // world]
            model(own_x[batch], own_y[batch]).backward()
            optimizer.step()
            if step >= BURN_IN and step % THINNING == 0:
                samples.append(whole(model)["weight"].clone())
        standard = torch.einsum("cij,sci->scj", factor, torch.stack(samples) - mean)
        statistics = [standard[..., 0], standard[..., 1], standard[..., 0] ** 2 - 1, standard[..., 1] ** 2 - 1]
        statistics.append(standard[..., 0] * standard[..., 1])
        by_chain = torch.stack([statistic.mean(0) for statistic in statistics])
        found[name] = (by_chain.mean(1) / (by_chain.std(1) / math.sqrt(CHAINS))).tolist()
    return found
