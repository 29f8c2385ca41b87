"""The targets: log densities in PyTorch, what is measured of the draws, its exact moments, and exact draws.

Every density is a function of z (..., d), (...) its values, up to a constant. What is measured are ``quantities`` of z:
the same for two parametrizations of one posterior, and asinh of those without enough moments for a standard error.
``jax_targets`` has the same densities in JAX.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
REFERENCES = Path(__file__).resolve().parent.parent / "results/sampler_references.json"


@dataclass(frozen=True)
class Moments:
    """Mean and sd of each quantity, (k,), with their standard errors, which are 0 for exact ones."""

    mean: Array
    sd: Array
    mean_error: Array | float = 0.0
    sd_error: Array | float = 0.0


@dataclass(frozen=True)
class Target:
    """A density on R^d.

    Attributes:
        log_density: (..., d) -> (...), in PyTorch.
        moments: of the quantities.
        source: how the moments are known.
        draw: exact draws, (generator, number) -> (number, d); None where there is no such way.
        quantities: what is measured, (..., d) -> (..., k).
    """

    name: str
    dimension: int
    log_density: Callable[[Tensor], Tensor]
    moments: Callable[[], Moments]
    source: str
    draw: Callable[[np.random.Generator, int], Array] | None = None
    quantities: Callable[[Array], Array] = lambda z: z


# Eight schools (Rubin 1981; Gelman et al. 2013, Section 5.5): μ ~ N(0, 5²), τ ~ C⁺(0, 5), θ_i ~ N(μ, τ²),
# y_i ~ N(θ_i, s_i²)

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
EFFECT_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
PRIOR_SCALE = 5.0


def eight_schools(z: Tensor, *, centred: bool) -> Tensor:
    """z = (μ, log τ, θ), or (μ, log τ, (θ - μ)/τ)."""
    mu, log_tau, effects = z[..., :1], z[..., 1:2], z[..., 2:]
    tau = log_tau.exp()
    scaled = (effects - mu) / tau if centred else effects
    theta = effects if centred else mu + tau * effects
    y, errors = torch.as_tensor(EFFECTS).to(z), torch.as_tensor(EFFECT_ERRORS).to(z)
    squares = scaled.square() + ((y - theta) / errors).square()
    prior = log_tau - torch.log1p((tau / PRIOR_SCALE).square()) - (mu / PRIOR_SCALE).square() / 2
    return prior[..., 0] - squares.sum(-1) / 2 - (8 * log_tau[..., 0] if centred else 0)


@cache
def eight_schools_grid() -> tuple[Array, Array, Array, Array, Array]:
    """log τ on a grid, its probabilities, mean and variance of μ given τ, and shares τ²/(τ² + s²) (grid, 8)."""
    log_tau = np.linspace(-25, 12, 8001)
    tau_squared = np.exp(2 * log_tau)[:, None]
    variances = EFFECT_ERRORS**2 + tau_squared
    precision = PRIOR_SCALE**-2 + (1 / variances).sum(1)
    mean = (EFFECTS / variances).sum(1) / precision
    log_density = log_tau - np.log1p(tau_squared[:, 0] / PRIOR_SCALE**2) - np.log(precision) / 2
    log_density += precision * mean**2 / 2 - (np.log(variances) + EFFECTS**2 / variances).sum(1) / 2
    weights = np.exp(log_density - log_density.max())
    return log_tau, weights / weights.sum(), mean, 1 / precision, tau_squared / variances


def eight_schools_moments() -> Moments:
    log_tau, weights, mu, mu_variance, shares = eight_schools_grid()
    mu, mu_variance = mu[:, None], mu_variance[:, None]
    theta = shares * EFFECTS + (1 - shares) * mu
    theta_variance = EFFECT_ERRORS**2 * shares + (1 - shares) ** 2 * mu_variance
    means = np.concatenate([mu, log_tau[:, None], theta], 1)
    variances = np.concatenate([mu_variance, 0 * mu, theta_variance], 1)
    mean = weights @ means
    return Moments(mean, np.sqrt(weights @ (variances + means**2) - mean**2))


def draw_eight_schools(generator: np.random.Generator, number: int, *, centred: bool) -> Array:
    log_taus, weights, means, variances, all_shares = eight_schools_grid()
    at = generator.choice(len(log_taus), number, p=weights)
    # Uniform within a cell of the grid, which is far finer than the density varies.
    log_tau = log_taus[at] + (generator.random(number) - 0.5) * (log_taus[1] - log_taus[0])
    mu = means[at] + np.sqrt(variances[at]) * generator.standard_normal(number)
    shares = all_shares[at]
    noise = EFFECT_ERRORS * np.sqrt(shares) * generator.standard_normal((number, 8))
    theta = shares * EFFECTS + (1 - shares) * mu[:, None] + noise
    return np.column_stack([mu, log_tau, theta if centred else (theta - mu[:, None]) / np.exp(log_tau)[:, None]])


def effects_of_scaled(z: Array) -> Array:
    mu, log_tau, scaled = z[..., :1], z[..., 1:2], z[..., 2:]
    return np.concatenate([mu, log_tau, mu + np.exp(log_tau) * scaled], -1)


# Logistic regression on scikit-learn's breast cancer data: standardized features, an intercept, N(0, 1) on each weight


@cache
def breast_cancer() -> tuple[Array, Array]:
    """Features with a column of ones, (569, 31), and signs ±1 of the classes."""
    from sklearn.datasets import load_breast_cancer

    features, classes = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    return np.column_stack([np.ones(len(features)), features]), 2.0 * classes - 1


@cache
def signed_features(dtype: torch.dtype) -> Tensor:
    features, signs = breast_cancer()
    return torch.as_tensor(signs[:, None] * features, dtype=dtype)


def logistic_regression(z: Tensor) -> Tensor:
    margins = z @ signed_features(z.dtype).T
    return torch.nn.functional.logsigmoid(margins).sum(-1) - z.square().sum(-1) / 2


def stored_moments(name: str) -> Moments:
    """Those that ``python -m benchmarks.samplers.reference`` wrote."""
    stored: dict[str, Any] = json.loads(REFERENCES.read_text())["targets"][name]
    return Moments(*(np.array(stored[key]) for key in ("mean", "sd", "mean_error", "sd_error")))


# A twisted Gaussian (Haario et al. 1999): z₁ ~ N(0, 10²), z₂ + b(z₁² - 100) ~ N(0, 1)

TWIST, BANANA_VARIANCE = 0.03, 100.0


def banana(z: Tensor) -> Tensor:
    first, second = z[..., 0], z[..., 1]
    return -first.square() / (2 * BANANA_VARIANCE) - (second + TWIST * (first.square() - BANANA_VARIANCE)).square() / 2


def draw_banana(generator: np.random.Generator, number: int) -> Array:
    first, second = generator.standard_normal((2, number))
    first = math.sqrt(BANANA_VARIANCE) * first
    return np.column_stack([first, second - TWIST * (first**2 - BANANA_VARIANCE)])


def banana_moments() -> Moments:
    return Moments(np.zeros(2), np.sqrt([BANANA_VARIANCE, 1 + 2 * (TWIST * BANANA_VARIANCE) ** 2]))


# Neal's funnel (2003): v ~ N(0, 3²), x_i ~ N(0, e^v), i = 1, …, 9; non-centred: v/3 and x_i e^(-v/2), all N(0, 1)

FUNNEL_SD, FUNNEL_WIDTH = 3.0, 9


def funnel(z: Tensor) -> Tensor:
    v, x = z[..., 0], z[..., 1:]
    return -(v / FUNNEL_SD).square() / 2 - FUNNEL_WIDTH * v / 2 - ((-v).exp() * x.square().sum(-1)) / 2


def standard_normal(z: Tensor) -> Tensor:
    return -z.square().sum(-1) / 2


def funnel_of_standard_normal(z: Array) -> Array:
    v = FUNNEL_SD * z[..., :1]
    return np.concatenate([v, np.exp(v / 2) * z[..., 1:]], -1)


def draw_funnel(generator: np.random.Generator, number: int, *, centred: bool) -> Array:
    z = generator.standard_normal((number, 1 + FUNNEL_WIDTH))
    return funnel_of_standard_normal(z) if centred else z


def funnel_quantities(z: Array) -> Array:
    return np.concatenate([z[..., :1], np.arcsinh(z[..., 1:])], -1)


def funnel_moments() -> Moments:
    """By the trapezoidal rule in v and log |x e^(-v/2)|, whose error falls exponentially with its step."""
    v, log_n = np.linspace(-30, 30, 601)[:, None], np.linspace(-40, 4, 1761)
    weights = np.exp(-(v**2) / (2 * FUNNEL_SD**2) - np.exp(2 * log_n) / 2 + log_n)
    square = (weights * np.arcsinh(np.exp(v / 2 + log_n)) ** 2).sum() / weights.sum()
    return Moments(np.zeros(1 + FUNNEL_WIDTH), np.sqrt([FUNNEL_SD**2, *[square] * FUNNEL_WIDTH]))


# Student's t with 3 degrees of freedom in 10 dimensions

DEGREES, STUDENT_DIMENSION = 3, 10


def student_t(z: Tensor) -> Tensor:
    return -(DEGREES + STUDENT_DIMENSION) / 2 * torch.log1p(z.square().sum(-1) / DEGREES)


def draw_student_t(generator: np.random.Generator, number: int) -> Array:
    scale = np.sqrt(generator.chisquare(DEGREES, (number, 1)) / DEGREES)
    return generator.standard_normal((number, STUDENT_DIMENSION)) / scale


def student_t_moments() -> Moments:
    """By the trapezoidal rule in log |z|."""
    log_z = np.linspace(-40, 40, 3201)
    weights = np.exp(log_z) * (1 + np.exp(2 * log_z) / DEGREES) ** (-(DEGREES + 1) / 2)
    square = (weights * np.arcsinh(np.exp(log_z)) ** 2).sum() / weights.sum()
    return Moments(np.zeros(STUDENT_DIMENSION), np.full(STUDENT_DIMENSION, np.sqrt(square)))


# A Gaussian of condition 10⁴ in 100 dimensions, rotated at random; measured along its principal axes

GAUSSIAN_SDS = np.logspace(-1, 1, 100)


@cache
def rotation() -> Array:
    """Principal axes, as columns."""
    return np.linalg.qr(np.random.RandomState(0).standard_normal((100, 100)))[0]


@cache
def whitening(dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(rotation() / GAUSSIAN_SDS, dtype=dtype)


def gaussian(z: Tensor) -> Tensor:
    return -(z @ whitening(z.dtype)).square().sum(-1) / 2


def draw_gaussian(generator: np.random.Generator, number: int) -> Array:
    return (GAUSSIAN_SDS * generator.standard_normal((number, 100))) @ rotation().T


# Two Gaussians of sd 1, five apart, with the weights 1/3 and 2/3, in 5 dimensions

DISTANCE, MIXTURE_DIMENSION = 5.0, 5


def mixture(z: Tensor) -> Tensor:
    # log(e^(-(z+a)²/2)/3 + 2e^(-(z-a)²/2)/3) up to a constant, a = half the distance
    along = DISTANCE * z[..., 0]
    return torch.logaddexp(-along / 2, along / 2 + math.log(2)) - z.square().sum(-1) / 2


def draw_mixture(generator: np.random.Generator, number: int) -> Array:
    z = generator.standard_normal((number, MIXTURE_DIMENSION))
    z[:, 0] += np.where(generator.random(number) < 2 / 3, DISTANCE / 2, -DISTANCE / 2)
    return z


def mixture_moments() -> Moments:
    mean, variance = np.zeros(MIXTURE_DIMENSION), np.ones(MIXTURE_DIMENSION)
    mean[0], variance[0] = DISTANCE / 6, 1 + (DISTANCE / 2) ** 2 * (1 - 1 / 9)
    return Moments(mean, np.sqrt(variance))


# The hybrid Rosenbrock density (Pagani et al. 2022): z₁ ~ N(1, 10), z_j ~ N(z₁², 1/10) for j = 2, 3, 4

ROSENBROCK_VARIANCE, VALLEY_VARIANCE, VALLEYS = 10.0, 0.1, 3


def rosenbrock(z: Tensor) -> Tensor:
    first = z[..., :1]
    valley = (z[..., 1:] - first.square()).square().sum(-1) / VALLEY_VARIANCE
    return -((first[..., 0] - 1).square() / ROSENBROCK_VARIANCE + valley) / 2


def draw_rosenbrock(generator: np.random.Generator, number: int) -> Array:
    first = 1 + math.sqrt(ROSENBROCK_VARIANCE) * generator.standard_normal((number, 1))
    return np.column_stack(
        [first, first**2 + math.sqrt(VALLEY_VARIANCE) * generator.standard_normal((number, VALLEYS))]
    )


def rosenbrock_moments() -> Moments:
    v = ROSENBROCK_VARIANCE
    mean, variance = [1, *[1 + v] * VALLEYS], [v, *[2 * v**2 + 4 * v + VALLEY_VARIANCE] * VALLEYS]
    return Moments(np.array(mean, dtype=np.float64), np.sqrt(variance))


TARGETS = {
    target.name: target
    for target in (
        *(
            Target(
                f"eight schools, {'' if centred else 'non-'}centred",
                10,
                partial(eight_schools, centred=centred),
                eight_schools_moments,
                "exact: μ and θ are Gaussian given τ, and a quadrature over log τ",
                partial(draw_eight_schools, centred=centred),
                (lambda z: z) if centred else effects_of_scaled,
            )
            for centred in (True, False)
        ),
        Target(
            "logistic regression",
            31,
            logistic_regression,
            partial(stored_moments, "logistic regression"),
            "long runs of two samplers that agree",
        ),
        Target("banana", 2, banana, banana_moments, "exact: polynomials of Gaussians", draw_banana),
        Target(
            "funnel, centred",
            1 + FUNNEL_WIDTH,
            funnel,
            funnel_moments,
            "exact: v is Gaussian; quadrature for asinh x",
            partial(draw_funnel, centred=True),
            funnel_quantities,
        ),
        Target(
            "funnel, non-centred",
            1 + FUNNEL_WIDTH,
            standard_normal,
            funnel_moments,
            "exact: v is Gaussian; quadrature for asinh x",
            partial(draw_funnel, centred=False),
            lambda z: funnel_quantities(funnel_of_standard_normal(z)),
        ),
        Target(
            "Student's t",
            STUDENT_DIMENSION,
            student_t,
            student_t_moments,
            "exact: quadrature for asinh z",
            draw_student_t,
            np.arcsinh,
        ),
        Target(
            "Gaussian, condition 1e4",
            100,
            gaussian,
            lambda: Moments(np.zeros(100), GAUSSIAN_SDS),
            "exact; measured along the principal axes",
            draw_gaussian,
            lambda z: z @ rotation(),
        ),
        Target("mixture", MIXTURE_DIMENSION, mixture, mixture_moments, "exact", draw_mixture),
        Target(
            "Rosenbrock",
            1 + VALLEYS,
            rosenbrock,
            rosenbrock_moments,
            "exact: polynomials of Gaussians",
            draw_rosenbrock,
        ),
    )
}
