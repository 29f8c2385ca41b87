"""Runs of the chains: how long they must be to forget their initial states, and what is measured then."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .targets import INITIAL_SPREAD, Chains

#: Standard errors from which on something counts as off.
SIGNIFICANT = 5.0

#: Standard errors from which on a difference counts as seen.
EVIDENT = 4.0

#: Steps of the first window, and from one state that is measured to the next.
FIRST_WINDOW, STRIDE = 64, 4

#: The least standard error (rounding), so that a sampler without noise has finite z-scores.
SMALLEST_ERROR = 1e-4

#: The least spread, in standard deviations, of chains that have noise of their own.
SMALLEST_SPREAD = 1e-5

#: Squared standardized distance from which on a chain counts as diverged.
DIVERGED = 1e12


@dataclass(frozen=True)
class CheckRun:
    """The measurements at one step size. Lists have one entry for each direction.

    Attributes:
        step_scale: 1 at the caller's step size, 1/2 at half of it.
        num_steps: number of steps that were made.
        converged: whether the two kinds of initial states had become the same.
        variance_ratios: sampled over true variance; infinite if the chains diverged.
        standard_errors: of the ratios, from the spread over replicas.
        mean_z_scores: sampled minus true mean, in standard errors.
        noiseless: whether chains that began at the same state stayed together, so that the run was stopped.
    """

    step_scale: float
    num_steps: int
    converged: bool
    variance_ratios: list[float]
    standard_errors: list[float]
    mean_z_scores: list[float]
    noiseless: bool = False

    @property
    def diverged(self) -> bool:
        """Whether the chains diverged."""
        return not all(math.isfinite(ratio) for ratio in self.variance_ratios)

    @property
    def z_scores(self) -> list[float]:
        """The z-scores of the variance ratios, against 1."""
        return [(ratio - 1) / error for ratio, error in zip(self.variance_ratios, self.standard_errors, strict=True)]

    @property
    def largest_deviation(self) -> float:
        """The largest deviation of a variance ratio from 1."""
        return max(abs(ratio - 1) for ratio in self.variance_ratios)

    @property
    def has_strayed(self) -> bool:
        """Whether a ratio is evidently larger than in any initial states."""
        pairs = zip(self.variance_ratios, self.standard_errors, strict=True)
        return any(ratio - SIGNIFICANT * error > INITIAL_SPREAD for ratio, error in pairs)

    @property
    def mean_is_off(self) -> bool:
        """Whether a mean is off by 5 standard errors or more."""
        return any(abs(score) >= SIGNIFICANT for score in self.mean_z_scores)


@dataclass(frozen=True)
class Window:
    """Time averages over a stretch of a run, (replicas, d) each: of standardized states, and of their squares."""

    means: Tensor
    squares: Tensor

    def ratios(self) -> tuple[Tensor, Tensor]:
        """Return the ratios of sampled to true variances, with standard errors, (d,) each."""
        ratio = self.squares.mean(0) - self.means.mean(0).square()
        return ratio, standard_error(self.squares)

    def stayed_together(self) -> bool:
        """Return whether the replicas that began at the same state are still alike."""
        alike = self.means[: len(self.means) // 2]
        return bool((alike.amax(0) - alike.amin(0) < SMALLEST_SPREAD).all())

    def halves_agree(self) -> bool:
        """Return whether the replicas from the two kinds of initial states agree."""
        half = len(self.means) // 2
        first, second = (Window(self.means[part], self.squares[part]) for part in (slice(half), slice(half, None)))
        return first.agrees_with(second)

    def agrees_with(self, other: Window) -> bool:
        (first, first_error), (second, second_error) = self.ratios(), other.ratios()
        bound = EVIDENT * (first_error.square() + second_error.square()).sqrt()
        return bool(((first - second).abs() <= bound).all())


def standard_error(values: Tensor) -> Tensor:
    """Return the standard error of the mean over independent replicas, (replicas, d) -> (d,)."""
    return (values.std(0) / math.sqrt(len(values))).clamp_min(SMALLEST_ERROR)


def measure_window(chains: Chains, num_steps: int) -> Window | None:
    """Return the time averages over a stretch of the run; None if the chains diverge."""
    totals: list[Tensor] = []
    for _ in range(num_steps // STRIDE):
        for _ in range(STRIDE):
            state = chains.step()
        y = chains.target.standardize(state).double()
        if not totals:
            totals = [torch.zeros_like(y), torch.zeros_like(y)]
        totals[0] += y
        totals[1].addcmul_(y, y)
    means, squares = (total / (num_steps // STRIDE) for total in totals)
    return Window(means, squares) if bool((squares < DIVERGED).all()) else None


def measure(chains: Chains, step_scale: float, max_steps: int) -> CheckRun:
    """Double the run until the chains have converged, then once more, and measure that last window."""
    before: Window | None = None
    num_steps, length, agreed = 0, max(FIRST_WINDOW, 2 * chains.warm_up) // STRIDE * STRIDE, False
    while True:
        window = measure_window(chains, length)
        num_steps += length
        if window is None:
            d = len(chains.target.variances)
            return CheckRun(step_scale, num_steps, True, [math.inf] * d, [1.0] * d, [0.0] * d)
        noiseless = before is None and window.stayed_together()
        if agreed or noiseless or num_steps >= max_steps:
            measured = *window.ratios(), window.means.mean(0) / standard_error(window.means)
            ratios, errors, scores = (values.tolist() for values in measured)
            return CheckRun(step_scale, num_steps, agreed, ratios, errors, scores, noiseless)
        # The second condition is for initial states that are both too narrow, which agree too early.
        agreed = window.halves_agree() and before is not None and window.agrees_with(before)
        before, length = window, num_steps
