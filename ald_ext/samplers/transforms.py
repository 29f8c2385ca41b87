"""Potentials of unconstrained variables, for targets that live on a part of space, such as positive scales and shares.

Note [Constrained variables]
    Where z has to stay inside of a constraint, y is sampled instead, z = t(y), with a bijection t from all of space:

        U'(x, y) = U(x, t(y)) - T log |det ∂t/∂y|

    Then t maps samples of exp(-U'/T) to samples of exp(-U/T), whichever sampler draws them. The bijection of a
    constraint is torch's ``biject_to``: exp for positive numbers, a scaled logistic function for an interval, stick
    breaking for the simplex. (``transform_to`` may give one that has no density, as the softmax.) Where t(y) is rounded
    to the boundary or to infinity, U' = +∞.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions.constraints import Constraint

from ..settings import require
from .potential import Potential, potential_inside


class TransformedPotential:
    """The potential of y, from which z = t(y) has the target of another potential: Note [Constrained variables].

        prior = Gamma(torch.tensor([2.0, 3.0]), 1.0)
        potential = TransformedPotential(posterior_potential(prior, log_likelihood), prior.support)
        sampler = HMC(potential, x, potential.unconstrain(z), ...)
        z = potential.constrain(collect(sampler, 1000, burn_in=200))

    Args:
        potential: U(x, z) → (batch,).
        transform: the constraint of z, such as ``prior.support`` or ``torch.distributions.constraints.positive``;
            ``constraints.cat`` for one that varies from dimension to dimension. Or t itself, a bijective
            torch.distributions.Transform.
        temperature: T, that of the sampler; to anneal, set the attributes of both.

    Raises:
        ValueError: a constraint without a bijection, or a transform that is not bijective.
    """

    def __init__(self, potential: Potential, transform: Constraint | Transform, *, temperature: float = 1.0) -> None:
        argument = "ald_ext.samplers.TransformedPotential: transform"
        try:
            self.transform: Transform = biject_to(transform) if isinstance(transform, Constraint) else transform
        except NotImplementedError as error:
            raise ValueError(f"{argument}: got {transform}, expected a constraint that biject_to knows") from error
        require(self.transform.bijective, argument, transform, "a bijective one, such as biject_to gives")
        self.constraint = transform if isinstance(transform, Constraint) else transform.codomain
        self.potential, self.temperature = potential, temperature

    def __call__(self, x: Any, y: Tensor) -> Tensor:
        """Return U'(x, y), (batch, …), (batch, d') → (batch,)."""
        z = self.transform(y)
        log_det = self.transform.log_abs_det_jacobian(y, z)
        not_rounded = self.transform.inv(z.detach()).isfinite().all(1)
        energy = potential_inside(self.potential, not_rounded, x, z)
        return energy - self.temperature * (log_det.sum(-1) if log_det.dim() > 1 else log_det)

    def constrain(self, y: Tensor) -> Tensor:
        """Return z = t(y), (…, d') → (…, d): for samples."""
        z: Tensor = self.transform(y)
        return z

    def unconstrain(self, z: Tensor) -> Tensor:
        """Return y of z = t(y), (…, d) → (…, d'): for initial states. ValueError where z is not inside."""
        y: Tensor = self.transform.inv(z)
        inside = self.constraint.check(z)
        inside = (inside.all(-1) if inside.dim() == z.dim() else inside) & y.isfinite().all(-1)
        argument, bad = "ald_ext.samplers.TransformedPotential.unconstrain: z", int((~inside).sum())
        require(not bad, argument, f"{bad} states outside or on the boundary", f"all inside of {self.constraint}")
        return y
