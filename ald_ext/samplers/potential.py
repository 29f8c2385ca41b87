"""Potentials, which say what samplers sample.

Note [Potentials, sums and means]
    A potential is a callable ``potential(x, z) -> (batch,)`` of data x (batch, ...) and their latent variables z
    (batch, d), one value a datum:

        U(x, z) = -log p(z) - log p(x | z)

    - It is a sum over the dimensions of a datum, never a mean. Terms that do not depend on z may be left out.
    - Each datum stands by itself: row r of the result depends on row r of x and z only.
    - The target of a datum at temperature T is exp(-U(x, z) / T). Datapoint samplers follow ∇_z U as it is, without a
      number of data. x is None where there is no datum (a prior, an energy).
    - Where a prior has no density, U = +∞, and MALA and HMC reject such proposals. So they do outside of the support of
      a distribution that is given as prior, which for other callers is a ValueError; every sampler can sample its
      :class:`ald_ext.samplers.TransformedPotential`.
    - The potential of n data is Σ U_i. A minibatch of m of them estimates it by (n/m) Σ U_i, which is n times its mean.
    - So optimizers (:class:`ald_ext.SGLD`, :class:`ald_ext.PSGLD`), whose loss is a potential divided by ``num_data``,
      take the mean over the minibatch with ``num_data = n``. With parameters θ that have a prior of their own:
      ``loss = potential(x, z).mean() - log_prior(θ) / n``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to

from ..settings import require

#: U(x, z): (batch, ...) or None, (batch, d) -> (batch,). Note [Potentials, sums and means].
Potential = Callable[[Any, Tensor], Tensor]


#: U and ∇_z U, (batch,) and (batch, d), by a potential that has such a function as its ``value_and_gradient``.
ValueAndGradient = Callable[[Any, Tensor], tuple[Tensor, Tensor]]

#: Whether the caller rejects states outside of a prior's support, so that they are no error.
REJECTS: ContextVar[bool] = ContextVar("REJECTS", default=False)

#: A distribution over z, or its log density as a function, (batch, d) -> (batch,).
LogDensity = Distribution | Callable[[Tensor], Tensor]


def potential_and_gradient(
    potential: Potential, x: Tensor | None, z: Tensor, *, rejects: bool = False
) -> tuple[Tensor, Tensor]:
    """Return U(x, z), (batch,), and ∇_z U(x, z), (batch, d), detached and as they are, even if they are not finite.

    No parameter of the potential gets a gradient.

    Args:
        potential: see Note [Potentials, sums and means].
        x: (batch, ...), or None.
        z: (batch, d).
        rejects: whether z outside of the support of a prior has U = +∞, for callers that reject it.

    Raises:
        RuntimeError: the potential's shape is not (batch,), or no gradient for z comes out of it.
        ValueError: z outside of the support of a prior, unless ``rejects``.
    """
    own: ValueAndGradient | None = getattr(potential, "value_and_gradient", None)
    if own is not None:
        return own(x, z)
    token = REJECTS.set(rejects)
    try:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            try:
                value = potential(x, leaf)
            except ValueError:  # torch.distributions refuse states, or parameters made of them, that are NaN
                finite = z.isfinite().all(1)
                if finite.all():
                    raise
                value = potential_inside(potential, finite, x, leaf, outside=math.nan)
            value = one_value_a_datum("potential_and_gradient", "potential", value, leaf)
            # Each row depends on its own datum only, so the gradient of the sum holds the gradients of all rows.
            gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
    finally:
        REJECTS.reset(token)
    if gradient is None:
        raise RuntimeError(
            "ald_ext.samplers.potential_and_gradient: potential: got values through which no gradient reaches z, "
            "expected a function of z, called outside torch.inference_mode()"
        )
    return value.detach(), gradient


def posterior_potential(log_prior: LogDensity, log_likelihood: Callable[[Any, Tensor], Tensor]) -> Potential:
    """Return the potential U(x, z) = -log p(z) - log p(x | z).

    Args:
        log_prior: log p(z), (batch, d) -> (batch,); or a distribution, whose log_prob is summed over a datum's
            dimensions.
        log_likelihood: log p(x | z), (batch, ...), (batch, d) -> (batch,).

    Raises:
        RuntimeError: in a call, if a term's shape is not (batch,).
        ValueError: in a call, for z outside of the support of the prior, except by samplers that reject it.
    """
    prior = _log_density("posterior_potential", "log_prior", log_prior)

    def potential(x: Any, z: Tensor) -> Tensor:
        likelihood = one_value_a_datum("posterior_potential", "log_likelihood", log_likelihood(x, z), z)
        return -prior(z) - likelihood

    return _on_support("posterior_potential", log_prior, potential)


def prior_potential(
    log_prob: LogDensity | None = None, *, energy: Callable[[Tensor], Tensor] | None = None
) -> Potential:
    """Return the potential U(z) = -log p(z), or U(z) = energy(z), which ignores x.

    Args:
        log_prob: log p(z) up to a constant, (batch, d) -> (batch,); or a distribution, whose log_prob is summed over a
            datum's dimensions.
        energy: the potential itself, (batch, d) -> (batch,), instead of log_prob.

    Raises:
        ValueError: both or neither given; in a call, for z outside of the support of the distribution, except by
            samplers that reject it.
        RuntimeError: in a call, if the shape is not (batch,).
    """
    if energy is not None and log_prob is None:
        return lambda _x, z: one_value_a_datum("prior_potential", "energy", energy(z), z)
    if log_prob is None or energy is not None:
        got = "neither" if energy is None else "both"
        raise ValueError(f"ald_ext.samplers.prior_potential: log_prob, energy: got {got}, expected one of them")
    log_density = _log_density("prior_potential", "log_prob", log_prob)
    return _on_support("prior_potential", log_prob, lambda _x, z: -log_density(z))


def potential_inside(potential: Potential, inside: Tensor, x: Any, z: Tensor, *, outside: float = math.inf) -> Tensor:
    """Return U(x, z) of rows ``inside``; of others, which U does not see, ``outside`` without a gradient."""
    if inside.all():
        return potential(x, z)
    if not inside.any():
        return 0 * z.sum(1) + outside
    instead = z[inside.int().argmax()].detach()
    return torch.where(inside, potential(x, torch.where(inside[:, None], z, instead)), outside)


class GaussianPotential:
    """The potential U(z) = (z - μ)ᵀ Σ⁻¹ (z - μ) / 2, whose target at temperature T is N(μ, TΣ); x is ignored.

    Args:
        mean: μ, (d,).
        covariance: Σ, (d, d), symmetric and positive definite.
        precision: Σ⁻¹, instead of the covariance.

    Raises:
        ValueError: both or neither given, other shapes, or a matrix that is not positive definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor | None = None, *, precision: Tensor | None = None) -> None:
        name, got = "ald_ext.samplers.GaussianPotential", "neither" if precision is None else "both"
        one_of_them = (covariance is None) != (precision is None)
        require(one_of_them, f"{name}: covariance, precision", got, "one of them")
        require(mean.dim() == 1, f"{name}: mean", f"shape {tuple(mean.shape)}", "(d,)")
        self.mean = mean
        if covariance is not None:
            self.covariance, self.precision = covariance, _inverse(name, "covariance", covariance, len(mean))
        elif precision is not None:
            self.precision, self.covariance = precision, _inverse(name, "precision", precision, len(mean))

    def __call__(self, x: Any, z: Tensor) -> Tensor:
        """Return U(z), (batch, d) -> (batch,); x is ignored."""
        return _half_quadratic_form(z - self.mean.to(z), self.precision)


class LinearGaussianPotential:
    """The posterior of a linear Gaussian model, with its exact answer (paper: F.1, F.2).

        p(z) = N(μ_z, Σ_z),      p(x | z) = N(Wz, Σ_x)
        U(x, z) = (z - μ_z)ᵀ Σ_z⁻¹ (z - μ_z) / 2 + (x - Wz)ᵀ Σ_x⁻¹ (x - Wz) / 2

    Args:
        prior_mean: μ_z, (d,).
        prior_covariance: Σ_z, (d, d), symmetric and positive definite.
        likelihood_covariance: Σ_x, (k, k), symmetric and positive definite.
        weight: W, (k, d); None stands for the identity, as in the paper.

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not positive definite.
    """

    def __init__(
        self, prior_mean: Tensor, prior_covariance: Tensor, likelihood_covariance: Tensor, weight: Tensor | None = None
    ) -> None:
        owner = "ald_ext.samplers.LinearGaussianPotential"
        require(prior_mean.dim() == 1, f"{owner}: prior_mean", f"shape {tuple(prior_mean.shape)}", "(d,)")
        self.prior_mean, d = prior_mean, len(prior_mean)
        self.weight = torch.eye(d).to(prior_mean) if weight is None else weight
        fits, got = self.weight.dim() == 2 and self.weight.shape[1] == d, f"shape {tuple(self.weight.shape)}"
        require(fits, f"{owner}: weight", got, f"(k, {d})")
        self.prior_precision = _inverse(owner, "prior_covariance", prior_covariance, d)
        self.likelihood_precision = _inverse(owner, "likelihood_covariance", likelihood_covariance, len(self.weight))

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return U(x, z), (batch, k), (batch, d) -> (batch,)."""
        prior = _half_quadratic_form(z - self.prior_mean.to(z), self.prior_precision)
        return prior + _half_quadratic_form(x - z @ self.weight.to(z).T, self.likelihood_precision)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (n, d) and covariance (d, d) of p(z | x) for x (n, k), the same covariance for every datum.

            Σ = (Σ_z⁻¹ + Wᵀ Σ_x⁻¹ W)⁻¹,      μ = Σ (Σ_z⁻¹ μ_z + Wᵀ Σ_x⁻¹ x)

        At temperature T the covariance is TΣ, and the mean is the same.
        """
        weighted = self.weight.T @ self.likelihood_precision
        covariance = torch.linalg.inv(self.prior_precision + weighted @ self.weight)
        mean = (self.prior_precision @ self.prior_mean + x.to(weighted) @ weighted.T) @ covariance
        return mean, covariance


def _half_quadratic_form(difference: Tensor, precision: Tensor) -> Tensor:
    """Return rᵀ Λ r / 2 for each row r."""
    return ((difference @ precision.to(difference)) * difference).sum(-1) / 2


def _inverse(owner: str, name: str, matrix: Tensor, dimension: int) -> Tensor:
    argument, shape, expected = f"{owner}: {name}", tuple(matrix.shape), (dimension, dimension)
    require(shape == expected, argument, f"shape {shape}", f"{expected}")
    factor, failed = torch.linalg.cholesky_ex(matrix)
    positive = not bool(failed) and torch.allclose(matrix, matrix.mT)
    require(positive, argument, matrix.tolist(), "a symmetric positive definite matrix")
    return torch.cholesky_inverse(factor)


def _on_support(owner: str, prior: LogDensity, potential: Potential) -> Potential:
    """Return the potential with the prior's support, if it tells one: +∞ or an error outside."""
    try:
        support = prior.support if isinstance(prior, Distribution) else None
    except NotImplementedError:  # a distribution of one's own
        support = None
    if support is None:
        return potential
    name, got = f"ald_ext.samplers.{owner}", f"a prior on {support}"
    require(not support.is_discrete, f"{name}: prior", f"{got}, of discrete variables", "one that has a density")
    try:
        shape = prior.batch_shape + prior.event_shape  # type: ignore[union-attr]
        flat = biject_to(support).inverse_shape(shape) != shape
    except NotImplementedError:  # a constraint of one's own
        flat = False

    def on_support(x: Any, z: Tensor) -> Tensor:
        if flat and z.is_leaf and z.requires_grad:  # z itself is sampled, and not made of what is
            require(False, f"{name}: prior", f"{got}, which has no volume", "its TransformedPotential to be sampled")
        inside = support.check(z)
        inside = inside.all(1) if inside.dim() > 1 else inside
        if not (REJECTS.get() or inside.all()):
            outside = int((~inside & z.isfinite().all(1)).sum())  # NaN is no state, and comes as it is
            found = f"{outside} of {len(z)} states outside of the prior's support, {support}"
            expected = "all inside: MALA and HMC reject others, and a TransformedPotential has none"
            require(not outside, f"{name}: z", found, expected)
        return potential_inside(potential, inside, x, z)

    return on_support


def _log_density(owner: str, name: str, log_density: LogDensity) -> Callable[[Tensor], Tensor]:
    """Return a log density as a function (batch, d) -> (batch,) that checks its shape."""
    if not isinstance(log_density, Distribution):
        return lambda z: one_value_a_datum(owner, name, log_density(z), z)

    def summed(z: Tensor) -> Tensor:
        log_prob = log_density.log_prob(z)  # distributions of independent coordinates keep their dimensions
        value = log_prob.flatten(1).sum(1) if log_prob.dim() > 1 else log_prob
        constant = z.requires_grad and not value.requires_grad  # as of Uniform, whose gradient is 0
        return one_value_a_datum(owner, name, value + 0 * z.sum(1) if constant else value, z)

    return summed


def one_value_a_datum(owner: str, name: str, value: Tensor, z: Tensor) -> Tensor:
    """Return values of the rows of z. RuntimeError if their shape is not (batch,)."""
    if value.shape != z.shape[:1]:
        raise RuntimeError(
            f"ald_ext.samplers.{owner}: {name}: got a result of shape {tuple(value.shape)}, expected ({len(z)},), "
            "one value a datum, summed over its dimensions"
        )
    return value
