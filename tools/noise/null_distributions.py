"""p-values: tails of the distributions that statistics follow where the normals are perfect."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

#: Logarithms are taken of p-values no smaller than this.
SMALLEST_P = 1e-300


def two_sided(lower: float, upper: float) -> float:
    """Twice the smaller of P(X ≤ x) and P(X ≥ x): too little is as suspicious as too much."""
    return float(min(1.0, 2 * min(lower, upper)))


def normal_two_sided(z: float) -> float:
    """P(|Z| ≥ |z|)."""
    return math.erfc(abs(z) / math.sqrt(2))


def largest_of(p_value: float, count: int) -> float:
    """P(the smallest of ``count`` independent p-values ≤ ``p_value``) = 1 - (1 - p)^count (Šidák 1967)."""
    return 1.0 if p_value >= 1 else -math.expm1(count * math.log1p(-p_value))


def chi_square_two_sided(x: float, degrees: int) -> float:
    return two_sided(stats.chi2.cdf(x, degrees), stats.chi2.sf(x, degrees))


def fisher(p_values: Sequence[float]) -> tuple[float, float]:
    """-2 Σ log p, which is χ² with 2 degrees for each p-value, and its tail (Fisher 1925)."""
    statistic = -2 * sum(math.log(max(p, SMALLEST_P)) for p in p_values)
    return statistic, float(stats.chi2.sf(statistic, 2 * len(p_values)))


def binomial_two_sided(count: int, trials: int, probability: float) -> float:
    """Twice the tail of Binomial(trials, probability) that ``count`` is in."""
    return two_sided(stats.binom.cdf(count, trials, probability), stats.binom.sf(count - 1, trials, probability))


def kolmogorov_smirnov_upper(distance: float, draws: int) -> float:
    """P(D ≥ distance): Kolmogorov's limit at √n D + 1 / (6 √n), right to O(1/n) (Pelz & Good 1976)."""
    return float(stats.kstwobign.sf(math.sqrt(draws) * distance + 1 / (6 * math.sqrt(draws))))


def anderson_darling_upper(x: float, intervals: int = 60, nodes: int = 100) -> float:
    """P(A² ≥ x), in the limit of many draws, where A² = Σ Z_j² / (j (j + 1)) (Anderson & Darling 1952).

    Smirnov's formula (1937) for the tail of such a sum, which keeps its relative accuracy however small the tail:

        1/π Σ_k (-1)^(k-1) ∫ exp(-x u) / (u √-D(u)) du, over u from a_(2k-1) to a_(2k), with a_j = j (j + 1) / 2,
        D(u) = Π_j (1 - u / a_j) = -cos(π/2 √(1 + 8 u)) / (2 π u).

    The integrand has inverse square roots at both ends, for which Gauss-Chebyshev quadrature is made. Of the
    intervals, those up to u = 7000 count: enough from x = 0.005 on, and P(A² < 0.04) < 1e-10.
    """
    if x < 0.04:
        return 1.0
    k = np.arange(1, intervals + 1)[:, None]
    begin, end = (2 * k - 1) * k, k * (2 * k + 1)
    angle = (2 * np.arange(1, nodes + 1) - 1) * math.pi / (2 * nodes)
    u = (begin + end) / 2 + (end - begin) / 2 * np.cos(angle)
    minus_d = np.cos(math.pi / 2 * np.sqrt(1 + 8 * u)) / (2 * math.pi * u)
    integrals = (np.exp(-x * u) / u * np.sqrt((u - begin) * (end - u) / minus_d)).sum(1) / nodes
    return min(1.0, float((np.where(k[:, 0] % 2 == 1, 1, -1) * integrals).sum()))
