"""Step size, mass matrix and length of trajectories, found in windows over all chains.

Note [Warm-up]
    As in Stan, a warm-up is made of windows, each twice as long as the one before, in which the step sizes adapt by
    dual averaging. From the draws of a window, those of all chains of a datum together, its covariance is estimated,

        M = (N Σ̂ + 5·10⁻³ diag Σ̂) / (N + 5),      N = chains · steps,

    which is the inverse mass matrix from there on; of a :class:`DynamicHMC` the trajectory length is chosen, too. The
    last sixth of the steps only adapts the step sizes to what has been found. These follow the harmonic mean of the
    acceptance of chains, so that chains which start far out, or come to a narrow place, move as well.

Note [Warm-up without a test]
    Steps of :class:`UnderdampedLangevin` have no acceptance to steer by, and far out a step that is too long is not
    rejected. So a :class:`DynamicHMC` of the same potential is warmed up, from which z and the diagonal of the inverse
    mass matrix are taken. While it goes on for a sixth as many steps, the step size h is found at its states: with ΔE
    the energy error of one leapfrog step from there,

        h = (V / C)^(1/6),      C the mean of (ΔE/T)² / (d h⁶), later ones weighing more,      V = 5·10⁻⁴.

    The energy error for each dimension tells of the error of what is sampled (Robnik, De Luca, Silverstein & Seljak
    2023, which V is from, too), and is of the order h³.
"""

from __future__ import annotations

import warnings
from numbers import Integral

import torch
from torch import Tensor

from ..moments import merge_mean_
from ..progress import progress_bar
from ..settings import require
from .dual_averaging import DualAveraging
from .dynamic_hmc import DynamicHMC, TrajectoryRecord
from .hmc import HMC
from .langevin import UnderdampedLangevin
from .metropolis import MetropolisSampler

#: Steps of the first window; leapfrog steps in it, at most; draws for each dimension, from which on M is dense.
FIRST_WINDOW, FIRST_LENGTH, DRAWS_A_DIMENSION = 15, 32, 10

MASS_MATRICES = ("identity", "diagonal", "dense", "auto")

#: V of Note [Warm-up without a test], and what the seed of the sampler there is made of by exclusive or.
ENERGY_VARIANCE, OTHER_SEED = 5e-4, 1 << 62

ADAPTABLE = (MetropolisSampler, UnderdampedLangevin)


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


def warm_up(
    sampler: MetropolisSampler | UnderdampedLangevin,
    num_steps: int,
    *,
    mass_matrix: str = "auto",
    progress: bool = False,
) -> None:
    """Adapt a sampler by Note [Warm-up], so that what it draws afterwards are samples.

    Args:
        sampler: MALA, HMC, :class:`DynamicHMC` or :class:`UnderdampedLangevin` (Note [Warm-up without a test]), whose
            step size, inverse mass matrix and trajectory length are set, which are part of its ``state_dict``.
        num_steps: number of steps, 20 at least.
        mass_matrix: "diagonal"; "dense", for samplers with a Metropolis test; "identity", which leaves it as it is; or
            "auto": dense from windows that have 10 draws for each dimension, over steps and chains, and else diagonal.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an argument out of its range; an improper target, see :class:`MetropolisSampler`.
        ImportError: progress without tqdm.
    """
    name = "ald_ext.samplers.warm_up"
    adapts, expected = isinstance(sampler, ADAPTABLE), "one of MALA, HMC, DynamicHMC, UnderdampedLangevin"
    require(adapts, f"{name}: sampler", f"a {type(sampler).__name__}", expected)
    enough = isinstance(num_steps, Integral) and num_steps >= 20
    require(enough, f"{name}: num_steps", repr(num_steps), "an integer >= 20")
    require(
        mass_matrix in MASS_MATRICES, f"{name}: mass_matrix", repr(mass_matrix), f"one of {', '.join(MASS_MATRICES)}"
    )
    if isinstance(sampler, UnderdampedLangevin):
        got = f"{mass_matrix!r} for an UnderdampedLangevin"
        require(mass_matrix != "dense", f"{name}: mass_matrix", got, "'diagonal', 'identity' or 'auto'")
        require(sampler.temperature > 0, f"{name}: sampler", "one of temperature 0", "one > 0, set to 0 afterwards")
        _warm_up_without_test(sampler, num_steps, mass_matrix, progress)
        return
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


@torch.no_grad()
def _warm_up_without_test(sampler: UnderdampedLangevin, num_steps: int, mass_matrix: str, progress: bool) -> None:
    """Warm up by Note [Warm-up without a test]."""
    rows, z = sampler._rows_of_x, sampler.z
    x = rows if rows is None or z.dim() == 2 else rows[:: z.shape[1]]
    common = {name: getattr(sampler, name) for name in ("temperature", "index", "first_chain")}
    common |= {"step_size": sampler.step_size, "seed": sampler.seed ^ OTHER_SEED}
    matrix = sampler.inverse_mass_matrix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to tell of z was told when the sampler was made
        pilot = DynamicHMC(sampler.potential, x, z, inverse_mass_matrix=matrix, **common)
        one_step = HMC(sampler.potential, x, z, num_leapfrog_steps=1, **common)
    warm_up(pilot, num_steps, mass_matrix=mass_matrix, progress=progress)
    matrix = pilot.inverse_mass_matrix
    if matrix is not None and matrix.dim() == 3 and matrix.shape[1] > 1:
        matrix = matrix.diagonal(dim1=1, dim2=2)[:, None]
    one_step.inverse_mass_matrix = matrix
    h, mean = pilot.step_size.min().double(), torch.zeros(())
    for count in range(1, num_steps // 6 + 1):
        one_step._z, one_step._adaptation = pilot.step(), DualAveraging.start(h.to(z.dtype).expand(len(z)))
        one_step.refresh()
        *_, log_ratio, _, _ = one_step._propose(count)
        error = (log_ratio.double().square() / z.shape[-1]).clamp_max(1).mean() / h**6
        mean = mean + 2 / (count + 1) * (error - mean)
        h = (ENERGY_VARIANCE / mean) ** (1 / 6)
    sampler._z, sampler.step_size = pilot.z, h.item()
    sampler.inverse_mass_matrix = matrix
    sampler.num_gradients += pilot.num_gradients + one_step.num_gradients
