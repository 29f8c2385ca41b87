"""p-values: tails of the distributions that statistics follow where the normals are perfect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

#: Logarithms are taken of p-values no smaller than this.
SMALLEST_P = 1e-300


def two_sided(lower: float, upper: float) -> float:
    """Twice the smaller of P(X ≤ x) and P(X ≥ x): too little is as suspicious as too much."""
    return min(1.0, 2 * min(lower, upper))


def normal_two_sided(z: float) -> float:
    """P(|Z| ≥ |z|)."""
    return math.erfc(abs(z) / math.sqrt(2))


def largest_of(p_value: float, count: int) -> float:
    """P(the smallest of ``count`` independent p-values ≤ ``p_value``) = 1 - (1 - p)^count (Šidák 1967)."""
    return 1.0 if p_value >= 1 else -math.expm1(count * math.log1p(-p_value))


def chi_square_upper(x: float, degrees: int) -> float:
    """P(χ² ≥ x) = Q(degrees / 2, x / 2), the regularized upper incomplete gamma function."""
    return float(torch.special.gammaincc(*halves(degrees, x)))


def chi_square_two_sided(x: float, degrees: int) -> float:
    return two_sided(float(torch.special.gammainc(*halves(degrees, x))), chi_square_upper(x, degrees))


def halves(degrees: int, x: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(degrees / 2, dtype=torch.float64), torch.tensor(x / 2, dtype=torch.float64)


def fisher(p_values: Sequence[float]) -> tuple[float, float]:
    """-2 Σ log p, which is χ² with 2 degrees for each p-value, and its tail (Fisher 1925)."""
    statistic = -2 * sum(math.log(max(p, SMALLEST_P)) for p in p_values)
    return statistic, chi_square_upper(statistic, 2 * len(p_values))


def binomial_two_sided(count: int, trials: int, probability: float) -> float:
    """Exact: twice the tail of Binomial(trials, probability) that ``count`` is in.

    A tail is P(N = count) times the sum of the products of the ratios P(N = k + 1) / P(N = k) = (n - k) p / (k + 1) q.
    """
    if count < trials * probability:
        return binomial_two_sided(trials - count, trials, 1 - probability) if probability < 1 else 0.0
    # 60 standard deviations and 1000 more: what lies beyond is nothing beside the first term.
    terms = min(trials - count, 1000 + int(60 * math.sqrt(trials * probability * (1 - probability))))
    k = np.arange(count, count + terms, dtype=np.float64)
    ratios = (trials - k) / (k + 1) * (probability / (1 - probability))
    return min(1.0, 2 * math.exp(log_binomial(count, trials, probability)) * (1 + float(np.cumprod(ratios).sum())))


def log_binomial(count: int, trials: int, probability: float) -> float:
    """log P(N = count). lgamma of 1e10 keeps its fifth decimal, which is enough for a p-value."""
    choose = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return choose + count * math.log(probability) + (trials - count) * math.log1p(-probability)


def kolmogorov_smirnov_upper(distance: float, draws: int) -> float:
    """P(D ≥ distance): Kolmogorov's limit at √n D + 1 / (6 √n), right to O(1/n) (Pelz & Good 1976)."""
    return kolmogorov_upper(math.sqrt(draws) * distance + 1 / (6 * math.sqrt(draws)))


def kolmogorov_upper(x: float) -> float:
    """P(K ≥ x) = 2 Σ (-1)^(k-1) exp(-2 k² x²), for small x by its theta transform (Kolmogorov 1933)."""
    if x < 0.04:
        return 1.0
    if x < 1:
        terms = [math.exp(-(((2 * k - 1) * math.pi / x) ** 2) / 8) for k in range(1, 9)]
        return 1 - math.sqrt(2 * math.pi) / x * sum(terms)
    return 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 9))


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
