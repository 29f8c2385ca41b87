"""Langevin dynamics of latent variables."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .. import ops
from .datapoint import DatapointSampler
from .potential import Potential


class LangevinDynamics(DatapointSampler):
    """Unadjusted Langevin dynamics of one or more chains for each datum (paper: Eq. 3; Roberts & Tweedie 1996).

        z ← z - η ∇_z U(x, z) + √(2ηT) ξ,      ξ ~ N(0, I)

    A step takes one gradient. The iterates sample exp(-U/T) up to an error of order η; on a Gaussian of variance s²,
    theirs is T s² / (1 - η/(2s²)). The potential may change between steps.

    Args:
        potential, x, z, seed, index, first_chain: see :class:`DatapointSampler`.
        step_size: η > 0.
        temperature: T ≥ 0; 0 is gradient descent.

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
        temperature: float = 1.0,
        seed: int | None = None,
        index: Tensor | None = None,
        first_chain: int = 0,
    ) -> None:
        super().__init__(potential, x, z, temperature=temperature, seed=seed, index=index, first_chain=first_chain)
        self._check_number("step_size", step_size)
        self.step_size = float(step_size)

    def _advance(self, step: int) -> None:
        _, gradient = self._evaluate(self._z)
        z = self._z.clone()
        ops.latent_langevin_step_(
            z,
            gradient,
            self._index,
            lr=self.step_size,
            temperature=self.temperature,
            seed=self.seed,
            step=step,
            offset=self._offset(z.shape),
        )
        self._z = z
