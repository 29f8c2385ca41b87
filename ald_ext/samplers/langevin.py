"""Langevin dynamics of latent variables, overdamped and underdamped, without a Metropolis-Hastings test."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..settings import shortened
from .datapoint import DatapointSampler
from .potential import Potential


class LangevinDynamics(DatapointSampler):
    """Unadjusted Langevin dynamics of one or more chains for each datum (paper: Eq. 3; Roberts & Tweedie 1996).

        z ← z - η ∇_z U(x, z) + √(2ηT) ξ,      ξ ~ N(0, I)

    A step takes one gradient. The iterates sample exp(-U/T) up to an error of order η; on a Gaussian of variance s²,
    theirs is T s² / (1 - η/(2s²)). The potential may change between steps.

    Args:
        potential, x, z, seed, index, first_chain: see :class:`DatapointSampler`, also for errors.
        step_size: η > 0.
        temperature: T ≥ 0; 0 is gradient descent.
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
            self.index,
            lr=self.step_size,
            temperature=self.temperature,
            seed=self.seed,
            step=step,
            offset=self._offset(z.shape),
        )
        self._z = z


class UnderdampedLangevin(DatapointSampler):
    """Underdamped (kinetic) Langevin dynamics by the splitting BAOAB (Leimkuhler & Matthews 2013).

    With the step size h, the friction γ and μ = exp(-γh), a step makes in this order, beginning with p ~ N(0, T):

        p ← p - h ∇_z U(x, z),      z ← z + (h/2) p,      p ← μp + √((1 - μ²)T) ξ,      z ← z + (h/2) p

    This is BAOAB with its two half steps of p joined, so that a step takes one gradient. The positions sample
    exp(-U/T) up to an error of order h², and exactly for a Gaussian, if h < 2s for its smallest standard deviation s.
    The momenta belong to a time half a step before. The potential may change between steps. With an inverse mass matrix
    M = F², the step is that of y = F⁻¹ z. :func:`warm_up` finds M and h.

    Args:
        potential, x, z, seed, index, first_chain: see :class:`DatapointSampler`, also for errors.
        step_size: h > 0. The attribute may be set between steps.
        friction: γ > 0.
        temperature: T ≥ 0; 0 is gradient descent with momentum.
        inverse_mass_matrix: M, the diagonal of a diagonal matrix, (d,), or one for each datum, (n, 1, d), > 0. None
            stands for the identity. The attribute may be set between steps.
    """

    draws_per_step: ClassVar = 1
    adapted: ClassVar = ("inverse_mass_matrix", "step_size")

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        step_size: float,
        friction: float = 1.0,
        temperature: float = 1.0,
        inverse_mass_matrix: Tensor | None = None,
        seed: int | None = None,
        index: Tensor | None = None,
        first_chain: int = 0,
    ) -> None:
        super().__init__(potential, x, z, temperature=temperature, seed=seed, index=index, first_chain=first_chain)
        self._check_number("friction", friction)
        self.inverse_mass_matrix = inverse_mass_matrix
        self.step_size = step_size
        self.friction = float(friction)
        self._momenta = math.sqrt(self.temperature) * self._normal(self._z.shape, step=0, draw=0)

    @property
    def momenta(self) -> Tensor:
        """The current momenta, in the shape of z. Later steps do not overwrite them; nor should you."""
        return self._momenta.detach()

    @property
    def step_size(self) -> float:
        """The step size h."""
        return self._step_size

    @step_size.setter
    def step_size(self, step_size: float) -> None:
        self._check_number("step_size", step_size)
        self._step_size = float(step_size)

    @property
    def inverse_mass_matrix(self) -> Tensor | None:
        """M as it was given, (d,) or (n, 1, d); None stands for the identity."""
        return self._inverse_mass_matrix

    @inverse_mass_matrix.setter
    def inverse_mass_matrix(self, matrix: Tensor | None) -> None:
        matrix = None if matrix is None else torch.as_tensor(matrix).detach().to(self._z, copy=True)
        if matrix is not None:
            (n, *_, d), shape, name = self._z.shape, tuple(matrix.shape), "inverse_mass_matrix"
            self._require(shape in ((d,), (n, 1, d)), name, f"shape {shape}", f"({d},) or ({n}, 1, {d})")
            self._require(
                (matrix.isfinite() & (matrix > 0)).all(), name, shortened(matrix.tolist()), "finite numbers > 0"
            )
        self._inverse_mass_matrix = matrix
        lone = matrix is not None and matrix.dim() > self._z.dim()
        self._mass_factor = None if matrix is None else (matrix[:, 0] if lone else matrix).sqrt()

    def _advance(self, step: int) -> None:
        _, gradient = self._evaluate(self._z)
        factor, momenta = self._mass_factor, self._momenta.clone()
        gradient = gradient if factor is None else factor * gradient
        y = self._z.clone() if factor is None else torch.zeros_like(self._z)
        decay = math.exp(-self.friction * self.step_size)
        key = {"seed": self.seed, "step": step, "offset": self._offset(y.shape)}
        noise: dict[str, Any] = {"temperature": self.temperature, **key}
        ops.latent_underdamped_step_(y, momenta, gradient, self.index, lr=self.step_size**2, momentum=decay, **noise)
        self._z, self._momenta = y if factor is None else torch.addcmul(self._z, factor, y), momenta

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "momenta": self._momenta}
