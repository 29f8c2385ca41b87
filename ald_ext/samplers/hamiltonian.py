"""Hamiltonian Monte Carlo of latent variables."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .metropolis import ChainStates, MetropolisSampler
from .potential import Potential

JITTER_DRAW = 2


class HMC(MetropolisSampler):
    """Hamiltonian Monte Carlo of one or more chains for each datum (Duane et al. 1987; Neal 2011).

    With the inverse mass matrix M = F Fᵀ and the momenta p = F⁻ᵀ v, each step draws v ~ N(0, T I), makes L times

        v ← v - (ε/2) Fᵀ∇U(z),      z ← z + ε F v,      v ← v - (ε/2) Fᵀ∇U(z)

    and accepts with log r = (U + ‖v‖²/2 at the beginning - the same at the end) / T. A step takes L gradients.

    Args:
        potential, x, z, step_size, temperature, inverse_mass_matrix, adapt_steps, target_acceptance, seed, index,
            first_chain: see :class:`MetropolisSampler`; the step size is ε.
        num_leapfrog_steps: L ≥ 1.
        jitter: 0 ≤ jitter < 1. At each step each chain multiplies its ε, and so the length of its trajectory, by a
            fresh number that is uniform on [1 - jitter, 1 + jitter], which breaks the resonance of a length that is
            near a period of the target (Neal 2011, Section 5.4.2.2).

    Raises:
        ValueError: as :class:`MetropolisSampler`.
    """

    draws_per_step: ClassVar = 3
    best_acceptance: ClassVar = 0.8

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
        self.num_leapfrog_steps = num_leapfrog_steps
        self.jitter = jitter

    def _propose(self, current: ChainStates, step: int) -> tuple[ChainStates, Tensor]:
        step_size = self._jittered_step_size(step)
        initial = self.temperature**0.5 * self._normal(self._z.shape, step, draw=0)
        proposal, final = self._leapfrog(current, initial, step_size)
        kinetic_difference = (initial.square() - final.square()).sum(-1) / 2
        return proposal, (current.potential - proposal.potential + kinetic_difference) / self.temperature

    def _leapfrog(self, state: ChainStates, v: Tensor, step_size: Tensor) -> tuple[ChainStates, Tensor]:
        """Return the end of the trajectory, and v there."""
        for _ in range(self.num_leapfrog_steps):
            v = v - step_size / 2 * self._by_transposed_mass_factor(state.gradient)
            z = state.z + step_size * self._by_mass_factor(v)
            state = ChainStates(z, *self._evaluate(z))
            v = v - step_size / 2 * self._by_transposed_mass_factor(state.gradient)
        return state, v

    def _jittered_step_size(self, step: int) -> Tensor:
        """Return the step sizes in a shape that broadcasts with z."""
        step_size = self._step_size_of_chains()
        if self.jitter == 0:
            return step_size
        uniform = torch.special.ndtr(self._normal(self._z.shape[:-1], step, JITTER_DRAW))
        return step_size * (1 + self.jitter * (2 * uniform - 1))[..., None]
