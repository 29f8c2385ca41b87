"""Step size, mass matrix and length of trajectories, found in windows over all chains.

Note [Warm-up]
    As in Stan, a warm-up is made of windows, each twice as long as the one before, in which the step sizes adapt by
    dual averaging. From the draws of a window, those of all chains of a datum together, its covariance is estimated,

        M = (N Σ̂ + 5·10⁻³ diag Σ̂) / (N + 5),      N = chains · steps,

    which is the inverse mass matrix from there on; of a :class:`DynamicHMC` the trajectory length is chosen, too. The
    last sixth of the steps only adapts the step sizes to what has been found. These follow the harmonic mean of the
    acceptance of chains, so that chains which start far out, or come to a narrow place, move as well.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from ..moments import merge_mean_
from ..progress import progress_bar
from ..settings import require
from .dynamic_hmc import DynamicHMC, TrajectoryRecord
from .metropolis import MetropolisSampler

#: Steps of the first window; leapfrog steps in it, at most; draws for each dimension, from which on M is dense.
FIRST_WINDOW, FIRST_LENGTH, DRAWS_A_DIMENSION = 15, 32, 10

MASS_MATRICES = ("identity", "diagonal", "dense", "auto")


def windows(num_steps: int) -> list[int]:
    """Return the lengths of the windows of so many steps, the last of which only adapts the step size."""
    last = max(num_steps // 6, 1)
    lengths: list[int] = []
    left = num_steps - last
    while left > 0:
        length = FIRST_WINDOW * 2 ** len(lengths)
        lengths.append(left if left < 3 * length else length)
        left -= lengths[-1]
    return [*lengths, last]


class PooledCovariance:
    """The covariance of each datum's draws, over chains and steps, (n, d, d), or its diagonal, (n, 1, d)."""

    def __init__(self, z: Tensor, *, dense: bool) -> None:
        self.count, self.dense = 0, dense
        n, d = len(z), z.shape[-1]
        self.mean = z.new_zeros((n, d), dtype=torch.float64)
        self.scatter = z.new_zeros((n, d, d) if dense else (n, d), dtype=torch.float64)

    def append(self, z: Tensor) -> None:
        """Take in a draw, (n, d) or (n, chains, d)."""
        draws = z.double().reshape(len(z), -1, z.shape[-1])
        mean = draws.mean(1)
        centred = draws - mean[:, None]
        self.scatter += centred.mT @ centred if self.dense else centred.square().sum(1)
        self.count = merge_mean_(self.count, self.mean, self.scatter, draws.shape[1], mean)

    @property
    def variance(self) -> Tensor:
        """The variances, (n, d)."""
        return (self.scatter.diagonal(dim1=-2, dim2=-1) if self.dense else self.scatter) / (self.count - 1)

    def estimate(self) -> Tensor:
        """Return M of Note [Warm-up]."""
        covariance = self.scatter / (self.count - 1)
        ridge = 5e-3 / self.count * self.variance
        shrunk = (covariance + torch.diag_embed(ridge)) if self.dense else (covariance + ridge)[:, None]
        return shrunk * (self.count / (self.count + 5))


def warm_up(sampler: MetropolisSampler, num_steps: int, *, mass_matrix: str = "auto", progress: bool = False) -> None:
    """Adapt a sampler by Note [Warm-up], so that what it draws afterwards are samples.

    Args:
        sampler: MALA, HMC or :class:`DynamicHMC`, whose step size, inverse mass matrix and trajectory length are set.
            They are not part of its ``state_dict``, but attributes.
        num_steps: number of steps, 20 at least.
        mass_matrix: "diagonal"; "dense"; "identity", which leaves it as it is; or "auto": dense from windows that have
            10 draws for each dimension, over steps and chains, and else diagonal.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an argument out of its range; an improper target, see :class:`MetropolisSampler`.
        ImportError: progress without tqdm.
    """
    name = "ald_ext.samplers.warm_up"
    metropolis = isinstance(sampler, MetropolisSampler)
    require(metropolis, f"{name}: sampler", f"a {type(sampler).__name__}", "one with a Metropolis test: MALA or HMC")
    enough = isinstance(num_steps, Integral) and num_steps >= 20
    require(enough, f"{name}: num_steps", repr(num_steps), "an integer >= 20")
    require(
        mass_matrix in MASS_MATRICES, f"{name}: mass_matrix", repr(mass_matrix), f"one of {', '.join(MASS_MATRICES)}"
    )
    z, longest = sampler.z, getattr(sampler, "num_leapfrog_steps", 0)
    center = z.mean(1, keepdim=True) if z.dim() == 3 else z
    *lengths, last = windows(num_steps)
    dynamic = sampler if isinstance(sampler, DynamicHMC) else None
    with progress_bar(total=num_steps, show=progress, unit="step", desc="warm-up") as bar:
        for position, length in enumerate(lengths):
            enough = z[0].numel() * length >= DRAWS_A_DIMENSION * z.shape[-1] ** 2
            dense = mass_matrix == "dense" or (mass_matrix == "auto" and enough)
            pooled = PooledCovariance(z, dense=dense)
            sampler.adapt_for(length)
            if dynamic:
                dynamic.num_leapfrog_steps = min(longest, FIRST_LENGTH * 2**position)
                dynamic.record = TrajectoryRecord(center)
            for _ in range(length):
                pooled.append(sampler.step())
                bar.update()
            center = pooled.mean.to(z.dtype)
            center = center[:, None] if z.dim() == 3 else center
            if dynamic and dynamic.record:
                dynamic.trajectory_length = dynamic.record.best_length(dynamic.step_size.mean().item())
                dynamic.record, dynamic.num_leapfrog_steps = None, longest
            if mass_matrix != "identity":
                moved = bool((pooled.variance > 0).all())
                got = f"chains that did not move in {length} steps"
                require(moved, f"{name}: sampler", got, "other states to start from, or a smaller step_size")
                sampler.inverse_mass_matrix = pooled.estimate().to(z.dtype)
        sampler.adapt_for(last)
        for _ in range(last):
            sampler.step()
            bar.update()
