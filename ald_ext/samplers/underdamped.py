"""Underdamped (kinetic) Langevin dynamics of latent variables."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from .. import ops
from .datapoint import DatapointSampler
from .potential import Potential


class UnderdampedLangevin(DatapointSampler):
    """Underdamped Langevin dynamics by the splitting BAOAB (Leimkuhler & Matthews 2013), one or more chains a datum.

    With h the step size, γ the friction and μ = exp(-γh), in this order, beginning with p ~ N(0, T):

        p ← p - h ∇_z U(x, z),      z ← z + (h/2) p,      p ← μp + √((1 - μ²)T) ξ,      z ← z + (h/2) p

    which is BAOAB with its half steps of p in one, so one gradient a step. The positions sample exp(-U/T) up to an
    error of order h², and exactly for a Gaussian, if h < 2s for its smallest standard deviation s. The momenta belong
    to a time half a step before. The potential may change between steps.

    Args:
        potential, x, z, seed, data: as in :class:`DatapointSampler`.
        step_size: h > 0.
        friction: γ > 0.
        temperature: T ≥ 0; 0 is gradient descent with momentum.

    Raises:
        ValueError: an argument out of its range, or shapes that do not fit.
    """

    draws_per_step: ClassVar = 1

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        step_size: float,
        friction: float = 1.0,
        temperature: float = 1.0,
        seed: int | None = None,
        data: Tensor | None = None,
    ) -> None:
        super().__init__(potential, x, z, temperature=temperature, seed=seed, data=data)
        self._check_number("step_size", step_size)
        self._check_number("friction", friction)
        self.step_size = float(step_size)
        self.friction = float(friction)
        self._momentum = math.sqrt(temperature) * self._normal(self._z.shape, step=0, draw=0)

    @property
    def momentum(self) -> Tensor:
        """The current momenta, in the shape of z. Later steps do not overwrite them; nor should you."""
        return self._momentum.detach()

    def _advance(self, step: int) -> None:
        _, gradient = self._evaluate(self._z)
        z, momentum = self._z.clone(), self._momentum.clone()
        ops.latent_underdamped_step_(
            z,
            momentum,
            gradient,
            self._data,
            lr=self.step_size**2,
            momentum=math.exp(-self.friction * self.step_size),
            temperature=self.temperature,
            seed=self.seed,
            step=step,
        )
        self._z, self._momentum = z, momentum

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "momentum": self._momentum}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        super()._restore(tensors)
        self._momentum = tensors["momentum"]
