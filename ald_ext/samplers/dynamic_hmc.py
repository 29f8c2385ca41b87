"""HMC whose trajectories have a random length, for which a good mean is found by looking at the trajectories.

Note [Trajectory length]
    In coordinates y, in which the inverse mass matrix is the identity, let f be a coordinate y_i or |y_i - μ_i|. A
    chain of trajectories of length t has the autocorrelation

        ρ_f(t) = 1 - E[α (f(t) - f(0))²] / (2 Var f),      α = min(1, r) the probability to accept it there,

    which every longer trajectory tells, too, at no gradient more. With random lengths of mean T it is the mean
    ρ̄_f(T) of ρ_f over these. The choice is the T with the least cost of an effective sample of the worst f,

        max_f (1 + ρ̄_f(T)) / (1 - ρ̄_f(T)) · (E[L] + 1/2)

    where 1/2 stands for the cost of a step besides its L gradients. Beyond the longest trajectory ρ_f counts as
    constant, and T is at most that long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .captured import CapturedPotential
from .hmc import HMC
from .leapfrog import ChainStates
from .potential import Potential

#: Bins of the logarithm of time, in an octave and in all, from 2^-40 to 2^40; the least mean number of leapfrog steps
#: while trajectories are recorded; the cost of a step in gradients, besides its gradients.
BINS_AN_OCTAVE, NUM_BINS, LEAST_EXPLORED, COST_OF_A_STEP = 8, 640, 4, 0.5

#: Trajectory lengths that are tried, and random numbers of each.
NUM_LENGTHS = 64


def van_der_corput(step: int) -> float:
    """Return term ``step`` ≥ 1 of the van der Corput sequence in base 2, quasi-random on (0, 1): 1/2, 1/4, 3/4, 1/8, …

    It is the bits of ``step`` mirrored at the binary point.
    """
    return int(f"{step:b}"[::-1], 2) / 2 ** step.bit_length()


class DynamicHMC(HMC):
    """Hamiltonian Monte Carlo with trajectories of random length, whose mean :func:`warm_up` finds by itself.

    Step number t makes L = ⌈2 h_t T / ε⌉ leapfrog steps, one number for all chains, with quasi-random h_t, uniform on
    (0, 1) (Hoffman, Radul & Sountsov 2021). A random length resonates with no period of the target; one length for all
    chains makes a leapfrog step a single call of the potential.

    Args:
        potential, x, z, step_size: see :class:`HMC`, also for errors. Where data have step sizes ε of their own, L is
            that of their mean.
        trajectory_length: T > 0, the mean length in units of time, of the order of 1 where the inverse mass matrix is
            the target's covariance. The attribute may be set between steps.
        max_leapfrog_steps: the largest L.
        options: options of :class:`HMC`: jitter, temperature, inverse_mass_matrix, adapt_steps, target_acceptance,
            seed, index, first_chain.
    """

    adapted: ClassVar = (*HMC.adapted, "trajectory_length")

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        step_size: float | Tensor = 0.1,
        trajectory_length: float = math.pi / 2,
        max_leapfrog_steps: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(potential, x, z, step_size=step_size, num_leapfrog_steps=max_leapfrog_steps, **options)
        self.trajectory_length = trajectory_length
        self.record: TrajectoryRecord | None = None

    @property
    def trajectory_length(self) -> float:
        """The mean length T."""
        return self._trajectory_length

    @trajectory_length.setter
    def trajectory_length(self, trajectory_length: float) -> None:
        self._check_number("trajectory_length", trajectory_length)
        self._trajectory_length = float(trajectory_length)

    @property
    def steps_alike(self) -> bool:
        return False

    def _length(self, step: int) -> int:
        mean = self.trajectory_length / self.step_size.mean().item()
        mean = mean if self.record is None else max(mean, LEAST_EXPLORED)
        return min(math.ceil(2 * van_der_corput(step) * mean), self.num_leapfrog_steps)

    def _compiled(self) -> CapturedPotential | None:
        return super()._compiled() if self.record is None else None

    def _trajectory(
        self,
        state: ChainStates,
        v: Tensor,
        step_size: Tensor,
        length: int,
        visit: Callable[[ChainStates, Tensor], None] | None = None,
    ) -> tuple[ChainStates, Tensor]:
        if self.record is None:
            return super()._trajectory(state, v, step_size, length, visit)
        visited: list[tuple[ChainStates, Tensor]] = []
        end = super()._trajectory(state, v, step_size, length, lambda *place: visited.append(place))
        self.record.take(self, state, v, visited)
        return end


class TrajectoryRecord:
    """How fast trajectories forget where they began, from which their best mean length follows.

    Args:
        center: μ, in the shape of z or one that broadcasts with it.
    """

    def __init__(self, center: Tensor) -> None:
        self.center = center
        self._sums: Tensor | float = 0.0  # (NUM_BINS, 2 + 2d), of 1, t and E[α (f(t) - f(0))²] of a trajectory
        self._moments: list[Tensor] = []  # (2, 2d) of each trajectory, the means of f(0) and its square

    def take(
        self, sampler: DynamicHMC, start: ChainStates, v: Tensor, visited: list[tuple[ChainStates, Tensor]]
    ) -> None:
        """Take in the states and v that the trajectory from ``start`` and v visited."""
        positions = [start.z, *(state.z for state, _ in visited)]
        log_ratios = [sampler._log_ratio(start, v, *place) for place in visited]
        y = sampler.whitened(torch.stack(positions) - self.center)
        f = torch.cat([y, y.abs()], -1).double()
        first = f[0].flatten(0, -2)
        self._moments.append(torch.stack([first.mean(0), first.square().mean(0)]))
        probability = torch.stack(log_ratios).clamp_max(0).exp().nan_to_num(0)[..., None]
        jumps = (probability * (f[1:] - f[0]).square()).nan_to_num(0, 0, 0).flatten(1, -2).mean(1)
        times = torch.arange(1, len(f), device=f.device) * sampler.step_size.mean().double()
        bins = (times.log2() * BINS_AN_OCTAVE + NUM_BINS / 2).long().clamp(0, NUM_BINS - 1)
        rows = torch.cat([torch.ones_like(times)[:, None], times[:, None], jumps], 1)
        self._sums = self._sums + rows.new_zeros(NUM_BINS, rows.shape[1]).index_add_(0, bins, rows)

    def best_length(self, step_size: float) -> float:
        """Return T by Note [Trajectory length]."""
        assert isinstance(self._sums, Tensor)
        mean, square = torch.stack(self._moments).mean(0)
        sums = self._sums[self._sums[:, 0] > 0]
        means = (sums[:, 1:] / sums[:, :1] / torch.cat([mean.new_ones(1), 2 * (square - mean.square())])).cpu().numpy()
        known, jumps = np.append(0, means[:, 0]), means[:, 1:]
        lengths = np.geomspace(min(step_size / 2, known[-1]), known[-1], NUM_LENGTHS)
        steps = np.ceil(2 * lengths[:, None] / step_size * (np.arange(NUM_LENGTHS) + 0.5) / NUM_LENGTHS)
        forgotten = [np.interp(steps * step_size, known, np.append(0, curve)).mean(1) for curve in jumps.T]
        remaining = 1 - np.clip(np.min(forgotten, 0), 1e-6, 1.9)
        cost = (1 + remaining) / (1 - remaining) * (steps.mean(1) + COST_OF_A_STEP)
        return float(lengths[cost.argmin()])
