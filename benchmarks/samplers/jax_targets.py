"""The densities of ``targets`` in JAX, for samplers of that library: functions of one z, (d,)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from . import targets

LogDensity = Callable[[jax.Array], jax.Array]


def eight_schools(z: jax.Array, *, centred: bool) -> jax.Array:
    mu, log_tau, effects = z[0], z[1], z[2:]
    tau = jnp.exp(log_tau)
    scaled = (effects - mu) / tau if centred else effects
    theta = effects if centred else mu + tau * effects
    squares = scaled**2 + ((jnp.asarray(targets.EFFECTS) - theta) / jnp.asarray(targets.EFFECT_ERRORS)) ** 2
    prior = log_tau - jnp.log1p((tau / targets.PRIOR_SCALE) ** 2) - (mu / targets.PRIOR_SCALE) ** 2 / 2
    return prior - squares.sum() / 2 - (8 * log_tau if centred else 0)


def logistic_regression(z: jax.Array, signed_features: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid(signed_features @ z).sum() - z @ z / 2


def banana(z: jax.Array) -> jax.Array:
    shift = targets.TWIST * (z[0] ** 2 - targets.BANANA_VARIANCE)
    return -(z[0] ** 2) / (2 * targets.BANANA_VARIANCE) - (z[1] + shift) ** 2 / 2


def funnel(z: jax.Array) -> jax.Array:
    v, x = z[0], z[1:]
    return -((v / targets.FUNNEL_SD) ** 2) / 2 - targets.FUNNEL_WIDTH * v / 2 - jnp.exp(-v) * (x @ x) / 2


def standard_normal(z: jax.Array) -> jax.Array:
    return -(z @ z) / 2


def student_t(z: jax.Array) -> jax.Array:
    return -(targets.DEGREES + targets.STUDENT_DIMENSION) / 2 * jnp.log1p(z @ z / targets.DEGREES)


def gaussian(z: jax.Array, whitening: jax.Array) -> jax.Array:
    return -((z @ whitening) ** 2).sum() / 2


def mixture(z: jax.Array) -> jax.Array:
    along = targets.DISTANCE * z[0]
    return jnp.logaddexp(-along / 2, along / 2 + math.log(2)) - z @ z / 2


def rosenbrock(z: jax.Array) -> jax.Array:
    valley = ((z[1:] - z[0] ** 2) ** 2).sum() / targets.VALLEY_VARIANCE
    return -((z[0] - 1) ** 2 / targets.ROSENBROCK_VARIANCE + valley) / 2


def log_density(name: str) -> LogDensity:
    """The density of a target by its name, of jax's default precision."""
    if name == "logistic regression":
        features, signs = targets.breast_cancer()
        return partial(logistic_regression, signed_features=jnp.asarray(signs[:, None] * features))
    if name == "Gaussian, condition 1e4":
        return partial(gaussian, whitening=jnp.asarray(targets.rotation() / targets.GAUSSIAN_SDS))
    densities: dict[str, Any] = {
        "eight schools, centred": partial(eight_schools, centred=True),
        "eight schools, non-centred": partial(eight_schools, centred=False),
        "banana": banana,
        "funnel, centred": funnel,
        "funnel, non-centred": standard_normal,
        "Student's t": student_t,
        "mixture": mixture,
        "Rosenbrock": rosenbrock,
    }
    return densities[name]
