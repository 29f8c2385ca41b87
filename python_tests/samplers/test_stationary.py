"""What the datapoint-wise samplers sample in the long run, against exact answers.

Chains run in parallel and are independent, so the spread over chains of an average along a chain gives the Monte Carlo
standard error (MCSE) of the average over all; the bounds are 5 of them, for each of the 1,275 entries of the largest
covariance, too. With fixed seeds a test that passes once passes always; for a fresh seed, the probability that a right
sampler fails here is below 2% (about 8,000 bounds, two-sided 5 sigma, with room for tails heavier than a normal's).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ald_ext.samplers import (
    HMC,
    MALA,
    DatapointSampler,
    GaussianPotential,
    LangevinDynamics,
    LinearGaussianPotential,
    UnderdampedLangevin,
    prior_potential,
)

TEMPERATURES = [0.5, 1.0, 2.0]

Statistic = Callable[[Tensor], Tensor]


def correlated(dimension: int) -> Tensor:
    """Covariance with correlations 0.5^|i - j|, of coordinates with standard deviations from 0.7 to 1.4."""
    index = torch.arange(dimension, dtype=torch.float64)
    scale = torch.logspace(-0.5, 0.5, dimension, base=2, dtype=torch.float64)
    return 0.5 ** (index[:, None] - index).abs() * torch.outer(scale, scale)


def chain_averages(sampler: DatapointSampler, burn_in: int, count: int, statistic: Statistic, every: int = 1) -> Tensor:
    """(n, chains, ...): the average along each chain of a statistic of ``count`` of its states, in float64."""
    for _ in range(burn_in):
        sampler.step()
    total = statistic(sampler.z.double()).zero_()
    for _ in range(count):
        for _ in range(every):
            sampler.step()
        total += statistic(sampler.z.double())
    return total / count


def assert_averages(averages: Tensor, expected: Tensor) -> None:
    """Averages (chains, ...) against expectations (...), each by its MCSE."""
    standard_error = averages.std(0) / math.sqrt(len(averages))
    deviation = (averages.mean(0) - expected).abs() / standard_error
    assert (deviation < 5).all(), f"{float(deviation.max()):.1f} standard errors: {averages.mean(0)}, {expected}"


def moments(mean: Tensor) -> Statistic:
    """z and (z - μ)(z - μ)ᵀ, flattened."""

    def statistic(z: Tensor) -> Tensor:
        centered = z - mean
        products = centered[..., :, None] * centered[..., None, :]
        return torch.cat([z, products.flatten(-2)], -1)

    return statistic


def expected_moments(mean: Tensor, covariance: Tensor) -> Tensor:
    return torch.cat([mean, covariance.flatten()])


def make_mala(target: GaussianPotential, z: Tensor, temperature: float) -> DatapointSampler:
    mass = target.covariance if z.shape[-1] > 2 else None
    return MALA(target, None, z, step_size=0.3, temperature=temperature, inverse_mass_matrix=mass, seed=1)


def make_hmc(target: GaussianPotential, z: Tensor, temperature: float) -> DatapointSampler:
    return HMC(target, None, z, step_size=0.3, num_leapfrog_steps=6, jitter=0.3, temperature=temperature, seed=2)


def make_underdamped(target: GaussianPotential, z: Tensor, temperature: float) -> DatapointSampler:
    return UnderdampedLangevin(target, None, z, step_size=0.5, friction=1.5, temperature=temperature, seed=3)


#: With the steps of burn-in, after which nothing that matters is left of the start at 0, and from one average to the
#: next. Each average is over several times that a chain needs to forget: the MCSE of fewer would be a bad one, since
#: products are skewed.
GAUSSIAN_RUNS = {"mala": (make_mala, 100, 4), "hmc": (make_hmc, 30, 1), "underdamped": (make_underdamped, 100, 4)}


@pytest.mark.parametrize("dimension", [2, 50])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", GAUSSIAN_RUNS)
def test_gaussians(name: str, dimension: int, temperature: float) -> None:
    """Mean and every entry of the covariance; coarse steps, so nothing is right by being small."""
    make, burn_in, every = GAUSSIAN_RUNS[name]
    mean, covariance = torch.linspace(-1, 1, dimension, dtype=torch.float64), correlated(dimension)
    sampler = make(GaussianPotential(mean, covariance), torch.zeros(1, 512, dimension), temperature)
    averages = chain_averages(sampler, burn_in, 40, moments(mean), every)[0]
    assert_averages(averages, expected_moments(mean, temperature * covariance))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_langevin_dynamics_has_its_known_bias(temperature: float) -> None:
    """Variance T/λ / (1 - ηλ/2) for a precision λ, for steps where that is up to twice the target's."""
    eta, precision = 0.25, torch.tensor([4.0, 2.0, 1.0, 0.8], dtype=torch.float64)
    target = GaussianPotential(torch.ones(4, dtype=torch.float64), precision=precision.diag())
    sampler = LangevinDynamics(target, None, torch.zeros(1, 1000, 4), step_size=eta, temperature=temperature, seed=8)
    averages = chain_averages(sampler, 80, 40, moments(target.mean))[0]
    variance = temperature / precision / (1 - eta * precision / 2)
    assert_averages(averages, expected_moments(target.mean, variance.diag()))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_each_datum_has_its_posterior(temperature: float) -> None:
    """The setting of the paper's F.1: the exact posterior of each of several data, at once."""
    double = {"dtype": torch.float64}
    target = LinearGaussianPotential(
        torch.zeros(2, **double), torch.eye(2, **double), torch.tensor([[0.7, 0.6], [0.6, 0.8]], **double)
    )
    x = torch.tensor([[0.0, 0.0], [2.0, -1.0], [-3.0, 1.0]], **double)
    mean, covariance = target.posterior(x)
    for sampler in (
        MALA(target, x, torch.zeros(3, 300, 2), step_size=0.1, temperature=temperature, adapt_steps=60, seed=9),
        HMC(target, x, torch.zeros(3, 300, 2), step_size=0.3, num_leapfrog_steps=4, temperature=temperature, seed=10),
        UnderdampedLangevin(target, x, torch.zeros(3, 300, 2), step_size=0.3, temperature=temperature, seed=11),
    ):
        averages = chain_averages(sampler, 120, 40, moments(mean[:, None, :]))
        for i in range(3):
            assert_averages(averages[i], expected_moments(mean[i], temperature * covariance))


def double_well(z: Tensor) -> Tensor:
    """Two wells of different depth at about -1 and 1, a barrier of about 1 between."""
    return ((z**2 - 1) ** 2 + 0.3 * z).sum(1)


def skewed(z: Tensor) -> Tensor:
    """-log of the density of log g, g ~ Gamma(2)."""
    return (z.exp() - 2 * z).sum(1)


def statistics(z: Tensor) -> Tensor:
    """Moments, tails and the share of a well, of z with one dimension."""
    return torch.cat([z, z**2, z**3, (z > 0).double(), (z > 1).double()], -1)


def expectations(energy: Callable[[Tensor], Tensor], temperature: float) -> Tensor:
    """Of the statistics, by quadrature on a grid (the indicators' edges lie between two points)."""
    grid = torch.linspace(-12, 12, 400_000, dtype=torch.float64)[:, None]
    weight = torch.softmax(-energy(grid) / temperature, 0)
    return (weight[:, None] * statistics(grid)).sum(0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("energy", [double_well, skewed])
@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_targets_that_are_not_gaussian(name: str, energy: Callable[[Tensor], Tensor], temperature: float) -> None:
    """With steps so coarse that a sampler without the right test would be far off."""
    z, target = torch.zeros(1, 1000, 1), prior_potential(energy=energy)
    if name == "mala":
        sampler: DatapointSampler = MALA(target, None, z, step_size=0.35, temperature=temperature, seed=12)
    else:
        sampler = HMC(
            target, None, z, step_size=0.5, num_leapfrog_steps=3, jitter=0.2, temperature=temperature, seed=13
        )
    averages = chain_averages(sampler, 200, 60, statistics)[0]
    assert_averages(averages, expectations(energy, temperature))
