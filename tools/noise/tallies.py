"""Sums over batches of normals, and the tests they end in.

Correlations are of Hermite polynomials, He_1 = x, He_2 = x² - 1, He_3 = x³ - 3x, divided by √k!: orthonormal under the
normal distribution, so that the mean of n products of independent elements has standard error 1/√n exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .null_distributions import (
    anderson_darling_upper,
    binomial_two_sided,
    chi_square_two_sided,
    fisher,
    kolmogorov_smirnov_upper,
    normal_two_sided,
    two_sided,
)

#: Neighbours, and the layout's lengths (csrc/math/normal.h, Note [Noise layout]): 16 blocks side by side, chunks of 64.
LAGS = (1, 2, 3, 4, 8, 15, 16, 17, 32, 48, 63, 64, 65, 128)
#: 16 is that of a Box-Muller pair.
PAIR_LAGS = (1, 16, 32, 64)
TAILS = (3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Outcome:
    """One test. ``expected``: mean of what is observed where the normals are perfect."""

    group: str
    name: str
    draws: int
    observed: float
    expected: float
    p_value: float

    @staticmethod
    def chi_square(group: str, name: str, draws: int, statistic: float, degrees: int) -> Outcome:
        return Outcome(group, name, draws, statistic, degrees, chi_square_two_sided(statistic, degrees))

    @staticmethod
    def of_counts(group: str, name: str, draws: int, counts: Tensor) -> Outcome:
        """χ² of counts in bins that are equally probable."""
        expected = float(counts.mean())
        statistic = float(((counts - expected) ** 2).sum()) / expected
        return Outcome.chi_square(group, name, draws, statistic, len(counts) - 1)


class MomentTally:
    """Raw moments of order 1 to 6. The mean of x^k has variance ((2k - 1)!! - (E x^k)²) / n."""

    ORDERS = range(1, 7)

    def __init__(self, group: str) -> None:
        self.group, self.sums, self.draws = group, dict.fromkeys(self.ORDERS, 0.0), 0

    def add(self, x: Tensor) -> None:
        """x: float64."""
        power = x
        for order in self.ORDERS:
            self.sums[order] += float(power.sum())
            power = power * x
        self.draws += len(x)

    def outcomes(self) -> list[Outcome]:
        outcomes = []
        moments = {order: 0 if order % 2 else math.prod(range(order - 1, 0, -2)) for order in range(1, 13)}
        for order in self.ORDERS:
            mean, expected = self.sums[order] / self.draws, moments[order]
            standard_error = math.sqrt((moments[2 * order] - expected**2) / self.draws)
            p_value = normal_two_sided((mean - expected) / standard_error)
            outcomes.append(Outcome(self.group, f"mean of x^{order}", self.draws, mean, expected, p_value))
        return outcomes


class DistributionTally:
    """Kolmogorov-Smirnov and Anderson-Darling of each batch; of all draws, equiprobable bins, tails and extremes.

    A batch's tests are exact, and Fisher's method combines their p-values: p for distances too large, 1 - p for those
    too small. All draws are counted between 4095 quantiles. A float32 is rounded by up to 3e-8 where normals are
    dense, which shifts up to 1e-8 of the probability across a bin's edge: of 1e9 draws, 0.03 standard errors of its
    count, and finer bins would come to feel it. Kolmogorov's distance at those edges alone is the smaller, by about 1%.
    """

    BINS = 4096
    #: Bins of equal width, for the picture.
    PLOT_EDGES = torch.linspace(-6.5, 6.5, 131, dtype=torch.float64)

    def __init__(self, group: str) -> None:
        self.group = group
        self.cdf = torch.arange(1, self.BINS, dtype=torch.float64) / self.BINS
        self.edges = torch.special.ndtri(self.cdf)
        self.below_edges = torch.zeros(self.BINS - 1, dtype=torch.int64)
        self.below_plot_edges = torch.zeros(len(self.PLOT_EDGES), dtype=torch.int64)
        self.tails = {side: dict.fromkeys(TAILS, 0) for side in ("lower", "upper")}
        self.kolmogorov_smirnov: list[float] = []
        self.anderson_darling: list[float] = []
        self.draws = self.zeros = 0
        self.largest = 0.0

    def add(self, x: Tensor) -> None:
        """x: as the generator gives it."""
        # numpy sorts by vector instructions, several times faster than torch.
        x = torch.from_numpy(np.sort(x.numpy())).double()
        log_lower, log_upper = torch.special.log_ndtr(x), torch.special.log_ndtr(-x)
        self.kolmogorov_smirnov.append(kolmogorov_smirnov_upper(kolmogorov_distance(log_lower.exp()), len(x)))
        self.anderson_darling.append(anderson_darling_upper(anderson_darling_statistic(log_lower, log_upper)))
        self.below_edges += torch.searchsorted(x, self.edges)
        self.below_plot_edges += torch.searchsorted(x, self.PLOT_EDGES)
        for tail in TAILS:
            self.tails["lower"][tail] += count_below(x, -tail)
            self.tails["upper"][tail] += len(x) - count_below(x, tail, or_equal=True)
        self.zeros += count_below(x, 0.0, or_equal=True) - count_below(x, 0.0)
        self.largest = max(self.largest, -float(x[0]), float(x[-1]))
        self.draws += len(x)

    def outcomes(self) -> list[Outcome]:
        return [*self.batch_outcomes(), *self.pooled_outcomes(), *self.tail_outcomes()]

    def batch_outcomes(self) -> list[Outcome]:
        outcomes = []
        tests = {"Kolmogorov-Smirnov": self.kolmogorov_smirnov, "Anderson-Darling": self.anderson_darling}
        for name, p_values in tests.items():
            for what, values in (("p", p_values), ("1 - p", [1 - p for p in p_values])):
                statistic, p_value = fisher(values)
                title = f"{name} of {len(values)} batches, -2 Σ log({what})"
                outcomes.append(Outcome(self.group, title, self.draws, statistic, 2 * len(values), p_value))
        return outcomes

    def pooled_outcomes(self) -> list[Outcome]:
        below = self.below_edges.double()
        counts = torch.diff(below, prepend=torch.zeros(1), append=torch.tensor([float(self.draws)]))
        distance = float((below / self.draws - self.cdf).abs().max())
        p_value = kolmogorov_smirnov_upper(distance, self.draws)
        statistic, mean = math.sqrt(self.draws) * distance, math.sqrt(math.pi / 2) * math.log(2)
        return [
            Outcome.of_counts(self.group, f"χ² of {self.BINS} equiprobable bins", self.draws, counts),
            Outcome(self.group, "Kolmogorov-Smirnov at the bins' edges, √n D", self.draws, statistic, mean, p_value),
        ]

    def tail_outcomes(self) -> list[Outcome]:
        """Binomial counts; and P(max |x| ≤ m) = (1 - P(|X| > m))^n, which is a half at the median."""
        outcomes = []
        for tail in TAILS:
            probability = math.erfc(tail / math.sqrt(2)) / 2
            lower, upper = self.tails["lower"][tail], self.tails["upper"][tail]
            counts = ((f"x < -{tail:g}", lower, 1), (f"x > {tail:g}", upper, 1), (f"|x| > {tail:g}", lower + upper, 2))
            for name, count, sides in counts:
                p_value = binomial_two_sided(count, self.draws, sides * probability)
                expected = sides * probability * self.draws
                outcomes.append(Outcome(self.group, f"count of {name}", self.draws, count, expected, p_value))
        log_lower = self.draws * math.log1p(-min(math.erfc(self.largest / math.sqrt(2)), 1 - 1e-16))
        p_value = two_sided(math.exp(log_lower), -math.expm1(log_lower))
        median = -float(torch.special.ndtri(torch.tensor(math.log(2) / self.draws / 2, dtype=torch.float64)))
        title = "largest |x| (expected: its median)"
        return [*outcomes, Outcome(self.group, title, self.draws, self.largest, median, p_value)]

    def plot_histogram(self) -> dict[str, list[float]]:
        """Counts in bins of equal width, and how many are expected there."""
        return {
            "edges": self.PLOT_EDGES.tolist(),
            "counts": self.below_plot_edges.diff().tolist(),
            "expected": (self.draws * torch.special.ndtr(self.PLOT_EDGES).diff()).tolist(),
        }


def count_below(ascending: Tensor, value: float, or_equal: bool = False) -> int:
    return int(torch.searchsorted(ascending, value, right=or_equal))


def kolmogorov_distance(cdf: Tensor) -> float:
    """D = max over i of i/n - F(x_i) and F(x_i) - (i - 1)/n, for ascending x."""
    n = len(cdf)
    excess = torch.arange(1, n + 1, dtype=torch.float64) / n - cdf
    return float(torch.maximum(excess.max(), 1 / n - excess.min()))


def anderson_darling_statistic(log_lower: Tensor, log_upper: Tensor) -> float:
    """A² = -n - 1/n Σ (2i - 1) (log F(x_i) + log(1 - F(x_(n+1-i)))), for ascending x."""
    n = len(log_lower)
    odd = torch.arange(1, 2 * n, 2, dtype=torch.float64)
    return -n - float(torch.dot(odd, log_lower) + torch.dot(odd.flip(0), log_upper)) / n


def hermite(x: Tensor) -> tuple[Tensor, ...]:
    """He_k(x) / √k! for k = 1, 2, 3."""
    square = x * x
    return x, (square - 1) * math.sqrt(1 / 2), (square - 3) * x * math.sqrt(1 / 6)


class CorrelationTally:
    """Mean products He_j(x) He_k(y) / √(j! k!) of pairs of streams; j, k = 1, 2, 3."""

    def __init__(self, group: str, name: str) -> None:
        self.group, self.name, self.sums, self.draws = group, name, np.zeros((3, 3)), 0

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """What :func:`hermite` gives of the two."""
        self.sums += [[float(torch.dot(a, b)) for b in second] for a in first]
        self.draws += len(first[0])

    def outcomes(self) -> list[Outcome]:
        outcomes = []
        for (j, k), total in np.ndenumerate(self.sums) if self.draws else ():
            mean, name = total / self.draws, f"{self.name}: He_{j + 1} with He_{k + 1}"
            p_value = normal_two_sided(mean * math.sqrt(self.draws))
            outcomes.append(Outcome(self.group, name, self.draws, mean, 0.0, p_value))
        return outcomes


class LagTally:
    """Correlations of elements that are ``lags`` apart."""

    def __init__(self, group: str, lags: Sequence[int] = LAGS) -> None:
        self.tallies = {lag: CorrelationTally(group, f"lag {lag}") for lag in lags}

    def add(self, polynomials: Sequence[Tensor]) -> None:
        for lag, tally in self.tallies.items():
            tally.add([values[:-lag] for values in polynomials], [values[lag:] for values in polynomials])

    def outcomes(self) -> list[Outcome]:
        return [outcome for tally in self.tallies.values() for outcome in tally.outcomes()]


class PairTally:
    """Disjoint pairs (x, y) of elements that are ``lag`` apart: the angle is uniform, and so is exp(-(x² + y²) / 2)."""

    ANGLES, RADII = 256, 64

    def __init__(self, group: str, lag: int) -> None:
        self.group, self.lag = group, lag
        self.counts = torch.zeros(self.RADII * self.ANGLES, dtype=torch.int64)
        self.draws = 0

    def add(self, values: Tensor) -> None:
        whole = len(values) // (2 * self.lag) * 2 * self.lag
        pairs = values[:whole].view(-1, 2, self.lag)
        x, y = pairs[:, 0].reshape(-1), pairs[:, 1].reshape(-1)
        turns = torch.atan2(y, x) / (2 * math.pi) + 0.5
        survival = torch.exp((x * x + y * y) / -2)
        cell = bin_of_unit(survival, self.RADII) * self.ANGLES + bin_of_unit(turns, self.ANGLES)
        self.counts += torch.bincount(cell, minlength=len(self.counts))
        self.draws += whole

    def outcomes(self) -> list[Outcome]:
        table = self.counts.view(self.RADII, self.ANGLES)
        marginals = {"angle": table.sum(0), "x² + y²": table.sum(1), "both": table.flatten()}
        outcomes = []
        for name, counts in marginals.items():
            title = f"pairs at lag {self.lag}: χ² of {name}, {len(counts)} bins"
            outcomes.append(Outcome.of_counts(self.group, title, self.draws, counts.double()))
        return outcomes


def bin_of_unit(values: Tensor, bins: int) -> Tensor:
    """Which of ``bins`` equal parts of [0, 1]."""
    return (values * bins).to(torch.int64).clamp_(0, bins - 1)


class StreamTally:
    """Everything that is asked of one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = str(dtype).removeprefix("torch.")
        self.moments = MomentTally(f"moments, {self.name}")
        self.distribution = DistributionTally(f"distribution, {self.name}")
        self.lags = LagTally(f"elements of a stream, {self.name}")
        self.pairs = [PairTally(f"pairs of elements, {self.name}", lag) for lag in PAIR_LAGS]

    def add(self, x: torch.Tensor) -> None:
        self.moments.add(x.double())
        self.distribution.add(x)
        self.lags.add(hermite(x))
        for tally in self.pairs:
            tally.add(x)

    def outcomes(self) -> list[Outcome]:
        pairs = [outcome for tally in self.pairs for outcome in tally.outcomes()]
        return [*self.moments.outcomes(), *self.distribution.outcomes(), *self.lags.outcomes(), *pairs]


def failures(outcomes: Iterable[Outcome], false_positive_rate: float) -> list[Outcome]:
    """Those that a perfect generator would show, one or more, in at most that share of such runs (Bonferroni)."""
    outcomes = list(outcomes)
    return [outcome for outcome in outcomes if not outcome.p_value >= false_positive_rate / len(outcomes)]
