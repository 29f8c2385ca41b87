"""Samplers of the last layer: against exact posteriors, transition by transition, checkpoints, errors.

Bounds are 5 Monte Carlo standard errors (MCSE), from the spread over independent chains, as in
test_stationary.py.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samplers.test_stationary import assert_averages, expected_moments
from torch import Tensor, nn

from ald_ext.samplers import (
    HMC,
    MALA,
    GaussianPotential,
    LangevinDynamics,
    LastLayerALD,
    LastLayerSGALD,
    LinearGaussianPotential,
    RandomFourierFeatures,
    UnderdampedLangevin,
    WhitenedFeatures,
    collect,
    prior_potential,
)
from ald_ext.samplers.last_layer import LastLayer

DOUBLE = torch.float64
NUM_FEATURES, LATENT_DIM = 24, 2

#: The data of the paper's F.1 come from the prior predictive; these are as far apart.
X = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-1.5, 1.0], [0.5, 1.5], [2.0, 0.5], [-1.0, -1.0]], dtype=DOUBLE)


def make_potential() -> LinearGaussianPotential:
    """That of F.1."""
    likelihood = torch.tensor([[0.7, 0.6], [0.6, 0.8]], dtype=DOUBLE)
    return LinearGaussianPotential(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), likelihood)


def fourier_features() -> nn.Module:
    """Of full rank on X, with a Gram matrix far from diagonal."""
    return RandomFourierFeatures(2, NUM_FEATURES, 1.0, seed=1, dtype=DOUBLE)


FEATURES: dict[str, Callable[[Tensor], nn.Module]] = {
    "whitened": lambda x: WhitenedFeatures(fourier_features(), x),
    "fourier": lambda x: fourier_features(),
}

#: Kernels that are exact for a Gaussian, with steps that are large for them.
EXACT: dict[str, dict[str, Any]] = {
    "mala": {"kernel": MALA, "step_size": 0.12},
    "hmc": {"kernel": HMC, "step_size": 0.3, "num_leapfrog_steps": 5, "jitter": 0.3},
    "underdamped": {"kernel": UnderdampedLangevin, "step_size": 0.4, "friction": 1.5},
}


def make_ald(features: str = "fourier", x: Tensor = X, **options: Any) -> LastLayerALD:
    return LastLayerALD(FEATURES[features](x), make_potential(), x, 2, **{"chains": 2, "step_size": 0.1, **options})


def make_sgald(features: str = "whitened", x: Tensor = X, **options: Any) -> LastLayerSGALD:
    return LastLayerSGALD(FEATURES[features](x), make_potential(), x, 2, **{"chains": 2, "step_size": 0.1, **options})


def chain_moments(sampler: LastLayerALD | LastLayerSGALD, center: Tensor, burn_in: int, count: int) -> Tensor:
    """(chains, n·d + (n·d)²): averages along each chain of all outputs together, and of their products."""
    for _ in range(burn_in):
        sampler.step()
    total: Any = 0
    for _ in range(count):
        z = (sampler.step() - center[:, None]).movedim(1, 0).flatten(1)
        total = total + torch.cat([z, (z[:, :, None] * z[:, None]).flatten(1)], 1)
    averages: Tensor = total / count
    return averages


def assert_moments(averages: Tensor, covariance: Tensor) -> None:
    """Mean 0 and a covariance (n·d, n·d), every entry by its MCSE."""
    assert_averages(averages, expected_moments(torch.zeros(len(covariance), dtype=DOUBLE), covariance))


def blocks(n: int, covariance: Tensor) -> Tensor:
    """Of n independent data with the same covariance."""
    return torch.kron(torch.eye(n, dtype=DOUBLE), covariance.contiguous())


@pytest.mark.parametrize("temperature", [pytest.param(0.5, marks=pytest.mark.exhaustive), 2.0])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kernel", EXACT)
def test_full_batch_dynamics_sample_the_posterior(kernel: str, features: str, temperature: float) -> None:
    """Whatever the Gram matrix, if its rank is full: means, covariances, and no correlation between data."""
    sampler = make_ald(features, X[:3], chains=500, temperature=temperature, seed=3, **EXACT[kernel])
    mean, covariance = make_potential().posterior(X[:3])
    assert_moments(chain_moments(sampler, mean, 100, 60), blocks(3, temperature * covariance))


@pytest.mark.parametrize("temperature", [pytest.param(0.5, marks=pytest.mark.exhaustive), 2.0])
@pytest.mark.parametrize(("features", "batch_size"), [("whitened", 3), ("fourier", 3), ("whitened", 1)])
@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_minibatch_dynamics_sample_the_posterior(
    kernel: str, features: str, batch_size: int, temperature: float
) -> None:
    """Minibatches with whitened features; all data at once whatever the Gram matrix, if its rank is full."""
    options = {"batch_size": batch_size, "transitions": 2, "temperature": temperature, **EXACT[kernel]}
    sampler = make_sgald(features, X[:3], chains=500, seed=4, **options)
    mean, covariance = make_potential().posterior(X[:3])
    assert_moments(chain_moments(sampler, mean, 60, 60), blocks(3, temperature * covariance))


def test_a_minibatch_disperses_the_data_that_are_not_orthogonal_to_it() -> None:
    """From the posterior: outputs of others move by K_RB K_BB⁻¹ Δ, which is independent of them, so that every step
    adds its variance. Features of the data's own, which are orthogonal, leave them alone."""
    x, chains = X[:2], 4000
    (mean, covariance), normals = make_potential().posterior(x), torch.randn(2, chains, 2, dtype=DOUBLE)
    z = mean[:, None] + normals @ torch.linalg.cholesky(covariance).T
    for features, orthogonal in ((fourier_features(), False), (WhitenedFeatures(fourier_features(), x), True)):
        design = features(x)
        weight = torch.einsum("nf,nck->ckf", torch.linalg.pinv(design).T, z)
        options: dict[str, Any] = {"chains": chains, "weight": weight, "batch_size": 1, "seed": 1}
        sampler = LastLayerSGALD(features, make_potential(), x, 2, step_size=0.3, **options)
        delta = (sampler.step() - z)[sampler.batch]
        other = 1 - sampler.batch
        gram = design @ design.T
        added = (gram[other, sampler.batch] / gram[sampler.batch, sampler.batch] * delta)[0]
        moved = sampler.z[other][0] - mean[other]
        torch.testing.assert_close(moved, (z[other][0] - mean[other]) + added, rtol=0, atol=1e-9)
        averages = (moved - added.mean(0)).square() - added.var(0)
        assert_averages(averages, covariance.diag())
        assert (added.var(0) < 1e-12).all() if orthogonal else (added.var(0) > 0.01).all()


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("minibatches", [False, True])
def test_langevin_dynamics_without_a_test_has_its_known_bias(minibatches: bool, features: str) -> None:
    """Moving Φ by steps of η moves the outputs by K η: covariance (I⊗P)⁻¹ (I - η K⊗P/2)⁻¹. SGALD's kernel
    moves the outputs themselves, so that there is no K."""
    x, potential, eta = X[:3], make_potential(), 0.15
    g = FEATURES[features](x)
    options: dict[str, Any] = {"kernel": LangevinDynamics, "chains": 800, "step_size": eta, "seed": 5}
    sampler = (LastLayerSGALD if minibatches else LastLayerALD)(g, potential, x, 2, **options)
    mean, covariance = potential.posterior(x)
    gram = torch.eye(3, dtype=DOUBLE) if minibatches else g(x) @ g(x).T
    damping = torch.eye(6, dtype=DOUBLE) - eta / 2 * torch.kron(gram, torch.linalg.inv(covariance).contiguous())
    expected = blocks(3, covariance) @ torch.linalg.inv(damping)
    assert (expected / blocks(3, covariance)).diagonal().min() > 1.1
    assert_moments(chain_moments(sampler, mean, 150, 60), expected)


class Constant(nn.Module):
    """The same for all data: a Gram matrix of rank one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x), 1)


@pytest.mark.parametrize("minibatches", [False, True])
def test_features_without_full_rank_warn_and_sample_something_else(minibatches: bool) -> None:
    """All data share one output, whose variance is that of the product of their n posteriors: n times too small."""
    n, eta = 4, 0.1
    x, unit = torch.linspace(-1, 1, n, dtype=DOUBLE)[:, None], torch.eye(1, dtype=DOUBLE)
    potential = LinearGaussianPotential(torch.zeros(1, dtype=DOUBLE), unit, unit)
    options: dict[str, Any] = {"kernel": LangevinDynamics, "chains": 500, "step_size": eta, "seed": 6}
    with pytest.warns(UserWarning, match="Gram matrix of the features of 4 data has numerical rank 1") as record:
        sampler = (LastLayerSGALD if minibatches else LastLayerALD)(Constant(), potential, x, 1, **options)
    assert record[0].filename == __file__
    assert sampler.rank == 1
    (variance,) = potential.posterior(x)[1].diagonal()
    damping = 1 - eta / (2 * variance) * (1 if minibatches else n)
    expected = (variance / n / damping).expand(n, n)
    assert_moments(chain_moments(sampler, torch.zeros(n, 1), 100, 60), expected)


@pytest.mark.parametrize("features", FEATURES)
def test_features_of_full_rank_do_not_warn(features: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_ald(features).rank == len(X)


# Transitions


@pytest.mark.parametrize("outputs", ["all", "batch"])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_minibatch_transitions(kernel: str, features: str, outputs: str) -> None:
    """The kernel's own transitions of the minibatch's outputs, their noise keyed by datum and by the number of
    transitions so far; other outputs move by K_RB K_BB⁻¹ Δ, which for whitened features is nothing."""
    options = dict(EXACT[kernel])
    g, potential, transitions = FEATURES[features](X), make_potential(), 3
    sampler = LastLayerSGALD(
        g, potential, X, 2, batch_size=2, transitions=transitions, chains=4, seed=7, outputs=outputs, **options
    )
    make = options.pop("kernel")
    gram = g(X) @ g(X).T
    for step in range(8):
        before = sampler.z
        samples = sampler.step()
        batch = sampler.batch
        rest = torch.tensor([i for i in range(len(X)) if i not in batch])
        oracle = make(potential, X[batch], before[batch], index=batch, seed=7, **options)
        oracle.start_after(transitions * step)
        for _ in range(transitions):
            oracle.step()
        torch.testing.assert_close(sampler.z[batch], oracle.z, rtol=0, atol=1e-10)
        coefficients = torch.linalg.solve(gram[batch][:, batch], (oracle.z - before[batch]).flatten(1))
        change = (gram[rest][:, batch] @ coefficients).view(len(rest), 4, 2)
        torch.testing.assert_close(sampler.z[rest] - before[rest], change, rtol=0, atol=1e-10)
        assert (change.abs().max() < 1e-10) == (features == "whitened")
        torch.testing.assert_close(samples, sampler.z if outputs == "all" else sampler.z[batch])


def test_transitions_of_all_data_are_transitions_of_the_weight() -> None:
    """Φ is one latent vector, of the potential ΣU(x_i, Φ g_i)."""
    g, potential = fourier_features(), make_potential()
    weight = torch.randn(4, LATENT_DIM, NUM_FEATURES, dtype=DOUBLE)
    sampler = LastLayerALD(g, potential, X, 2, chains=4, weight=weight, step_size=0.1, seed=7)

    def total(x: None, rows: Tensor) -> Tensor:
        z = rows.view(-1, LATENT_DIM, NUM_FEATURES) @ g(X).T
        return torch.stack([sum(potential(X[i : i + 1], one[:, i][None])[0] for i in range(len(X))) for one in z])

    oracle = MALA(total, None, weight.flatten(1)[None], step_size=0.1, seed=7)
    for _ in range(5):
        z = sampler.step()
        expected = oracle.step().view(weight.shape)
        torch.testing.assert_close(sampler.weight, expected)
        torch.testing.assert_close(z, torch.einsum("cdf,nf->ncd", expected, g(X)))
    assert 0 < float(sampler.kernel.acceptance_rate.mean()) < 1


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_noise_is_keyed_by_datum(kernel: str) -> None:
    """The same transition of a datum wherever it is in the minibatch, and whatever else is in it."""
    moved = []
    for batch in ([0, 3, 4], [4, 0, 3], [3, 5, 0], [3]):
        sampler = make_sgald(batch_size=3, transitions=3, seed=8, **EXACT[kernel])
        start = sampler.z
        sampler.minibatches.draw = lambda batch=batch: torch.tensor(batch)  # type: ignore[method-assign]
        sampler.step()
        moved.append(sampler.z[3])
    assert (moved[0] - start[3]).abs().min() > 1e-3
    for other in moved[1:]:
        torch.testing.assert_close(other, moved[0], rtol=0, atol=1e-10)


def test_noise_is_fresh_at_every_minibatch() -> None:
    """A target that is flat, so that steps are noise: √(2η) ξ, without correlation from step to step."""
    potential = prior_potential(energy=lambda z: 0 * z.sum(1))
    sampler = LastLayerSGALD(
        FEATURES["whitened"](X), potential, X, 2, chains=2000, transitions=1, step_size=0.5, initial_scale=0, seed=9
    )
    z = torch.stack([torch.zeros(6, 2000, 2, dtype=DOUBLE), *(sampler.step() for _ in range(4))])
    steps = z.diff(dim=0).flatten(1)
    correlation = steps @ steps.T / steps.shape[1]
    standard_error = math.sqrt(2 / steps.shape[1])
    assert ((correlation - torch.eye(4)).abs() < 5 * standard_error).all()


def test_draws_of_minibatches_are_collected() -> None:
    """Though a sampler counts divergences of all data."""
    sampler = make_sgald(batch_size=2, outputs="batch")
    assert collect(sampler, 5).shape == (5, 2, 2, 2)


def test_kernel_that_remembers_is_refused() -> None:
    """A kernel is made anew for each minibatch: momenta would begin with the same noise every time."""

    class Subclass(UnderdampedLangevin):
        pass

    for kernel in (UnderdampedLangevin, Subclass):
        with pytest.raises(ValueError, match=f"kernel: got {kernel.__name__}, expected one without momenta"):
            make_sgald(kernel=kernel)


# Weights, other data


def test_outputs_begin_with_the_scale_asked_for() -> None:
    """Φ g(x) is N(0, scale²) on the mean over the data and chains, whatever the scale of the features."""
    scaled = nn.Sequential(fourier_features(), nn.Linear(NUM_FEATURES, NUM_FEATURES, bias=False, dtype=DOUBLE))
    with torch.no_grad():
        scaled[1].weight.copy_(3 * torch.eye(NUM_FEATURES))
    for g in (*(make(X) for make in FEATURES.values()), scaled):
        sampler = LastLayerALD(g, make_potential(), X, 2, chains=2000, initial_scale=0.3, step_size=0.1, seed=10)
        squares = sampler.z.square().mean((0, 2))
        assert (squares.mean() - 0.3**2).abs() < 5 * squares.std() / math.sqrt(len(squares))


@pytest.mark.parametrize("kind", [LastLayerALD, LastLayerSGALD])
def test_it_encodes_other_data(kind: type[Any]) -> None:
    """Φ g(x) of every chain, with the Φ of now."""
    g = FEATURES["whitened"](X)
    sampler = kind(g, make_potential(), X, 2, chains=3, step_size=0.1)
    new = torch.randn(5, 2, dtype=DOUBLE)
    for _ in range(3):
        before = sampler(new)
        sampler.step()
        torch.testing.assert_close(sampler(new), torch.einsum("cdf,nf->ncd", sampler.weight, g(new)))
        assert not torch.equal(sampler(new), before)
        torch.testing.assert_close(sampler(X), sampler.z)


@pytest.mark.parametrize("kind", [LastLayerALD, LastLayerSGALD])
def test_given_weights_are_copied(kind: type[Any]) -> None:
    weight = torch.randn(3, LATENT_DIM, NUM_FEATURES, dtype=DOUBLE)
    original = weight.clone()
    sampler = kind(fourier_features(), make_potential(), X, 2, chains=3, weight=weight, step_size=0.1)
    weight.zero_()
    assert torch.equal(sampler.weight, original)
    sampler.step()
    assert not torch.equal(sampler.weight, original)
    assert not weight.any()


@pytest.mark.parametrize("kind", [LastLayerALD, LastLayerSGALD])
def test_seed_comes_from_torch_if_it_is_not_given(kind: type[Any]) -> None:
    samples = []
    for default_seed in (0, 0, 1):
        torch.manual_seed(default_seed)
        samples.append(kind(fourier_features(), make_potential(), X, 2, step_size=0.1).step())
    assert torch.equal(samples[0], samples[1])
    assert not torch.isclose(samples[0], samples[2]).any()


def test_data_of_more_dimensions() -> None:
    """Rows of x are repeated as a whole for the chains, and picked as a whole for a minibatch."""
    x = torch.randn(4, 2, 3, dtype=DOUBLE)
    features = nn.Sequential(nn.Flatten(), RandomFourierFeatures(6, NUM_FEATURES, 1.0, dtype=DOUBLE))
    target = x.sum(2)

    def potential(x: Tensor, z: Tensor) -> Tensor:
        return (z - x.sum(2)).square().sum(1) / 2

    options: dict[str, Any] = {"chains": 3, "kernel": LangevinDynamics, "temperature": 0}
    whitened = WhitenedFeatures(features, x)
    ald = LastLayerALD(features, potential, x, 2, step_size=0.2, **options)
    sgald = LastLayerSGALD(whitened, potential, x, 2, step_size=0.5, batch_size=2, **options)
    for sampler in (ald, sgald):
        for _ in range(300):
            z = sampler.step()
        torch.testing.assert_close(z, target[:, None].expand_as(z), rtol=0, atol=1e-3)


# Checkpoints


RESUMED: dict[str, Callable[[int], LastLayer]] = {
    "ald mala": lambda seed: make_ald(seed=seed),
    "ald adapting": lambda seed: make_ald(seed=seed, adapt_steps=8),
    "ald hmc": lambda seed: make_ald(seed=seed, kernel=HMC, num_leapfrog_steps=2, jitter=0.1),
    "ald underdamped": lambda seed: make_ald(seed=seed, kernel=UnderdampedLangevin),
    "sgald": lambda seed: make_sgald(seed=seed, transitions=2),
    "sgald minibatches": lambda seed: make_sgald(seed=seed, batch_size=2, outputs="batch"),
    "sgald hmc": lambda seed: make_sgald(seed=seed, batch_size=4, kernel=HMC, num_leapfrog_steps=2, jitter=0.1),
}


@pytest.mark.parametrize("kind", RESUMED)
def test_resumed_run_is_the_same_bit_for_bit(kind: str) -> None:
    """From the middle of an epoch, through a file, into a sampler with another seed."""
    sampler: Any = RESUMED[kind](1)
    for _ in range(5):
        sampler.step()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = [sampler.step().clone() for _ in range(7)]
    file.seek(0)
    resumed: Any = RESUMED[kind](2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for samples in expected:
        assert torch.equal(resumed.step(), samples)
    assert torch.equal(resumed.weight, sampler.weight)


def test_state_of_other_chains_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight: got float64 of shape \[3, 2, 24\], expected .* \[2, 2, 24\]"):
        make_sgald().load_state_dict(make_sgald(chains=3).state_dict())
    with pytest.raises(ValueError, match="'z' of shape"):
        make_ald().load_state_dict(make_ald(chains=3).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0, expected 1 to 6"),
        ({"batch_size": 7}, "batch_size: got 7, expected 1 to 6"),
        ({"transitions": 0}, "transitions: got 0, expected >= 1"),
        ({"outputs": "some"}, "outputs: got 'some', expected 'all' or 'batch'"),
        ({"index": torch.arange(6)}, "index: got a value, expected none"),
        ({"adapt_steps": 5}, "adapt_steps: got a value, expected none"),
        ({"step_size": torch.full((6,), 0.1)}, "step_size: got a tensor, expected a number"),
        ({"weight": torch.zeros(2, 24)}, r"weight: got shape \(2, 24\), expected \(2, 2, 24\)"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"LastLayerSGALD: {message}"):
        make_sgald(**options)


def test_gaussian_prior_by_fixed_inputs() -> None:
    """Unconditional sampling: each input is a chain, and the potential sees nothing of it."""
    n, covariance = 300, torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=DOUBLE)
    target = GaussianPotential(torch.tensor([1.0, -1.0], dtype=DOUBLE), covariance)
    u = torch.randn(n, 8, dtype=DOUBLE)
    features = WhitenedFeatures(RandomFourierFeatures(8, 600, 1.0, dtype=DOUBLE), u)
    sampler = LastLayerSGALD(features, target, u, 2, batch_size=100, transitions=10, step_size=0.3, seed=11)
    for _ in range(15):
        sampler.step()
    total: Any = 0
    for _ in range(60):
        z = sampler.step()[:, 0] - target.mean
        total = total + torch.cat([z, (z[:, :, None] * z[:, None]).flatten(1)], 1)
    assert_moments(total / 60, covariance)


def test_divergences_are_the_kernels() -> None:
    """For each datum and chain; of minibatches they add up, through a checkpoint, which may be an earlier one."""
    whole = make_ald(step_size=1e6, seed=1)
    whole.step()
    assert whole.divergences.tolist() == [[1, 1]] * 6
    minibatches = make_sgald(step_size=1e6, seed=1, batch_size=2, transitions=2)
    for _ in range(3):
        minibatches.step()
    assert minibatches.divergences.tolist() == [[2, 2]] * 6
    state = minibatches.state_dict()
    minibatches.step()
    assert int(minibatches.divergences.sum()) == 32
    minibatches.load_state_dict(state)
    assert int(minibatches.divergences.sum()) == 24
    del state["divergences"]
    minibatches.load_state_dict(state)
    assert int(minibatches.divergences.sum()) == 0


def test_acceptance_rate_of_minibatches() -> None:
    """The mean over the steps, each with a kernel of its own; NaN where nothing is accepted or rejected."""
    features, potential = WhitenedFeatures(fourier_features(), X), make_potential()
    options: dict[str, Any] = {"batch_size": 2, "transitions": 3, "chains": 50, "seed": 1}
    sampler = LastLayerSGALD(features, potential, X, LATENT_DIM, step_size=0.2, **options)
    assert math.isnan(sampler.acceptance_rate)
    for _ in range(60):
        sampler.step()
    reference = MALA(potential, X, torch.zeros(6, 50, 2, dtype=DOUBLE), step_size=0.2, seed=2)
    for _ in range(60):
        reference.step()
    assert sampler.acceptance_rate == pytest.approx(float(reference.acceptance_rate.mean()), abs=0.03)
    unadjusted = LastLayerSGALD(features, potential, X, LATENT_DIM, kernel=LangevinDynamics, step_size=0.05, **options)
    unadjusted.step()
    assert math.isnan(unadjusted.acceptance_rate)
