"""MALA and HMC: what their trajectories are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .metropolis import JITTER_DRAW, MAX_SCALE, MetropolisSampler
from .potential import Potential


class MALA(MetropolisSampler):
    """The Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996): Langevin dynamics, accepted or rejected.

        z' = z - h M ∇U(z) + √(2hT) F ξ,      M = F Fᵀ,      ξ ~ N(0, I)
        log r = (U(z) - U(z'))/T + aᵀξ - ‖a‖²/2,      a = √(h/2T) Fᵀ (∇U(z) + ∇U(z'))

    log r is the log of exp(-U(z')/T) q(z | z') / exp(-U(z)/T) q(z' | z). A step takes one gradient. With M = I the
    proposal is a step of :class:`LangevinDynamics`; it is one leapfrog step, of size √(2h), of :class:`HMC`, and so it
    is computed. A target acceptance of 0.574 is best in high dimensions (Roberts & Rosenthal 1998).

    Args:
        potential, x, z, step_size, temperature, inverse_mass_matrix, adapt_steps, target_acceptance, seed, index,
            first_chain: see :class:`MetropolisSampler`, also for errors; the step size is h.
    """

    draws_per_step: ClassVar = 2
    best_acceptance: ClassVar = 0.574
    largest_step_size: ClassVar = MAX_SCALE**2 / 2

    def _leapfrog_steps(self, step: int) -> tuple[Tensor, int]:
        return (2 * self._step_size_of_chains()).sqrt(), 1


class HMC(MetropolisSampler):
    """Hamiltonian Monte Carlo of one or more chains for each datum (Duane et al. 1987; Neal 2011).

    With the inverse mass matrix M = F Fᵀ and the momenta p = F⁻ᵀ v, each step draws v ~ N(0, T I), makes L times

        v ← v - (ε/2) Fᵀ∇U(z),      z ← z + ε F v,      v ← v - (ε/2) Fᵀ∇U(z)

    and accepts with log r = (U + ‖v‖²/2 at the beginning - the same at the end) / T. A step takes L gradients.

    Args:
        potential, x, z, step_size, temperature, inverse_mass_matrix, adapt_steps, target_acceptance, seed, index,
            first_chain: see :class:`MetropolisSampler`, also for errors; the step size is ε.
        num_leapfrog_steps: L ≥ 1.
        jitter: 0 ≤ jitter < 1. At each step each chain multiplies its ε, and so the length of its trajectory, by a
            fresh number that is uniform on [1 - jitter, 1 + jitter], which breaks the resonance of a length that is
            near a period of the target (Neal 2011, Section 5.4.2.2).
    """

    draws_per_step: ClassVar = 3
    best_acceptance: ClassVar = 0.8
    largest_step_size: ClassVar = MAX_SCALE

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        step_size: float | Tensor,
        num_leapfrog_steps: int,
        jitter: float = 0.0,
        temperature: float = 1.0,
        inverse_mass_matrix: Tensor | None = None,
        adapt_steps: int = 0,
        target_acceptance: float | None = None,
        seed: int | None = None,
        index: Tensor | None = None,
        first_chain: int = 0,
    ) -> None:
        super().__init__(
            potential,
            x,
            z,
            step_size=step_size,
            temperature=temperature,
            inverse_mass_matrix=inverse_mass_matrix,
            adapt_steps=adapt_steps,
            target_acceptance=target_acceptance,
            seed=seed,
            index=index,
            first_chain=first_chain,
        )
        self._require(num_leapfrog_steps >= 1, "num_leapfrog_steps", num_leapfrog_steps, "a number >= 1")
        self._require(0 <= jitter < 1, "jitter", jitter, "0 <= jitter < 1")
        self.num_leapfrog_steps, self.jitter = num_leapfrog_steps, jitter

    @property
    def steps_alike(self) -> bool:
        return self.jitter == 0

    def _leapfrog_steps(self, step: int) -> tuple[Tensor, int]:
        step_size = self._step_size_of_chains()
        if self.jitter > 0:
            uniform = torch.special.ndtr(self._normal(self._z.shape[:-1], step, JITTER_DRAW))
            step_size = step_size * (1 + self.jitter * (2 * uniform - 1))[..., None]
        return step_size, self._length(step)

    def _length(self, step: int) -> int:
        """Return L of step number ``step``."""
        return self.num_leapfrog_steps
