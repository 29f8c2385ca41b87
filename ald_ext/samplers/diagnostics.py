"""How good samples are: effective sample size, R-hat and Monte Carlo errors by arviz-stats; temperatures by identities.

Samples are (draws, n, d) or (draws, n, chains, d): collection.py, Note [Shapes of samples]; or the
:class:`ald_ext.samplers.SampleStorage` that holds them. arviz-stats loops over the n·d variables in Python, about a
millisecond each; :class:`ald_ext.samplers.StreamingMoments` does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..settings import require
from .collection import SampleStorage
from .equal_chains import check_chains_differ
from .faults import UNMOVED, warn_of_chains, warn_of_lone_chains, warn_of_non_finite_draws
from .potential import Potential

#: A function of z (..., d): the gradient (..., d), or the Laplacian (...).
Field = Callable[[Tensor], Tensor]

#: What arviz-stats can compute, by its functions.
METHODS = {
    "ess": ("bulk", "tail", "mean", "sd", "median", "mad", "z_scale", "folded", "identity"),
    "rhat": ("rank", "folded", "z_scale", "split", "identity"),
    "mcse": ("mean", "sd", "median"),
}

#: Number of batches: few, so that they are long and nearly independent whatever the autocorrelation.
NUM_BATCHES = 30


def tensor_of(samples: Tensor | SampleStorage) -> Tensor:
    """Return the draws themselves."""
    return samples.samples if isinstance(samples, SampleStorage) else samples


def with_chains(name: str, samples: Tensor | SampleStorage) -> Tensor:
    """Return samples as (draws, n, chains, d), detached. ValueError for another shape, or equal chains."""
    samples = tensor_of(samples)
    fits, got = samples.ndim in (3, 4) and 0 not in samples.shape, f"shape {tuple(samples.shape)}"
    require(fits, f"ald_ext.samplers.{name}: samples", got, "(draws, n, d) or (draws, n, chains, d)")
    samples = samples.detach().unsqueeze(2) if samples.ndim == 3 else samples.detach()
    check_chains_differ(f"ald_ext.samplers.{name}: samples", samples)
    return samples


def examined_chains(name: str, samples: Tensor | SampleStorage, *, compared: bool, stacklevel: int) -> Tensor:
    """Return :func:`with_chains` in float64 on the CPU, and warn of faults, and of lone chains to be compared."""
    array, has_chains = with_chains(name, samples).double().cpu(), tensor_of(samples).ndim == 4
    if compared and not has_chains:
        warn_of_lone_chains(name, array.shape[1], stacklevel=stacklevel + 1)
    bad = ~array.isfinite().all(-1)
    warn_of_non_finite_draws(name, bad.sum(0), bad.int().argmax(0), len(array), stacklevel=stacklevel + 1)
    warn_of_chains(name, UNMOVED, unmoved(array), stacklevel=stacklevel + 1)
    return array


def unmoved(array: Tensor) -> Tensor:
    """Return which chains of (draws, n, chains, d) never moved in which variables that are finite, (n, chains, d)."""
    return (array == array[0]).all(0) & array.isfinite().all(0).all(1, keepdim=True) & (len(array) >= 4)


def arviz_functions(owner: str) -> Any:
    """Return arviz-stats's functions of plain arrays. ImportError, which begins with ``owner``, if it is missing."""
    try:
        from arviz_stats.base import array_stats
    except ModuleNotFoundError as error:
        raise ImportError(f"{owner}: needs arviz-stats: pip install 'ald_ext[diagnostics]'") from error
    return array_stats


def array_statistic(name: str, function: str, array: Tensor, method: str) -> Tensor:
    """Return what a function of arviz-stats gives for an array, by ald_ext.samplers.faults, Note [Faults of chains].

    Its functions for plain arrays need no xarray and no numba.
    """
    array_stats = arviz_functions(f"ald_ext.samplers.{name}")
    if function == "rhat" and array.shape[2] == 1:
        half = len(array) // 2
        array = torch.cat([array[:half], array[-half:]], 2)
    options: dict[str, Any] = {"prob": 0.05} if method == "tail" else {}
    with np.errstate(all="ignore"):  # it divides by the variance of chains that never moved
        values = getattr(array_stats, function)(array.numpy(), chain_axis=2, draw_axis=0, method=method, **options)
    result = torch.as_tensor(values, dtype=torch.float64)
    result[unmoved(array).any(1)] = 0 if function == "ess" else math.inf
    result[~array.isfinite().all(0).all(1)] = math.nan
    return result


def checked_statistic(name: str, function: str, samples: Tensor | SampleStorage, method: str) -> Tensor:
    """Return :func:`array_statistic` of samples. ValueError for a method that arviz-stats does not have."""
    methods = METHODS[function]
    require(method in methods, f"ald_ext.samplers.{name}: method", repr(method), f"one of {', '.join(methods)}")
    array = examined_chains(name, samples, compared=function == "rhat", stacklevel=4)
    return array_statistic(name, function, array, method)


def effective_sample_size(samples: Tensor | SampleStorage, method: str = "bulk") -> Tensor:
    """Return the effective sample size over draws and chains, (n, d) float64; NaN below four draws.

    It is 0 where a chain never moved, and NaN where a draw is NaN or infinite; a UserWarning tells which.

    Args:
        samples: (draws, n, d) or (draws, n, chains, d), or a storage of them.
        method: "bulk" (ranks, for location), "tail" (the worse of the 5% and 95% quantiles), "mean" (for the mean
            itself), or another of arviz-stats (Vehtari et al. 2021): sd, median, mad, z_scale, folded, identity.

    Raises:
        ValueError: another shape or method, or chains with equal draws, by the same noise by mistake.
        ImportError: arviz-stats is missing.
    """
    return checked_statistic("effective_sample_size", "ess", samples, method)


def r_hat(samples: Tensor | SampleStorage, method: str = "rank") -> Tensor:
    """Return the potential scale reduction, (n, d) float64; below 1.01 where chains agree (Vehtari et al. 2021).

    The two halves of a single chain count as chains. It is infinite where a chain never moved, and NaN where a draw is
    NaN or infinite; a UserWarning tells which, and also of several data without an axis of chains, (draws, n, d), which
    might be meant as chains of one target.

    Args:
        samples: see :func:`effective_sample_size`, also for errors.
        method: "rank" (the worse of ranks and ranks of distances from the median), split, identity, z_scale, folded.
    """
    return checked_statistic("r_hat", "rhat", samples, method)


def monte_carlo_standard_error(samples: Tensor | SampleStorage, method: str = "mean") -> Tensor:
    """Return the standard error of the mean, sd or median of the samples, (n, d) float64.

    It is infinite where a chain never moved, and NaN where a draw is NaN or infinite; a UserWarning tells which.

    Args:
        samples: see :func:`effective_sample_size`, also for errors.
        method: "mean", "sd" or "median".
    """
    return checked_statistic("monte_carlo_standard_error", "mcse", samples, method)


def summarize(samples: Tensor | SampleStorage) -> dict[str, Tensor]:
    """Return mean, sd, mcse (of the mean), ess_bulk, ess_tail and r_hat, each (n, d) float64.

    Of a storage that knows of divergences, there are also "divergences", (n,) int64: the number of draws after one.

    Args:
        samples: see :func:`effective_sample_size` for errors, and :func:`r_hat` for warnings.
    """
    array = examined_chains("summarize", samples, compared=True, stacklevel=3)
    pooled = array.movedim(2, 1).flatten(0, 1)
    table = {"mean": pooled.mean(0), "sd": pooled.std(0)}
    statistics = {"mcse": ("mcse", "mean"), "ess_bulk": ("ess", "bulk"), "ess_tail": ("ess", "tail")}
    for key, (function, method) in {**statistics, "r_hat": ("rhat", "rank")}.items():
        table[key] = array_statistic("summarize", function, array, method)
    if isinstance(samples, SampleStorage) and samples.diverging is not None:
        table["divergences"] = samples.diverging.cpu().sum(0).reshape(array.shape[1], -1).sum(1)
    return table


# Temperatures


@dataclass(frozen=True)
class TemperatureEstimate:
    """A temperature measured on samples.

    Args:
        temperature: the estimate.
        standard_error: its Monte Carlo standard error.
        nominal: the temperature that was asked for.
    """

    temperature: float
    standard_error: float
    nominal: float

    @property
    def z_score(self) -> float:
        """The deviation (temperature - nominal) in standard errors."""
        return (self.temperature - self.nominal) / self.standard_error


def configurational_temperature(
    z: Tensor, gradient: Field, laplacian: Field | None = None, *, nominal: float = 1.0
) -> TemperatureEstimate:
    """Return T = E|∇U|² / E[ΔU], an identity of exp(-U/T), over draws, data and chains.

    It is most sensitive in the stiffest directions, where ΔU is large, and there it also sees the error of a finite
    step (Rugh 1997; Butler et al. 1998).

    Args:
        z: samples, (draws, n, d) or (draws, n, chains, d).
        gradient: ∇U of one draw (n, [chains,] d); :func:`potential_gradient` makes it from a potential.
        laplacian: ΔU, (n, [chains,] d) → (n, [chains]); None stands for :func:`exact_laplacian` of the gradient, which
            takes d backward passes for each draw; :func:`hutchinson_laplacian` takes fewer.
        nominal: the temperature T that was asked for.

    Raises:
        ValueError: z of another shape, or fewer than 60 draws: two for each batch.
    """
    laplacian = laplacian or exact_laplacian(gradient)
    squares, laplacians = [], []
    for draw in check_draws("configurational_temperature", z):
        squares.append(gradient(draw).detach().double().square().sum(-1))
        laplacians.append(laplacian(draw).detach().double())
    return temperature_of_ratio(torch.stack(squares), torch.stack(laplacians), nominal)


def virial_temperature(z: Tensor, gradient: Field, *, nominal: float = 1.0) -> TemperatureEstimate:
    """Return T = E[z·∇U] / d (generalized equipartition), an identity of exp(-U/T), over draws, data and chains.

    Args:
        z, gradient, nominal: see :func:`configurational_temperature`, also for errors.
    """
    virials = torch.stack(
        [(draw * gradient(draw).detach()).double().sum(-1) for draw in check_draws("virial_temperature", z)]
    )
    return temperature_of_ratio(virials, torch.full_like(virials, z.shape[-1]), nominal)


def check_draws(name: str, z: Tensor) -> Tensor:
    """Return samples, detached. ValueError for another shape, or too few draws."""
    with_chains(name, z)
    least = 2 * NUM_BATCHES
    require(len(z) >= least, f"ald_ext.samplers.{name}: z", f"{len(z)} draws", f"{least} at least")
    return z.detach()


def temperature_of_ratio(numerator: Tensor, denominator: Tensor, nominal: float) -> TemperatureEstimate:
    """Return E[numerator]/E[denominator] of (draws, ...), with a standard error by batch means of its linearization."""
    temperature = numerator.mean() / denominator.mean()
    residuals = (numerator - temperature * denominator).flatten(1).mean(1) / denominator.mean()
    size = len(residuals) // NUM_BATCHES
    means = residuals[len(residuals) - size * NUM_BATCHES :].view(NUM_BATCHES, size).mean(1)
    return TemperatureEstimate(float(temperature), float(means.std()) / math.sqrt(NUM_BATCHES), nominal)


def potential_gradient(potential: Potential, x: Tensor | None = None) -> Field:
    """Return ∇_z U(x, z) by autograd, (n, [chains,] d) → the same, which can be differentiated again.

    Args:
        potential: U(x, z), (n, ...), (n, d) → (n,).
        x: data (n, ...), or None.
    """

    def gradient(z: Tensor) -> Tensor:
        rows_of_x = x if x is None or z.ndim == 2 else x.repeat_interleave(z.shape[1], 0)
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            energy = potential(rows_of_x, z.flatten(0, -2)).sum()
            return torch.autograd.grad(energy, z, create_graph=True)[0]

    return gradient


def derivative_along(gradient: Field, z: Tensor, directions: list[Tensor]) -> Tensor:
    """Return Σ vᵀ(∇²U)v over directions v of the shape of z or of its last axis, (..., d) → (...)."""
    total = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        slope = gradient(z)
        for direction in directions:
            projection = (slope * direction).sum()
            if projection.requires_grad:  # else the gradient is constant
                (along,) = torch.autograd.grad(projection, z, retain_graph=True, allow_unused=True)
                total += 0 if along is None else (along * direction).sum(-1)
    return total


def exact_laplacian(gradient: Field) -> Field:
    """Return ΔU as the trace of the Jacobian of a gradient that autograd can follow, by d backward passes.

    Args:
        gradient: ∇U, in which one row does not depend on other rows (as batch normalization would make it).
    """

    def laplacian(z: Tensor) -> Tensor:
        identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return derivative_along(gradient, z, list(identity))

    return laplacian


def hutchinson_laplacian(gradient: Field, num_probes: int = 1, seed: int = 0) -> Field:
    """Return an unbiased estimate of ΔU by Rademacher probes v, E[vᵀ(∇²U)v] (Hutchinson 1990).

    Args:
        gradient: see :func:`exact_laplacian`.
        num_probes: number of probes, and of backward passes.
        seed: seed of the probes.

    Raises:
        ValueError: num_probes < 1.
    """
    require(num_probes >= 1, "ald_ext.samplers.hutchinson_laplacian: num_probes", num_probes, "an integer > 0")
    generator = torch.Generator().manual_seed(seed)

    def laplacian(z: Tensor) -> Tensor:
        signs = torch.randint(0, 2, (num_probes, *z.shape), generator=generator) * 2 - 1
        return derivative_along(gradient, z, list(signs.to(z))) / num_probes

    return laplacian
