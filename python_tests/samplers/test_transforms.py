"""Priors with a bounded support: outside is a rejection, and transformed potentials have no outside."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from corpus.priors import BOUNDED, SINGULAR, UNBOUNDED
from samplers.test_stationary import assert_averages, chain_averages
from torch import Tensor
from torch.distributions import Distribution, Exponential, Gamma, Normal, Poisson, constraints
from torch.distributions.transforms import AbsTransform, SoftplusTransform

from ald_ext import SGLD
from ald_ext.samplers import (
    HMC,
    MALA,
    AmortizedLangevin,
    DatapointSampler,
    LangevinDynamics,
    LastLayerALD,
    Potential,
    TransformedPotential,
    UnderdampedLangevin,
    collect,
    posterior_potential,
    potential_and_gradient,
    prior_potential,
)

SEED = 3
CHAINS = 400

SAMPLERS: dict[str, Callable[..., DatapointSampler]] = {
    "mala": lambda u, z, **options: MALA(u, None, z, step_size=0.1, adapt_steps=100, seed=SEED, **options),
    "hmc": lambda u, z, **options: HMC(
        u, None, z, step_size=0.2, num_leapfrog_steps=3, jitter=0.3, adapt_steps=40, seed=SEED, **options
    ),
    "underdamped": lambda u, z, **options: UnderdampedLangevin(u, None, z, step_size=0.2, seed=SEED, **options),
    "langevin": lambda u, z, **options: LangevinDynamics(u, None, z, step_size=0.02, seed=SEED, **options),
}

#: Burn-in, and steps from one state that is averaged to the next.
STEPS = {"mala": (120, 3), "hmc": (60, 1), "underdamped": (120, 3), "langevin": (250, 6)}


def inside(prior: Distribution) -> Tensor:
    """Initial states, (1, chains, 2)."""
    torch.manual_seed(SEED)
    event = len(prior.batch_shape + prior.event_shape)
    return prior.sample((1, CHAINS) if event else (1, CHAINS, 2))


def moments(z: Tensor) -> Tensor:
    return torch.cat([z, z**2], -1)


def expected_moments(mean: Tensor, variance: Tensor) -> Tensor:
    return torch.cat([mean.expand(2), (variance + mean**2).expand(2)])


def averages(name: str, sampler: DatapointSampler, constrain: Callable[[Tensor], Tensor] = lambda z: z) -> Tensor:
    burn_in, every = STEPS[name]
    return chain_averages(sampler, burn_in, 25, lambda z: moments(constrain(z)), every)[0]


@pytest.mark.parametrize(
    ("name", "kind"), [*(("hmc", kind) for kind in BOUNDED), *(("mala", kind) for kind in ("gamma", "beta", "uniform"))]
)
def test_outside_of_the_support_is_a_rejection(name: str, kind: str) -> None:
    """So that the target is right, boundary and all."""
    prior = BOUNDED[kind]
    sampler = SAMPLERS[name](prior_potential(prior), inside(prior))
    assert_averages(averages(name, sampler), expected_moments(prior.mean, prior.variance))
    assert prior.support.check(sampler.z).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("hmc", kind) for kind in BOUNDED | SINGULAR | UNBOUNDED),
        *((name, kind) for name in ("mala", "underdamped", "langevin") for kind in ("gamma", "uniform", "dirichlet")),
    ],
)
def test_a_transform_suits_every_sampler(name: str, kind: str) -> None:
    prior = (BOUNDED | SINGULAR | UNBOUNDED)[kind]
    potential = TransformedPotential(prior_potential(prior), prior.support)
    sampler = SAMPLERS[name](potential, potential.unconstrain(inside(prior)))
    assert_averages(averages(name, sampler, potential.constrain), expected_moments(prior.mean, prior.variance))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_posteriors_at_any_temperature(temperature: float) -> None:
    """Of an exponential likelihood's rate: Γ(a + k, b + Σx)^(1/T), up to a constant, for each datum."""
    a, b, x = 3.0, 2.0, torch.tensor([[0.5, 0.2], [3.0, 4.0]], dtype=torch.float64)
    prior = Gamma(a, b)
    inner = posterior_potential(prior, lambda x, z: Exponential(z).log_prob(x).sum(1))  # raises for z < 0
    z = torch.ones(2, CHAINS, 1, dtype=torch.float64)
    exact = Gamma((a + 1) / temperature + 1, (b + x.sum(1)) / temperature)
    transformed = TransformedPotential(inner, prior.support, temperature=temperature)
    for potential, constrain, start in (
        (inner, lambda z: z, z),
        (transformed, transformed.constrain, transformed.unconstrain(z)),
    ):
        hmc = HMC(
            potential, x, start, step_size=0.2, num_leapfrog_steps=4, adapt_steps=50, temperature=temperature, seed=SEED
        )
        means = chain_averages(hmc, 80, 40, lambda z, constrain=constrain: moments(constrain(z)))
        for i in range(2):
            mean, variance = exact.mean[i], exact.variance[i]
            assert_averages(means[i], torch.stack([mean, variance + mean**2]))


def test_transforms_of_ones_own_and_of_each_dimension() -> None:
    """A density changes by the derivative alone, whichever the bijection."""
    potential: Potential = prior_potential(energy=lambda z: z.square().sum(1))
    y = torch.randn(5, 2, dtype=torch.float64)
    softplus = TransformedPotential(potential, SoftplusTransform(), temperature=0.5)
    z = torch.nn.functional.softplus(y)
    torch.testing.assert_close(softplus(None, y), z.square().sum(1) - 0.5 * torch.sigmoid(y).log().sum(1))
    torch.testing.assert_close(softplus.unconstrain(softplus.constrain(y)), y)
    mixed = TransformedPotential(potential, constraints.cat([constraints.positive, constraints.real], -1))
    z = torch.stack([y[:, 0].exp(), y[:, 1]], 1)
    torch.testing.assert_close(mixed.constrain(y), z)
    torch.testing.assert_close(mixed(None, y), z.square().sum(1) - y[:, 0])


def test_values_that_are_rounded_to_the_boundary() -> None:
    """U' = +∞ there, and U does not see them; from the boundary the gradient still leads back."""
    potential = TransformedPotential(
        prior_potential(energy=lambda z: Exponential(z).log_prob(torch.ones(())).sum(1)), constraints.positive
    )
    value, gradient = potential_and_gradient(potential, None, torch.tensor([[0.0], [-500.0], [500.0]]))
    assert value.tolist() == [-1.0, math.inf, math.inf]
    assert gradient[1].tolist() == [-1.0]


@pytest.mark.parametrize("kind", BOUNDED)
def test_values_and_gradients_outside(kind: str) -> None:
    """U = +∞ and no gradient there, and what is inside is as if the rest were not there."""
    prior = BOUNDED[kind]
    z = inside(prior)[0, :4].clone()
    potential = prior_potential(prior)
    expected = potential_and_gradient(potential, None, z, rejects=True)
    z[1] = -50.0
    z[2, 0] = math.nan
    value, gradient = potential_and_gradient(potential, None, z, rejects=True)
    assert value.isfinite().tolist() == [True, False, False, True]
    torch.testing.assert_close(value[::3], expected[0][::3])
    torch.testing.assert_close(gradient[::3], expected[1][::3])
    assert value[1] == math.inf
    assert (gradient[1] == 0).all()
    everywhere = potential_and_gradient(potential, None, z[1:2], rejects=True)
    assert everywhere[0].tolist() == [math.inf]
    assert (everywhere[1] == 0).all()


@pytest.mark.parametrize("kind", UNBOUNDED)
@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_states_that_overflow_are_rejected_by_a_prior_too(name: str, kind: str) -> None:
    """torch.distributions raises an error for NaN."""
    sampler = SAMPLERS[name](prior_potential(UNBOUNDED[kind]), inside(UNBOUNDED[kind]))
    sampler._adaptation = sampler._adaptation._replace(step_size=torch.tensor([1e200]).double())
    before = sampler.z
    sampler.step()
    assert torch.equal(sampler.z, before)
    assert (sampler.divergences == 1).all()


@pytest.mark.parametrize("kind", BOUNDED)
@pytest.mark.parametrize("name", ["langevin", "underdamped"])
def test_samplers_that_cannot_reject_tell_the_way_out(name: str, kind: str) -> None:
    """As soon as they are outside, also at first."""
    prior = BOUNDED[kind]
    message = (
        r"prior_potential: z: got \d+ of 400 states outside of the prior's support, .*, and a TransformedPotential"
    )
    sampler = SAMPLERS[name](prior_potential(prior), inside(prior))
    sampler.step_size = 1.0
    with pytest.raises(ValueError, match=message):
        collect(sampler, 5)
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](prior_potential(prior), inside(prior) - 100).step()


@pytest.mark.parametrize("kind", SINGULAR)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_prior_without_volume_tells_the_way_out(name: str, kind: str) -> None:
    """Where MALA and HMC would move within the rounding of its support."""
    prior = SINGULAR[kind]
    with pytest.raises(ValueError, match=r"prior: got a prior on Simplex.*, which has no volume, expected its Trans"):
        SAMPLERS[name](prior_potential(prior), inside(prior)).step()


def test_a_discrete_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prior: got a prior on .*, of discrete variables, expected one that has a"):
        prior_potential(Poisson(torch.ones(2)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_proposals_outside_of_the_support_are_no_divergences(name: str) -> None:
    sampler = SAMPLERS[name](prior_potential(BOUNDED["uniform"]), inside(BOUNDED["uniform"]))
    collect(sampler, 50, burn_in=100)
    assert sampler.acceptance_rate.mean() < 0.95
    assert not sampler.divergences.any()


@pytest.mark.parametrize("kind", ["gamma", "uniform"])
def test_networks_and_encoders_tell_the_way_out(kind: str) -> None:
    """Through which potentials get values outside without a sampler that rejects; a last layer's kernel may."""
    prior, x = BOUNDED[kind], torch.full((3, 2), -9.0, dtype=torch.float64)
    potential = prior_potential(prior)
    network = torch.nn.Linear(2, 2, dtype=torch.float64)
    torch.nn.init.eye_(network.weight)
    message = "prior_potential: z: got 3 of 3 states outside of the prior's support"
    amortized = AmortizedLangevin(network, potential, x, SGLD(network.parameters(), lr=0.1, num_data=3))
    for call in (amortized.step, lambda: potential(None, x), lambda: potential_and_gradient(potential, None, x)):
        with pytest.raises(ValueError, match=message):
            call()
    x = 1e3 * prior.mean * torch.tensor([[1.0, 1.0], [1.0, 1.1]], dtype=torch.float64)
    options: dict[str, Any] = {"weight": 1e-3 * torch.eye(2).double()[None], "step_size": 1.0, "seed": SEED}
    assert prior.support.check(LastLayerALD(torch.nn.Identity(), potential, x, 2, **options).step()).all()
    with pytest.raises(ValueError, match=r"got \d of 2 states outside"):
        collect(LastLayerALD(torch.nn.Identity(), potential, x, 2, kernel=LangevinDynamics, **options), 2)


def test_a_distribution_that_tells_no_support() -> None:
    class Flat(Distribution):
        def __init__(self) -> None:
            super().__init__(validate_args=False)

        def log_prob(self, value: Tensor) -> Tensor:
            return 0 * value

    assert prior_potential(Flat())(None, torch.ones(3, 2)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (constraints.nonnegative_integer, "transform: got .*Integer.*, expected a constraint that biject_to knows"),
        (AbsTransform(), r"transform: got AbsTransform\(\), expected a bijective one"),
    ],
)
def test_errors_of_the_transform(transform: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"ald_ext.samplers.TransformedPotential: {message}"):
        TransformedPotential(prior_potential(Normal(0.0, 1.0)), transform)


def test_errors_of_states_and_temperatures() -> None:
    potential = TransformedPotential(prior_potential(Gamma(2.0, 1.0)), constraints.positive)
    with pytest.raises(
        ValueError,
        match=re.escape("unconstrain: z: got 2 states outside or on the boundary, expected all inside of Gre"),
    ):
        potential.unconstrain(torch.tensor([[1.0, -1.0], [0.0, 2.0], [1.0, 1.0]]))
    share = TransformedPotential(potential, constraints.simplex)
    with pytest.raises(ValueError, match="got 1 states outside or on the boundary, expected all inside of Simplex"):
        share.unconstrain(torch.tensor([[0.4, 0.4], [0.4, 0.6]]))
    message = "MALA: temperature: got 2.0, expected 1.0, that of the TransformedPotential"
    with pytest.raises(ValueError, match=message):
        MALA(potential, None, torch.zeros(1, 2, 2), step_size=0.1, temperature=2.0)
