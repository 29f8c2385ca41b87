"""Langevin chains, one for each datum, that continue from minibatch to minibatch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..samplers.potential import Potential
from .adaptive_langevin import AdaptiveLangevin


class PersistentChains(nn.Module):
    """Chains with states z (count, d), which begin at draws of N(0, I) and are part of a model's checkpoint.

    Args:
        count: number of chains.
        dimension: d.
        dynamics: the dynamics that move them.
    """

    z: Tensor

    def __init__(self, count: int, dimension: int, dynamics: AdaptiveLangevin) -> None:
        super().__init__()
        self.dynamics = dynamics
        start = ops.latent_normal(torch.arange(count), dimension, seed=int(dynamics.seed), step=0)
        self.register_buffer("z", start)

    def advance(self, potential: Potential, x: Tensor | None, index: Tensor, num_steps: int) -> Tensor:
        """Move the chains of a minibatch by ``num_steps`` steps and return their states, (m, d), detached.

        Args:
            potential: U(x, z).
            x: data (m, ...), or None for a target without data.
            index: index of each chain, (m,) int64.
            num_steps: number of steps of the dynamics.
        """
        z = self.dynamics.move(potential, x, self.z[index], index, num_steps)
        self.z[index] = z
        return z
