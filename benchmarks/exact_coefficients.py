"""Models whose local learning coefficient is known, also at finite n and with a localization, by quadrature.

A model has no data: its loss is the potential per datum. Its replicas are independent copies, as many chains of one
target, whose coefficients add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


class Potential(nn.Module):
    """Parameters θ (shape) at 0, and a loss of them."""

    def __init__(self, loss: Callable[[Tensor], Tensor], *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(shape, dtype=dtype))
        self.loss = loss

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the loss, whatever the inputs are."""
        return self.loss(self.theta)


def first(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss that a :class:`Potential` gives."""
    return outputs


#: One minibatch.
NO_DATA = [(torch.zeros(1), torch.zeros(1))]

CURVATURES = torch.linspace(0.2, 1, 50)


def quadratic(replicas: int) -> Potential:
    """L = ½ Σ hᵢθᵢ²: regular, λ = d/2."""
    return Potential(lambda theta: (CURVATURES * theta.square()).sum() / 2, replicas, len(CURVATURES))


def expected_of_quadratic(beta_n: float, localization: float) -> float:
    """nβ·E[L] of Gaussians."""
    pulls = beta_n * CURVATURES.double()
    return (pulls / (pulls + localization)).sum().item() / 2


def crossing(replicas: int) -> Potential:
    """L = x²y²: λ = 1/2 of multiplicity 2 (Watanabe 2009)."""
    return Potential(lambda theta: (theta[0].square() * theta[1].square()).sum(), 2, replicas)


def expected_of_crossing(beta_n: float, localization: float) -> float:
    """nβ·E[L] with y integrated out, over log x."""
    x = np.geomspace(1e-9, 10, 20001) / math.sqrt(localization)
    precisions = 2 * beta_n * x**2 + localization
    weights = np.exp(-localization * x**2 / 2) / np.sqrt(precisions) * x
    return float((weights * beta_n * x**2 / precisions).sum() / weights.sum())


#: Outputs, hidden units and inputs of the reduced rank regression, all of whose true matrix is 0.
OUTPUTS, HIDDEN, INPUTS = 4, 2, 4


def reduced_rank(replicas: int) -> Potential:
    """L = ½‖BA‖² of a reduced rank regression whose true matrix is 0, with inputs of unit covariance."""

    def loss(theta: Tensor) -> Tensor:
        b, a = theta.split([OUTPUTS, INPUTS], 1)
        return (b @ a.mT).square().sum() / 2

    return Potential(loss, replicas, OUTPUTS + INPUTS, HIDDEN)


def expected_of_reduced_rank(beta_n: float, localization: float) -> float:
    """nβ·E[L] with A integrated out, over the logarithms of the two singular values of B."""
    size = np.geomspace(1e-6, 10, 2001) / math.sqrt(localization)
    pulls = beta_n * size**2

    def along(values: Array) -> Array:  # of one singular value, with that of a (M, H) Gaussian matrix
        return (
            values ** (OUTPUTS - HIDDEN + 1)
            * np.exp(-localization * values**2 / 2)
            * (pulls / localization + 1) ** (-INPUTS / 2)
        )

    weights = along(size)[:, None] * along(size) * np.abs(size[:, None] ** 2 - size**2)
    shares = INPUTS / 2 * pulls / (pulls + localization)
    return float((weights * (shares[:, None] + shares)).sum() / weights.sum())


def reduced_rank_coefficient(outputs: int, hidden: int, inputs: int, rank: int = 0) -> float:
    """λ by Aoyagi & Watanabe (2005), of a true matrix of a rank up to ``hidden``."""
    m, h, n, r = outputs, hidden, inputs, rank
    if n + r <= m + h and m + r <= n + h and h + r <= m + n:
        odd = (m + h + n + r) % 2
        return (-((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * m + 2 * (h + r) * n + 2 * m * n + odd) / 8
    if m + h < n + r:
        return (h * m - h * r + n * r) / 2
    if n + h < m + r:
        return (h * n - h * r + m * r) / 2
    return m * n / 2


@dataclass(frozen=True)
class ExactCase:
    """A model, what its estimate tends to, and settings for SGLD and SGHMC at which chains mix."""

    name: str
    model: Callable[[int], Potential]
    expected: Callable[[float, float], float]
    coefficient: float
    num_data: int
    localization: float
    lr: float

    @property
    def beta_n(self) -> float:
        return self.num_data / math.log(self.num_data)


CASES = [
    ExactCase("quadratic, d = 50", quadratic, expected_of_quadratic, len(CURVATURES) / 2, 1000, 1.0, 0.02),
    ExactCase("x²y²", crossing, expected_of_crossing, 0.5, 10**5, 10.0, 0.02),
    ExactCase(
        f"reduced rank, {OUTPUTS} x {HIDDEN} x {INPUTS}, true rank 0",
        reduced_rank,
        expected_of_reduced_rank,
        reduced_rank_coefficient(OUTPUTS, HIDDEN, INPUTS),
        10**4,
        1.0,
        0.02,
    ),
]
