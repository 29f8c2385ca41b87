"""Datapoint-wise samplers step by step: their formulas, noise keys, checkpoints, acceptance, adaptation, errors.

What they sample in the long run is in test_stationary.py.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from ald_ext import ops
from ald_ext.samplers import (
    HMC,
    MALA,
    DatapointSampler,
    GaussianPotential,
    LangevinDynamics,
    LastLayerALD,
    MetropolisSampler,
    UnderdampedLangevin,
    collect,
)
from ald_ext.samplers.metropolis import DualAveraging

SEED = 7


def potential(x: Tensor, z: Tensor) -> Tensor:
    """Not Gaussian, elementwise but for the sum, so that a row's bits do not depend on other rows."""
    return (0.25 * (z - x) ** 4 + 0.5 * z**2 + torch.sin(z)).sum(1)


def gradient_of(x: Tensor, z: Tensor) -> Tensor:
    return (z - x) ** 3 + z + torch.cos(z)


#: Each sampler with options that make it use all of its draws.
SAMPLERS: dict[str, tuple[type[DatapointSampler], dict[str, Any]]] = {
    "ula": (LangevinDynamics, {"step_size": 0.05, "temperature": 0.7}),
    "mala": (MALA, {"step_size": 0.2, "temperature": 0.7}),
    "adapting mala": (MALA, {"step_size": 0.01, "adapt_steps": 6, "inverse_mass_matrix": torch.tensor([0.5, 1, 2])}),
    "hmc": (HMC, {"step_size": 0.3, "num_leapfrog_steps": 3, "jitter": 0.2, "temperature": 0.7}),
    "underdamped": (UnderdampedLangevin, {"step_size": 0.2, "friction": 2.0, "temperature": 0.7}),
}

METROPOLIS: list[tuple[type[MetropolisSampler], dict[str, Any]]] = [(MALA, {}), (HMC, {"num_leapfrog_steps": 3})]

Make = Callable[..., DatapointSampler]


@pytest.fixture(params=SAMPLERS)
def make(request: pytest.FixtureRequest) -> Make:
    sampler, options = SAMPLERS[request.param]
    return lambda x, z, u=potential, **others: sampler(u, x, z, **{"seed": SEED, **options, **others})


def run(sampler: DatapointSampler, steps: int) -> Tensor:
    """(steps, *z.shape)."""
    return torch.stack([sampler.step() for _ in range(steps)])


def data_and_states(n: int, *chains: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, dtype=torch.float64)
    z = torch.randn(n, *chains, 3, dtype=torch.float64)
    return x.to(device), z.to(device)


class Draws:
    """Normals and the random tests as the documentation words them."""

    def __init__(self, index: Tensor, z: Tensor, draws_per_step: int) -> None:
        self.index, self.shape, self.draws_per_step = index, z.shape, draws_per_step

    def normal(self, step: int, draw: int, of_chains: bool = False) -> Tensor:
        shape = self.shape[:-1] if of_chains else self.shape
        count = math.prod(shape[1:])
        noise_step = step * self.draws_per_step + draw
        return ops.latent_normal(self.index, count, seed=SEED, step=noise_step, dtype=torch.float64).view(shape)

    def uniform(self, step: int, draw: int) -> Tensor:
        return 0.5 * torch.erfc(-self.normal(step, draw, of_chains=True) / math.sqrt(2))


def per_chain(x: Tensor, z: Tensor) -> Tensor:
    return x if z.dim() == 2 else x[:, None, :]


@pytest.mark.parametrize("chains", [(), (4,)])
def test_langevin_dynamics_recursion(device: torch.device, chains: tuple[int, ...]) -> None:
    x, z = data_and_states(5, *chains, device=device)
    index = torch.tensor([3, 0, 9, 2**40, 1], device=device)
    sampler = LangevinDynamics(potential, x, z, step_size=0.05, temperature=0.7, seed=SEED, index=index)
    draws, x = Draws(index, z, 1), per_chain(x, z)
    for step in range(1, 6):
        z = z - 0.05 * gradient_of(x, z) + math.sqrt(2 * 0.05 * 0.7) * draws.normal(step, 0)
        torch.testing.assert_close(sampler.step(), z, rtol=1e-12, atol=1e-12)
    assert sampler.step_count == 5


@pytest.mark.parametrize("chains", [(), (4,)])
def test_underdamped_recursion(device: torch.device, chains: tuple[int, ...]) -> None:
    x, z = data_and_states(5, *chains, device=device)
    index = torch.arange(5, device=device)
    sampler = UnderdampedLangevin(potential, x, z, step_size=0.2, friction=2.0, temperature=0.7, seed=SEED)
    draws, x = Draws(index, z, 1), per_chain(x, z)
    decay = math.exp(-2.0 * 0.2)
    p = math.sqrt(0.7) * draws.normal(0, 0)
    torch.testing.assert_close(sampler.momenta, p, rtol=1e-12, atol=1e-12)
    for step in range(1, 6):
        p = p - 0.2 * gradient_of(x, z)
        z = z + 0.1 * p
        p = decay * p + math.sqrt((1 - decay**2) * 0.7) * draws.normal(step, 0)
        z = z + 0.1 * p
        torch.testing.assert_close(sampler.step(), z, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sampler.momenta, p, rtol=1e-12, atol=1e-12)


def metric(kind: str, device: torch.device) -> tuple[Tensor | None, Tensor]:
    """As given to the sampler, and as a matrix."""
    identity = torch.eye(3, dtype=torch.float64, device=device)
    if kind == "identity":
        return None, identity
    if kind == "diagonal":
        diagonal = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, device=device)
        return diagonal, diagonal.diag()
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 1.2]], dtype=torch.float64, device=device)
    return factor @ factor.T, factor @ factor.T


@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense"])
@pytest.mark.parametrize("chains", [(), (4,)])
def test_mala_recursion(device: torch.device, kind: str, chains: tuple[int, ...]) -> None:
    """Against the textbook form of the test: target ratio times the ratio of Gaussian proposal densities."""
    h, temperature = 0.3, 0.7
    inverse_mass, matrix = metric(kind, device)
    x, z = data_and_states(5, *chains, device=device)
    sampler = MALA(potential, x, z, step_size=h, temperature=temperature, inverse_mass_matrix=inverse_mass, seed=SEED)
    draws, x = Draws(torch.arange(5, device=device), z, 2), per_chain(x, z)
    factor = torch.linalg.cholesky(matrix)

    def log_density(z: Tensor) -> Tensor:
        return -(0.25 * (z - x) ** 4 + 0.5 * z**2 + torch.sin(z)).sum(-1) / temperature

    def drift(z: Tensor) -> Tensor:
        return z - h * gradient_of(x, z) @ matrix

    def log_proposal(target: Tensor, origin: Tensor) -> Tensor:
        distribution = torch.distributions.MultivariateNormal(drift(origin), 2 * h * temperature * matrix)
        return distribution.log_prob(target)

    accepted_count = torch.zeros(z.shape[:-1], device=device)
    for step in range(1, 9):
        proposal = drift(z) + math.sqrt(2 * h * temperature) * draws.normal(step, 0) @ factor.T
        log_ratio = log_density(proposal) + log_proposal(z, proposal) - log_density(z) - log_proposal(proposal, z)
        accepted = draws.uniform(step, 1).log() < log_ratio
        accepted_count += accepted
        z = torch.where(accepted[..., None], proposal, z)
        torch.testing.assert_close(sampler.step(), z, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(sampler.acceptance_rate, accepted_count / 8)
    assert 0 < float(sampler.acceptance_rate.mean()) < 1


@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense"])
@pytest.mark.parametrize("chains", [(), (4,)])
def test_hmc_recursion(device: torch.device, kind: str, chains: tuple[int, ...]) -> None:
    """Against the textbook form: momenta p ~ N(0, T M⁻¹), kinetic energy pᵀMp/2."""
    temperature, jitter = 0.7, 0.3
    inverse_mass, matrix = metric(kind, device)
    x, z = data_and_states(5, *chains, device=device)
    step_sizes = torch.tensor([0.6, 0.5, 0.4, 0.6, 0.7], dtype=torch.float64, device=device)
    sampler = HMC(
        potential,
        x,
        z,
        step_size=step_sizes,
        num_leapfrog_steps=3,
        jitter=jitter,
        temperature=temperature,
        inverse_mass_matrix=inverse_mass,
        seed=SEED,
    )
    draws, x = Draws(torch.arange(5, device=device), z, 3), per_chain(x, z)
    inverse_factor = torch.linalg.inv(torch.linalg.cholesky(matrix))

    def energy(z: Tensor, p: Tensor) -> Tensor:
        return (0.25 * (z - x) ** 4 + 0.5 * z**2 + torch.sin(z)).sum(-1) + ((p @ matrix) * p).sum(-1) / 2

    accepted_count = torch.zeros(z.shape[:-1], device=device)
    for step in range(1, 9):
        p = start = math.sqrt(temperature) * draws.normal(step, 0) @ inverse_factor
        epsilon = step_sizes.view(-1, *[1] * len(chains)) * (1 - jitter + 2 * jitter * draws.uniform(step, 2))
        epsilon = epsilon[..., None]
        proposal = z
        for _ in range(3):
            p = p - epsilon / 2 * gradient_of(x, proposal)
            proposal = proposal + epsilon * p @ matrix
            p = p - epsilon / 2 * gradient_of(x, proposal)
        accepted = draws.uniform(step, 1) < torch.exp((energy(z, start) - energy(proposal, p)) / temperature)
        accepted_count += accepted
        z = torch.where(accepted[..., None], proposal, z)
        torch.testing.assert_close(sampler.step(), z, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(sampler.acceptance_rate, accepted_count / 8)
    assert 0 < float(sampler.acceptance_rate.mean()) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chains", [(), (4,)])
def test_a_datum_moves_alike_in_any_minibatch(
    make: Make, device: torch.device, dtype: torch.dtype, chains: tuple[int, ...]
) -> None:
    x, z = (tensor.to(dtype) for tensor in data_and_states(10, *chains, device=device))
    full = run(make(x, z), 10)
    for rows in ([4], [7, 2, 9], list(range(5)), list(range(5, 10))):
        index = torch.tensor(rows, device=device)
        part = run(make(x[index], z[index], index=index), 10)
        assert torch.equal(part, full[:, index])
    assert full.dtype == dtype
    assert not torch.equal(run(make(x, z, seed=SEED + 1), 10), full)


def test_data_and_chains_have_noise_of_their_own(make: Make) -> None:
    x, z = torch.zeros(3, 3), torch.zeros(3, 4, 3)
    last = run(make(x, z), 20)[-1].flatten(0, 1)
    assert len(last.unique(dim=0)) == 12


def test_resume_is_bitwise(make: Make) -> None:
    """Through a file, in the middle of adaptation; another sampler's seed and states are overwritten."""
    x, z = data_and_states(5, 2)
    sampler = make(x, z)
    run(sampler, 3)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    resumed = make(x, torch.zeros_like(z), seed=None)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.step_count == 3
    assert torch.equal(resumed.z, sampler.z)
    assert torch.equal(run(resumed, 6), run(sampler, 6))
    if isinstance(sampler, MetropolisSampler):
        assert torch.equal(resumed.acceptance_rate, sampler.acceptance_rate)
        assert torch.equal(resumed.step_size, sampler.step_size)


def test_a_state_is_a_copy(make: Make) -> None:
    """In both directions: neither steps nor writing to it, before or after it is loaded, reach the other."""
    x, z = data_and_states(3)
    sampler = make(x, z)
    state = sampler.state_dict()
    clear(sampler.state_dict())
    first = run(make(x, z), 8)
    assert torch.equal(run(sampler, 8), first)
    for _ in range(2):
        sampler.load_state_dict(state)
        assert torch.equal(run(sampler, 8), first)
    sampler.load_state_dict(state)
    clear(state)
    assert torch.equal(run(sampler, 8), first)


def clear(state: dict[str, Any]) -> None:
    for value in state.values():
        if isinstance(value, Tensor):
            value.zero_()


def test_states_that_do_not_fit(make: Make) -> None:
    x, z = data_and_states(4)
    sampler = make(x, z)
    before = sampler.state_dict()
    name = f"ald_ext.samplers.{type(sampler).__name__}: state_dict: "
    for change, message in (
        ({"z": z[:, :2]}, "got 'z' of shape (4, 2), torch.float64, expected shape (4, 3), torch.float64"),
        ({"z": z.float()}, "got 'z' of shape (4, 3), torch.float32"),
        ({"index": torch.arange(1, 5)}, "got the state of other data"),
        ({"first_chain": 2}, "got first_chain=2, the state of other chains, expected 0"),
        ({"z": [1.0]}, "got 'z' that is [1.0], expected a tensor"),
        *(({found: "a"}, f"got '{found}' that is 'a', expected what a warm-up sets") for found in sampler.adapted),
    ):
        with pytest.raises(ValueError, match=re.escape(name + message)):
            sampler.load_state_dict({**before, **change})
    with pytest.raises(ValueError, match=re.escape(f"{name}got [1], expected a dict")):
        sampler.load_state_dict([1])  # type: ignore[arg-type]
    torch.testing.assert_close(sampler.state_dict(), before, rtol=0, atol=0)
    for missing in before.keys() - {"first_chain", "divergences", *sampler.adapted}:
        with pytest.raises(ValueError, match=re.escape(f"{name}got no entry '{missing}'")):
            sampler.load_state_dict({key: value for key, value in before.items() if key != missing})
    # Of earlier versions, which named some entries otherwise and lacked some.
    earlier = {{"index": "data", "momenta": "momentum"}.get(key, key): value for key, value in before.items()}
    for lacking in ("first_chain", "divergences", *sampler.adapted):
        earlier.pop(lacking, None)
    sampler.load_state_dict(earlier)
    after = sampler.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_states_are_not_overwritten(make: Make) -> None:
    """Neither the initial ones nor those returned before, even if they were made to require grad."""
    x, z = data_and_states(3)
    initial = z.clone()
    sampler = make(x, z)
    z.zero_()
    assert torch.equal(sampler.z, initial)
    z.copy_(initial)
    returned = [sampler.z.requires_grad_(), *(sampler.step() for _ in range(5))]
    copies = [state.detach().clone() for state in returned]
    run(sampler, 5)
    assert torch.equal(z, initial)
    assert all(torch.equal(state, copy) for state, copy in zip(returned, copies, strict=True))
    assert not sampler.z.requires_grad


def test_the_seed_comes_from_torch(make: Make) -> None:
    x, z = data_and_states(3)
    first = run(make(x, z, seed=None), 3)
    assert not torch.equal(run(make(x, z, seed=None), 3), first)
    torch.manual_seed(0)
    data_and_states(3)
    assert torch.equal(run(make(x, z, seed=None), 3), first)


def test_gradients_a_step() -> None:
    """One for the Langevin samplers and MALA, L for HMC; besides one for the first state of those that test."""
    x, z = data_and_states(3)
    for sampler, options in SAMPLERS.values():
        calls = 0

        def counting(x: Tensor, z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return potential(x, z)

        run(sampler(counting, x, z, seed=SEED, **options), 5)
        assert calls == 5 * options.get("num_leapfrog_steps", 1) + issubclass(sampler, MetropolisSampler)


def test_a_potential_without_data_gets_none(make: Make) -> None:
    def energy(x: None, z: Tensor) -> Tensor:
        assert x is None
        return potential(torch.zeros(3, dtype=z.dtype), z)

    x, z = data_and_states(4, 2)
    assert torch.equal(run(make(None, z, energy), 4), run(make(torch.zeros_like(x), z), 4))


def test_chains_see_the_datum_of_their_row() -> None:
    """Images as data: (n, 2, 4, 5) with 3 chains each; without noise all end at the mode of their datum."""
    x = torch.randn(6, 2, 4, 5, dtype=torch.float64)

    def image_potential(x: Tensor, z: Tensor) -> Tensor:
        return (z - x.flatten(1)[:, :3]).square().sum(1) / 2

    sampler = LangevinDynamics(image_potential, x, torch.zeros(6, 3, 3).double(), step_size=0.5, temperature=0, seed=1)
    expected = x.flatten(1)[:, None, :3].expand(6, 3, 3)
    torch.testing.assert_close(run(sampler, 60)[-1], expected)


def test_no_data_at_all(make: Make) -> None:
    x, z = data_and_states(0, 2)
    assert run(make(x, z), 8).shape == (8, 0, 2, 3)


def test_a_step_that_raises_changes_nothing(make: Make) -> None:
    x, z = data_and_states(3)
    sampler = make(x, z)
    run(sampler, 2)
    sampler.potential = lambda x, z: z.sum()
    with pytest.raises(RuntimeError, match="potential: got a result of shape"):
        sampler.step()
    sampler.potential = potential
    assert torch.equal(run(sampler, 6), run(make(x, z), 8)[2:])


@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
def test_small_steps_are_accepted(sampler: type[MetropolisSampler], options: dict[str, Any]) -> None:
    """In equilibrium the rate of rejection is of order h^(3/2) for MALA, and ε³ for a few leapfrog steps."""
    x, z = data_and_states(1, 1000)
    z = run(HMC(potential, x, z, step_size=0.2, num_leapfrog_steps=5, seed=SEED), 50)[-1]
    power = 1.5 if sampler is MALA else 3
    coarse, fine = (0.1, 0.01) if sampler is MALA else (0.2, 0.05)
    rates = []
    for step_size in (coarse, fine):
        chains = sampler(potential, x, z, step_size=step_size, seed=SEED, **options)
        run(chains, 50)
        rates.append(1 - float(chains.acceptance_rate.mean()))
    assert 0 < rates[1] < 2 * rates[0] * (fine / coarse) ** power
    assert rates[1] < 0.01


@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_proposals_that_are_not_finite_are_rejected(
    sampler: type[MetropolisSampler], options: dict[str, Any], value: float
) -> None:
    """The target is a half line: chains stay there, adapt on, and sample the half normal."""

    def half_normal(x: None, z: Tensor) -> Tensor:
        return torch.where(z > 0, z.square() / 2, value).sum(1)

    chains = sampler(half_normal, None, torch.ones(1, 500, 1), step_size=0.5, adapt_steps=50, seed=SEED, **options)
    states = run(chains, 100)
    assert (states > 0).all()
    assert states.isfinite().all()
    assert chains.step_size.isfinite().all()
    mean = states[50:, 0, :, 0].double().mean(0)
    standard_error = float(mean.std()) / math.sqrt(500)
    assert abs(float(mean.mean()) - math.sqrt(2 / math.pi)) < 5 * standard_error
    rate = float(chains.acceptance_rate.mean())
    assert 0.1 < rate < 0.95


@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
def test_gradients_that_are_not_finite_are_rejected(sampler: type[MetropolisSampler], options: dict[str, Any]) -> None:
    """Where the potential is fine but its gradient is not."""

    class Kinked(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, z: Tensor) -> Tensor:
            context.save_for_backward(z)
            return z.square() / 2

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            (z,) = context.saved_tensors
            return torch.where(z > 0, gradient * z, math.nan)

    chains = sampler(
        lambda _x, z: Kinked.apply(z).sum(1), None, torch.ones(1, 100, 1), step_size=0.3, seed=SEED, **options
    )
    states = run(chains, 20)
    assert (states > 0).all()
    assert float(chains.acceptance_rate.mean()) > 0.5


@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
def test_divergences_are_counted(sampler: type[MetropolisSampler], options: dict[str, Any]) -> None:
    """Of the datum whose scale is too small for the step, and not of the other, through a checkpoint, too."""
    scale = torch.tensor([1e-3, 1.0], dtype=torch.float64)

    def scaled(x: Tensor, z: Tensor) -> Tensor:
        return (z / x[:, None]).square().sum(1) / 2

    def make() -> MetropolisSampler:
        return sampler(scaled, scale, torch.ones(2, 3, 2).double() * 1e-3, step_size=0.5, seed=SEED, **options)

    chains = make()
    run(chains, 4)
    resumed = make()
    resumed.load_state_dict(chains.state_dict())
    run(resumed, 4)
    assert resumed.divergences.dtype == torch.int64
    assert resumed.divergences.tolist() == [[8, 8, 8], [0, 0, 0]]
    assert torch.equal(resumed.z[0], torch.full((3, 2), 1e-3, dtype=torch.float64))


@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
@pytest.mark.parametrize(("drop", "divergences"), [(999.0, 0), (1001.0, 1), (-1001.0, 0), (math.inf, 0), (math.nan, 1)])
def test_what_counts_as_a_divergence(
    sampler: type[MetropolisSampler], options: dict[str, Any], drop: float, divergences: int
) -> None:
    """An energy error above 1000 T, as Stan has it: not one below -1000, nor where U = +∞ outside of a support."""

    def step_down(x: None, z: Tensor) -> Tensor:
        return torch.where((z == 0).all(1), 0.0, 2 * drop) + 0 * z.sum(1)

    chains = sampler(step_down, None, torch.zeros(1, 2, 1), step_size=0.1, temperature=2.0, seed=SEED, **options)
    chains.step()
    assert chains.divergences.tolist() == [[divergences] * 2]


@pytest.mark.parametrize("sampler", [LangevinDynamics, UnderdampedLangevin])
def test_chains_that_overflow_count_as_diverged(sampler: type[DatapointSampler]) -> None:
    x, z = torch.tensor([100.0, 0.1]), torch.ones(2, 3, 2)
    chains = sampler(lambda x, z: x * z.square().sum(1), x, z, step_size=0.9, seed=SEED)
    assert chains.divergences.tolist() == [[0, 0, 0], [0, 0, 0]]
    run(chains, 200)
    assert chains.divergences.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert not chains.z[0].isfinite().any()


@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
def test_an_improper_target_is_told(sampler: type[MetropolisSampler], options: dict[str, Any]) -> None:
    """It is accepted at any distance; one that is only wide is adapted to, and infinite states are rejected."""

    def flat_for_some(x: Tensor, z: Tensor) -> Tensor:
        return x * z.square().sum(1)

    x, z = torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3, 4, 2)
    arguments: dict[str, Any] = {"adapt_steps": 60, "seed": SEED, **options}
    improper = sampler(flat_for_some, x, z, step_size=0.1, **arguments)
    run(improper, 59)
    message = (
        "potential: got proposals accepted at any distance, by which 2 of 3 step sizes grew without bound, expected"
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            improper.step()
    assert improper.step_count == 59
    arguments["adapt_steps"] = 200
    wide = sampler(flat_for_some, torch.full((3,), 1e-12), z, step_size=0.1, **arguments)
    run(wide, 200)
    assert (wide.step_size > 1e3).all()
    infinite = sampler(flat_for_some, torch.zeros(3), z, step_size=1e38, seed=SEED, **options)
    infinite._adaptation = infinite._adaptation._replace(step_size=torch.full((3,), math.inf))
    run(infinite, 3)
    assert torch.equal(infinite.z, z)
    assert (infinite.divergences == 3).all()


@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense"])
@pytest.mark.parametrize(("sampler", "options"), METROPOLIS)
def test_the_inverse_mass_matrix_can_be_set(
    sampler: type[MetropolisSampler], options: dict[str, Any], kind: str
) -> None:
    x, z = data_and_states(5, 2)
    matrix, _ = metric(kind, torch.device("cpu"))
    arguments = {"step_size": 0.3, "seed": SEED, **options}
    expected = run(sampler(potential, x, z, inverse_mass_matrix=matrix, **arguments), 5)
    chains = sampler(potential, x, z, inverse_mass_matrix=torch.ones(3), **arguments)
    chains.inverse_mass_matrix = matrix
    assert torch.equal(run(chains, 5), expected)
    with pytest.raises(ValueError, match=r"inverse_mass_matrix: got shape \(4,\), expected \(3,\), \(3, 3\)"):
        chains.inverse_mass_matrix = torch.ones(4)
    kept = chains.inverse_mass_matrix
    assert kept is None if matrix is None else torch.equal(kept, matrix)


@pytest.mark.parametrize("matrix", [torch.tensor([0.25, 1.0, 9.0]), torch.linspace(0.5, 4, 15).view(5, 1, 3)])
@pytest.mark.parametrize("chains", [(), (2,)])
def test_underdamped_in_units_of_a_mass_matrix(matrix: Tensor, chains: tuple[int, ...]) -> None:
    """It is the sampler of y = F⁻¹ z."""
    x = torch.arange(5.0, dtype=torch.float64)[:, None]
    factor = matrix.double().sqrt()
    rows = factor.expand(5, 1, 3)
    rows, of_rows = (rows if chains else rows[:, 0]), rows.expand(5, *(chains or (1,)), 3).reshape(-1, 3)

    def potential(x: Tensor, z: Tensor) -> Tensor:
        return ((z - x) ** 4).sum(1) / 40

    z = torch.randn(5, *chains, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options: Any = {"step_size": 0.2, "friction": 2.0, "temperature": 0.7, "seed": SEED}
    found = run(UnderdampedLangevin(potential, x, z, inverse_mass_matrix=matrix, **options), 6)
    expected = run(UnderdampedLangevin(lambda x, y: potential(x, of_rows * y), x, z / rows, **options), 6)
    torch.testing.assert_close(found, rows * expected)
    with pytest.raises(
        ValueError, match=r"UnderdampedLangevin: inverse_mass_matrix: got shape \(4,\), expected \(3,\) or"
    ):
        UnderdampedLangevin(potential, x, z, inverse_mass_matrix=torch.ones(4), **options)
    with pytest.raises(ValueError, match=r"inverse_mass_matrix: got \[1.0, 1.0, 0.0\], expected finite numbers > 0"):
        UnderdampedLangevin(potential, x, z, inverse_mass_matrix=[1.0, 1.0, 0.0], **options)


def test_an_inverse_mass_matrix_is_not_ignored() -> None:
    sampler, options = SAMPLERS["ula"]
    with pytest.raises(AttributeError, match="inverse_mass_matrix"):
        sampler(potential, *data_and_states(5, 2), **options).inverse_mass_matrix = torch.ones(3)


@pytest.mark.parametrize("matrix", [[1.0, 4.0], [[2.0, 1.0], [1.0, 2.0]]])
def test_an_inverse_mass_matrix_of_lists(matrix: Any) -> None:
    first, second = (
        MALA(lambda x, z: z.square().sum(1), None, torch.ones(1, 3, 2), step_size=0.1, seed=SEED) for _ in range(2)
    )
    first.inverse_mass_matrix, second.inverse_mass_matrix = matrix, torch.tensor(matrix)
    assert torch.equal(run(first, 3)[-1], run(second, 3)[-1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_states_that_are_not_finite_are_not_shown_to_distributions(name: str) -> None:
    """torch.distributions raise an error for NaN, in which a chain at too large a step size must not end."""
    sampler, options = SAMPLERS[name]
    chains = sampler(
        lambda x, z: -Normal(z, 1e-3).log_prob(torch.zeros(3)).sum(1),
        None,
        torch.ones(1, 3, 3),
        **{**options, "step_size": 1e5, "seed": SEED},
    )
    run(chains, 40)
    assert (chains.divergences > 0).all()


@pytest.mark.parametrize(("burn_in", "steps_before"), [(0, 0), (9, 0), (4, 5), (10, 0), (5, 5), (0, 10)])
def test_draws_of_a_sampler_that_still_adapts_are_told(burn_in: int, steps_before: int) -> None:
    x, z = data_and_states(2, 2)
    features = torch.nn.Identity()
    for chains in (
        MALA(potential, x, z, step_size=0.1, adapt_steps=10),
        LastLayerALD(features, potential, x, 3, kernel=HMC, step_size=0.1, num_leapfrog_steps=1, adapt_steps=10),
    ):
        for _ in range(steps_before):
            chains.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            collect(chains, 1, burn_in=burn_in)
        told = f"burn_in: {burn_in} steps are left, but the sampler adapts for {10 - steps_before} more"
        assert [told in str(each.message) for each in caught] == [True] * (burn_in + steps_before < 10)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("shape", "data", "told"),
    [((4, 3), False, True), ((4, 3), True, False), ((1, 3), False, False), ((1, 4, 3), False, False)],
)
def test_chains_that_may_be_taken_for_data_are_told(name: str, shape: tuple[int, ...], data: bool, told: bool) -> None:
    """At the caller's line, for any depth of constructors."""
    sampler, options = SAMPLERS[name]
    x = torch.zeros(len(torch.empty(shape)), 3) if data else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler(lambda _x, z: z.square().sum(1), x, torch.zeros(shape), **options)
    message = "z: shape (4, 3) without x counts as 4 data with a chain each, which nothing compares"
    assert [message in str(each.message) for each in caught] == [True] * told
    assert all(each.filename == __file__ for each in caught)


@pytest.mark.parametrize(
    ("sampler", "options", "target"),
    [
        *((MALA, {}, target) for target in (0.4, 0.574, 0.8)),
        *((HMC, {"num_leapfrog_steps": 3, "jitter": 0.1}, target) for target in (0.65, 0.8, 0.9)),
    ],
)
def test_adaptation_reaches_its_target(
    sampler: type[MetropolisSampler], options: dict[str, Any], target: float
) -> None:
    """For each datum by itself: their scales differ by a factor of 100, and so do their step sizes."""
    scale = torch.tensor([0.1, 1.0, 10.0])

    def scaled(x: Tensor, z: Tensor) -> Tensor:
        return (z / x[:, None]).square().sum(1) / 2

    z = scale[:, None, None] * torch.randn(3, 200, 5)
    chains = sampler(scaled, scale, z, step_size=0.1, adapt_steps=300, target_acceptance=target, seed=SEED, **options)
    run(chains, 300)
    adapted = chains.step_size
    assert chains.acceptance_rate.isnan().all()
    run(chains, 50)
    assert torch.equal(chains.step_size, adapted)
    rate = chains.acceptance_rate
    assert rate.shape == (3, 200)
    # The average of the last, noisy step sizes is what remains: it meets the target to a few hundredths.
    assert ((rate.mean(1) - target).abs() < 0.04).all(), rate.mean(1)
    power = 2 if sampler is MALA else 1
    relative = adapted / scale**power
    assert (relative / relative[1] - 1).abs().max() < 0.1


def test_dual_averaging_follows_hoffman_and_gelman() -> None:
    """Algorithm 5 in a few lines."""
    initial = torch.tensor([0.1, 2.0], dtype=torch.float64)
    adaptation = DualAveraging.start(initial)
    h_bar, log_average = torch.zeros(2).double(), torch.zeros(2).double()
    for m in range(1, 21):
        alpha = torch.rand(2, dtype=torch.float64)
        adaptation = adaptation.update(alpha, 0.6, m)
        h_bar = (1 - 1 / (m + 10)) * h_bar + (0.6 - alpha) / (m + 10)
        log_epsilon = (10 * initial).log() - math.sqrt(m) / 0.05 * h_bar
        log_average = m**-0.75 * log_epsilon + (1 - m**-0.75) * log_average
        torch.testing.assert_close(adaptation.step_size, log_epsilon.exp())
        torch.testing.assert_close(adaptation.frozen().step_size, log_average.exp())


def test_refresh_after_the_potential_has_changed() -> None:
    """A sampler that kept the old value would accept by the wrong ratio."""
    x, z = data_and_states(3, 2)
    chains = MALA(potential, x, z, step_size=0.1, seed=SEED)
    chains.potential = lambda x, z: 2 * potential(x, z)
    chains.refresh()
    assert torch.equal(run(chains, 5), run(MALA(chains.potential, x, z, step_size=0.1, seed=SEED), 5))


Z = torch.zeros(4, 2)
GAUSSIAN = GaussianPotential(torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize(
    ("sampler", "z", "options", "message"),
    [
        (LangevinDynamics, torch.zeros(4), {}, "z: got shape (4,), expected (n, d) or (n, chains, d)"),
        (LangevinDynamics, Z.half(), {}, "z: got dtype torch.float16, expected torch.float32 or torch.float64"),
        (LangevinDynamics, Z, {"x": torch.zeros(3, 2)}, "x: got shape (3, 2), expected (4, ...)"),
        (LangevinDynamics, Z, {"step_size": 0.0}, "step_size: got 0.0, expected a finite number > 0"),
        (LangevinDynamics, Z, {"temperature": -1.0}, "temperature: got -1.0, expected a finite number >= 0"),
        (LangevinDynamics, Z, {"temperature": math.nan}, "temperature: got nan"),
        (LangevinDynamics, Z, {"seed": -1}, "seed: got -1, expected an integer"),
        (LangevinDynamics, Z, {"index": torch.arange(3)}, "index: got shape (3,), torch.int64, expected (4,)"),
        (LangevinDynamics, Z, {"index": torch.zeros(4)}, "index: got shape (4,), torch.float32"),
        (LangevinDynamics, Z, {"index": torch.arange(-1, 3)}, "index: got values from -1 to 2, expected 0 to"),
        (UnderdampedLangevin, Z, {"step_size": math.inf}, "step_size: got inf"),
        (
            UnderdampedLangevin,
            Z,
            {"step_size": torch.ones(2)},
            "step_size: got float32 of shape [2], expected a finite",
        ),
        (MALA, Z, {"temperature": None}, "temperature: got None, expected a finite number >= 0"),
        (UnderdampedLangevin, Z, {"friction": 0.0}, "friction: got 0.0, expected a finite number > 0"),
        (MALA, Z, {"temperature": 0.0}, "temperature: got 0.0, expected a finite number > 0"),
        (MALA, Z, {"step_size": torch.ones(3)}, "step_size: got shape (3,), expected a number or shape (4,)"),
        (MALA, Z, {"step_size": -0.1}, "step_size: got -0.1, expected finite, > 0"),
        (MALA, Z, {"adapt_steps": -1}, "adapt_steps: got -1, expected a number >= 0"),
        (MALA, Z, {"target_acceptance": 1.0}, "target_acceptance: got 1.0, expected a number between 0 and 1"),
        (MALA, Z, {"inverse_mass_matrix": torch.ones(3)}, "inverse_mass_matrix: got shape (3,), expected (2,), "),
        (MALA, Z, {"inverse_mass_matrix": torch.zeros(2)}, "inverse_mass_matrix: got [0.0, 0.0], expected symm"),
        (MALA, Z, {"inverse_mass_matrix": -torch.eye(2)}, "inverse_mass_matrix: got [[-1.0"),
        (MALA, Z / 0, {}, "z: got 4 of 4 states where the potential is not finite, expected none"),
        (HMC, Z, {"num_leapfrog_steps": 0}, "num_leapfrog_steps: got 0, expected a number >= 1"),
        (HMC, Z, {"num_leapfrog_steps": 1, "jitter": 1.0}, "jitter: got 1.0, expected 0 <= jitter < 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*counts as 4 data")
def test_errors(sampler: type[DatapointSampler], z: Tensor, options: dict[str, Any], message: str) -> None:
    arguments = {"step_size": 0.1, **options}
    x = arguments.pop("x", None)
    with pytest.raises(ValueError, match=re.escape(f"ald_ext.samplers.{sampler.__name__}: {message}")):
        sampler(GAUSSIAN, x, z, **arguments)
