"""Chains: some that mix at a known rate, and kinds of faulty ones with what is to be found and told of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def autoregressive(draws: int, n: int, chains: int, d: int, rho: float, seed: int = 0) -> Tensor:
    """z ← ρz + √(1-ρ²)ε, stationary, of variance 1; (draws, n, chains, d). ESS of the mean: total·(1-ρ)/(1+ρ)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(draws, n, chains, d, generator=generator, dtype=torch.float64)
    for t in range(1, draws):
        z[t] = rho * z[t - 1] + (1 - rho**2) ** 0.5 * z[t]
    return z


@dataclass(frozen=True)
class Faulty:
    """Good draws (draws, n, chains, d), spoilt in variable 1 of datum 0, and results there."""

    spoil: Callable[[Tensor], object]
    effective_sample_size: float
    r_hat: float
    warning: str

    def draws(self, num_draws: int = 300) -> Tensor:
        """The draws, of 3 data, 4 chains and 2 variables, good but for variable 1 of datum 0."""
        good = autoregressive(num_draws, 3, 4, 2, 0.3)
        self.spoil(good[:, 0, :, 1])
        return good


UNMOVED = "all draws are equal in {} of 12 chains, first in variable 1 of chain {} of datum 0: ESS is 0 and R-hat inf"
NON_FINITE = "draws are not finite, in {} of 12 chains, the first of them draw {} of chain {} of datum 0"

#: By name. A draw of a chain is z[draw, chain].
FAULTY = {
    "no chain moved": Faulty(lambda z: z.copy_(z[:1].clone()), 0, math.inf, UNMOVED.format(4, 0)),
    "all at one place": Faulty(lambda z: z.fill_(1.5), 0, math.inf, UNMOVED.format(4, 0)),
    "all at 0": Faulty(lambda z: z.zero_(), 0, math.inf, UNMOVED.format(4, 0)),
    "one stuck at the mean": Faulty(lambda z: z[:, 2].fill_(z.mean()), 0, math.inf, UNMOVED.format(1, 2)),
    "one stuck far away": Faulty(lambda z: z[:, 3].fill_(9), 0, math.inf, UNMOVED.format(1, 3)),
    "a NaN": Faulty(lambda z: z[17, 2].fill_(math.nan), math.nan, math.nan, NON_FINITE.format(1, 17, 2)),
    "an infinity": Faulty(lambda z: z[-1, 1].fill_(-math.inf), math.nan, math.nan, NON_FINITE.format(1, 299, 1)),
    "NaN from a draw on": Faulty(lambda z: z[250:].fill_(math.nan), math.nan, math.nan, NON_FINITE.format(4, 250, 0)),
    "a chain of NaN": Faulty(lambda z: z[:, 3].fill_(math.nan), math.nan, math.nan, NON_FINITE.format(1, 0, 3)),
    "NaN and stuck": Faulty(
        lambda z: (z[:, 0].fill_(math.nan), z[:, 1].fill_(0)), math.nan, math.nan, NON_FINITE.format(1, 0, 0)
    ),
}
