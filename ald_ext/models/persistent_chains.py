"""A Langevin chain for each datum that goes on from minibatch to minibatch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..samplers import LangevinDynamics
from ..samplers.potential import Potential


class PersistentChains(nn.Module):
    """States z (count, d) of chains, which are part of a model's checkpoint; they begin at draws of N(0, I).

    Step t of chain i has the noise of (seed, t, i), where t counts the steps made with any minibatch, so that a chain's
    noise depends neither on its place in a minibatch nor on when the run was interrupted.

    Args:
        count, dimension: of z.
        seed: drawn from torch's default generator if None.
    """

    z: Tensor
    step_count: Tensor
    seed: Tensor

    def __init__(self, count: int, dimension: int, seed: int | None = None) -> None:
        super().__init__()
        chosen = ops.draw_seed() if seed is None else seed
        self.register_buffer("z", ops.latent_normal(torch.arange(count), dimension, seed=chosen, step=0))
        self.register_buffer("step_count", torch.tensor(0))
        self.register_buffer("seed", torch.tensor(chosen))

    def advance(
        self, potential: Potential, x: Tensor | None, index: Tensor, *, num_steps: int, step_size: float
    ) -> Tensor:
        """Moves the chains of a minibatch by ``num_steps`` Langevin steps (paper: Eq. 3) and gives their states.

        Args:
            potential: U(x, z).
            x: (m, ...) data, or None for a target without data.
            index: (m,) int64: the chains.
            num_steps, step_size: η of z ← z - η ∇U + √(2η) ξ.

        Returns:
            (m, d), detached.
        """
        sampler = LangevinDynamics(potential, x, self.z[index], step_size=step_size, seed=int(self.seed), data=index)
        sampler.start_after(int(self.step_count))
        for _ in range(num_steps):
            sampler.step()
        self.z[index] = sampler.z
        self.step_count += num_steps
        return sampler.z
