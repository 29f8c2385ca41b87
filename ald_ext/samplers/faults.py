"""What is wrong with draws, and told: draws that are not finite, divergences, and chains that never moved.

Note [Faults of chains]
    Where a chain never moved, as all of its draws of a variable, four at least, are equal, the effective sample size is
    0, and R-hat and the Monte Carlo error are infinite. Where a draw is NaN or infinite, they are NaN. Both are told by
    a UserWarning, which names the first such chain.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..settings import from_dict

#: Of chains in a variable: what is wrong, and what the results are there.
UNMOVED = ("all draws are equal", "ESS is 0 and R-hat inf")
NON_FINITE = ("draws are not finite", "results are NaN")


def warn_of_chains(name: str, fault: tuple[str, str], where: Tensor, *, stacklevel: int) -> None:
    """Warn of a fault, UNMOVED or NON_FINITE, if chains have it in a variable, (n, chains, d) bool."""
    if where.any():
        (what, results), chains = fault, where.any(-1)
        datum, chain, variable = where.nonzero()[0].tolist()
        warnings.warn(
            f"ald_ext.samplers.{name}: {what} in {int(chains.sum())} of {chains.numel()} chains, first in variable "
            f"{variable} of chain {chain} of datum {datum}: {results} there; try a smaller step size",
            stacklevel=stacklevel,
        )


def warn_of_short_batches(name: str, where: Tensor, size: int, num_batches: int, *, stacklevel: int) -> None:
    """Warn of variables, (n, d) bool, of which batches of so many draws tell no effective sample size."""
    if where.any():
        warnings.warn(
            f"ald_ext.samplers.{name}: {int(where.sum())} of {where.numel()} values are NaN, as no more than "
            f"{num_batches} batches of {size} draws do not tell their autocorrelation: try num_batches=128",
            stacklevel=stacklevel,
        )


def warn_of_non_finite_draws(name: str, count: Tensor, first: Tensor, num_draws: int, *, stacklevel: int) -> None:
    """Warn of draws that are not finite, by their number in each chain and the first of them, both (n, chains)."""
    if count.any():
        draw = int(first[count > 0].min())
        datum, chain = ((count > 0) & (first == draw)).nonzero()[0].tolist()
        warnings.warn(
            f"ald_ext.samplers.{name}: {int(count.sum())} of {num_draws * count.numel()} draws are not finite, in "
            f"{int((count > 0).sum())} of {count.numel()} chains, the first of them draw {draw} of chain {chain} of "
            f"datum {datum}: try a smaller step size",
            stacklevel=stacklevel,
        )


def warn_of_lone_chains(name: str, n: int, *, stacklevel: int) -> None:
    """Warn if draws (n, d) of several data, which have no axis that says how many chains there are, are compared."""
    if n > 1:
        warnings.warn(
            f"ald_ext.samplers.{name}: draws (n, d) = ({n}, …) count as {n} data with one chain each, whose halves are "
            f"compared; if they are {n} chains of one target, they have to be (1, chains, d), and else (n, 1, d)",
            stacklevel=stacklevel,
        )


@dataclass
class MonitorState:
    """What :meth:`DrawMonitor.state_dict` returns."""

    num_draws: int
    started: bool
    counts: dict[str, Tensor]


class DrawMonitor:
    """Counts draws that are not finite, and divergences, of each chain, without waiting for an accelerator.

    Args:
        sampler: the sampler. If it has ``divergences``, the number of those so far, (n, [chains]) int64, they are read.
    """

    def __init__(self, sampler: object) -> None:
        self.sampler = sampler
        self.num_draws = 0
        self._started = False
        #: "non_finite", "first" of these, and "divergences" at the last draw and at "start", all (n, [chains])
        self._counts: dict[str, Tensor] = {}
        self._told = (0, 0)

    def start(self) -> None:
        """Count divergences from the next step on, if they do not count already."""
        if not self._started:
            self._started = True
            if (divergences := self._divergences()) is not None:
                self._counts |= {"start": divergences.clone(), "divergences": divergences.clone()}

    def take(self, state: Tensor) -> Tensor | None:
        """Take in one draw; return where a step has diverged since the one before, or None if that is unknown."""
        counts = self._counts
        if state.device.type != "cpu" or not math.isfinite(state.sum().item()):  # the sum is one quick op
            bad = ~state.isfinite().all(-1)
            zeros = torch.zeros_like(bad, dtype=torch.int64)
            count, first = (counts.get(name, zeros).to(bad.device) for name in ("non_finite", "first"))
            counts["first"] = torch.where(bad & (count == 0), self.num_draws, first)
            counts["non_finite"] = count + bad
        self.num_draws += 1
        if "divergences" not in counts or (divergences := self._divergences()) is None:
            return None
        diverging = divergences > counts["divergences"].to(divergences.device)
        counts["divergences"] = divergences.clone()
        fits = diverging.numel() == state[..., 0].numel()  # not if a minibatch of all data is returned
        return diverging.reshape(state.shape[:-1]) if fits else None

    def tell(self, name: str, *, stacklevel: int, remedy: str = "try a smaller step size") -> None:
        """Warn of chains that are not finite any more, or else of divergences, if there are more than were told."""
        found = {key: values.cpu().reshape(len(values), -1) for key, values in self._counts.items()}
        non_finite = found.get("non_finite", torch.zeros(1, 1))
        diverged = found["divergences"] - found["start"] if "start" in found else torch.zeros(1, 1)
        chains, number = int((non_finite > 0).sum()), int(diverged.sum())
        told, self._told = self._told, (chains, number)
        if chains > told[0]:
            warn_of_non_finite_draws(name, non_finite, found["first"], self.num_draws, stacklevel=stacklevel + 1)
        elif number > told[1] and not chains:
            datum, chain = divmod(int(diverged.argmax()), diverged.shape[1])
            warnings.warn(
                f"ald_ext.samplers.{name}: {number} transitions diverged, in {int((diverged > 0).sum())} of "
                f"{diverged.numel()} chains, {int(diverged.max())} of them in chain {chain} of datum {datum}: where "
                f"the target is narrow, draws are too few; {remedy}",
                stacklevel=stacklevel,
            )

    def _divergences(self) -> Tensor | None:
        if not getattr(self.sampler, "rejects", True):
            return None  # without a test, those are the states that are not finite, which are counted already
        divergences = getattr(self.sampler, "divergences", None)
        return divergences if isinstance(divergences, Tensor) else None

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the counts."""
        counts = {name: values.clone() for name, values in self._counts.items()}
        return vars(MonitorState(self.num_draws, self._started, counts))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError if it is not one."""
        saved = from_dict(MonitorState, state, "ald_ext.samplers.Collector: state: monitor")
        self.num_draws, self._started = saved.num_draws, saved.started
        self._counts = {name: values.clone() for name, values in saved.counts.items()}
