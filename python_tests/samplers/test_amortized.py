"""Amortized Langevin dynamics of whole networks: the recursion, minibatches, checkpoints, known limits, new data."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import pytest
import torch
from samplers.test_stationary import assert_averages
from torch import Tensor, nn
from torch.optim import Optimizer

from ald_ext import PSGLD, SGHMC, SGLD, ops
from ald_ext.samplers import (
    HMC,
    MALA,
    AmortizedLangevin,
    GaussianPotential,
    LangevinDynamics,
    LastLayerALD,
    LinearGaussianPotential,
    Potential,
    RandomFourierFeatures,
    UnderdampedLangevin,
    collect,
    prior_potential,
    sampler_from_encoder,
    tanh_network,
)

DOUBLE = torch.float64
SEED = 5
NUM_DATA, NUM_FEATURES, LATENT_DIM = 12, 4, 2


def make_potential() -> LinearGaussianPotential:
    covariance = torch.tensor([[0.7, 0.6], [0.6, 0.8]], dtype=DOUBLE)
    weight = torch.randn(NUM_FEATURES, LATENT_DIM, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    noise = torch.eye(NUM_FEATURES, dtype=DOUBLE)
    return LinearGaussianPotential(torch.ones(LATENT_DIM, dtype=DOUBLE), covariance, noise, weight)


def make_data() -> Tensor:
    return torch.randn(NUM_DATA, NUM_FEATURES, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)


def linear_network(inputs: int = NUM_FEATURES, outputs: int = LATENT_DIM) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(inputs, outputs, bias=False, dtype=DOUBLE)


def gradient_of(potential: LinearGaussianPotential, x: Tensor, z: Tensor) -> Tensor:
    """∇_z U, by hand."""
    misfit = z @ potential.weight.T - x
    return (z - potential.prior_mean) @ potential.prior_precision + misfit @ (
        potential.likelihood_precision @ potential.weight
    )


def options_of(reduction: str, eta: float) -> dict[str, Any]:
    """Of SGLD, so that both reductions make the step η of the paper."""
    return {"lr": eta * NUM_DATA, "num_data": NUM_DATA} if reduction == "mean" else {"lr": eta, "num_data": 1}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_recursion(batch_size: int | None, reduction: str) -> None:
    """Eqs. 6 and 7: φ ← φ - η (n/m) Σ ∇U + √(2ηT) ξ, and the outputs of the new φ are the samples."""
    eta, temperature = 0.01, 0.7
    potential, x, network = make_potential(), make_data(), linear_network()
    weight = network.weight.detach().clone()
    optimizer = SGLD(network.parameters(), temperature=temperature, seed=SEED, **options_of(reduction, eta))
    sampler = AmortizedLangevin(network, potential, x, optimizer, batch_size=batch_size, reduction=reduction, seed=SEED)
    for step in range(1, 8):
        samples = sampler.step()
        batch = x[sampler.batch]
        assert len(batch) == (batch_size or NUM_DATA)
        gradient = gradient_of(potential, batch, batch @ weight.T).T @ batch
        noise = ops.normal(weight.numel(), seed=SEED, step=step, dtype=DOUBLE).view_as(weight)
        weight = weight - eta * NUM_DATA / len(batch) * gradient + math.sqrt(2 * eta * temperature) * noise
        torch.testing.assert_close(network.weight.detach(), weight, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(samples, x @ weight.T, rtol=1e-12, atol=1e-12)
        assert not samples.requires_grad


@pytest.mark.parametrize(("hidden", "ratio"), [(None, "0.33"), (3, "0.83"), (4, None)])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_few_parameters_are_told(batch_size: int | None, hidden: int | None, ratio: str | None) -> None:
    """8, 12 + 8 or 16 + 10 parameters for 24 latent values, once."""
    network: nn.Module = linear_network()
    if hidden:
        network = nn.Sequential(linear_network(outputs=hidden), nn.Tanh(), nn.Linear(hidden, LATENT_DIM, dtype=DOUBLE))
    optimizer = SGLD(network.parameters(), lr=0.01, num_data=NUM_DATA)
    sampler = AmortizedLangevin(network, make_potential(), make_data(), optimizer, batch_size=batch_size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler.step()
        sampler.step()
    told = f"latent values: the samples have {ratio} of the posterior's variance at most"
    assert [told in str(each.message) for each in caught] == [True] * (ratio is not None)


def test_the_ratio_that_few_parameters_reach() -> None:
    """The bound that the warning tells is the exact value for a linear network."""
    n = 40
    torch.manual_seed(SEED)
    x, network = torch.randn(n, 3, dtype=DOUBLE), linear_network(3)
    optimizer = SGLD(network.parameters(), lr=0.1, num_data=n, seed=SEED)
    target = GaussianPotential(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    with pytest.warns(UserWarning, match="network: 6 parameters move 80 latent values: the samples have 0.075 of"):
        draws = collect(AmortizedLangevin(network, target, x, optimizer), 1500, burn_in=100)
    assert float(draws.var(0).mean()) == pytest.approx(6 / 80, rel=0.2)


def test_reductions_of_psgld_differ_in_eps_only() -> None:
    """V of sums is n² times as large, so n times the eps makes the same step."""
    samples = []
    for reduction, num_data, eps in (("mean", NUM_DATA, 0.1), ("sum", 1, 0.1 * NUM_DATA)):
        network = linear_network()
        optimizer = PSGLD(network.parameters(), lr=0.01, num_data=num_data, eps=eps, seed=SEED)
        sampler = AmortizedLangevin(
            network, make_potential(), make_data(), optimizer, batch_size=4, reduction=reduction, seed=SEED
        )
        samples.append(torch.stack([sampler.step() for _ in range(10)]))
    torch.testing.assert_close(*samples, rtol=1e-10, atol=1e-10)


def make_sampler(kind: str = "sgld", batch_size: int | None = None, **options: Any) -> AmortizedLangevin:
    network = tanh_network([NUM_FEATURES, 6, LATENT_DIM], dtype=DOUBLE)
    makers: dict[str, Any] = {"sgld": SGLD, "psgld": PSGLD, "sghmc": SGHMC}
    optimizer: Optimizer = makers[kind](network.parameters(), lr=0.01, num_data=NUM_DATA)
    return AmortizedLangevin(network, make_potential(), make_data(), optimizer, batch_size=batch_size, **options)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 12])
def test_minibatches_are_a_partition_of_each_epoch(batch_size: int) -> None:
    """What is left over is dropped, another part in every epoch, so that every datum comes."""
    sampler = make_sampler(batch_size=batch_size, seed=1)
    epochs = []
    for _ in range(10):
        batches = []
        for _ in range(NUM_DATA // batch_size):
            sampler.step()
            batches.append(sampler.batch)
        epoch = torch.cat(batches)
        assert len(epoch.unique()) == len(epoch) == NUM_DATA // batch_size * batch_size
        epochs.append(epoch.tolist())
    if batch_size < NUM_DATA:
        assert epochs[0] != epochs[1] != epochs[2]
    else:
        assert epochs == [list(range(NUM_DATA))] * 10
    assert set().union(*epochs) == set(range(NUM_DATA))


def test_seed_of_the_minibatches() -> None:
    """From torch's default generator if it is not given."""
    batches = []
    for seed, default_seed in ((1, 0), (1, 1), (2, 0), (None, 0), (None, 0), (None, 1)):
        torch.manual_seed(default_seed)
        sampler = make_sampler(batch_size=4, seed=seed)
        order = []
        for _ in range(6):
            sampler.step()
            order += sampler.batch.tolist()
        batches.append(order)
    assert batches[0] == batches[1] != batches[2]
    assert batches[3] == batches[4] != batches[5]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_outputs(batch_size: int | None) -> None:
    """Of all data, or of the minibatch: from the same φ."""
    everything, batch_only = (
        make_sampler(batch_size=batch_size, outputs=outputs, seed=1) for outputs in ("all", "batch")
    )
    for sampler in (everything, batch_only):
        sampler.optimizer.param_groups[0]["seed"] = SEED
    for _ in range(5):
        samples, part = everything.step(), batch_only.step()
        assert samples.shape == (NUM_DATA, LATENT_DIM)
        assert part.shape == (batch_size or NUM_DATA, LATENT_DIM)
        assert torch.equal(batch_only.batch, everything.batch)
        torch.testing.assert_close(part, samples[batch_only.batch])


@pytest.mark.parametrize("kind", ["sgld", "psgld", "sghmc"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_resumed_run_is_the_same_bit_for_bit(batch_size: int | None, kind: str) -> None:
    """From the middle of an epoch, through a file, into a sampler with other weights and seeds."""
    sampler = make_sampler(kind, batch_size, seed=1)
    for _ in range(4):
        sampler.step()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = [sampler.step() for _ in range(7)]
    file.seek(0)
    resumed = make_sampler(kind, batch_size, seed=2)
    for parameter in resumed.network.parameters():
        nn.init.zeros_(parameter)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for samples in expected:
        assert torch.equal(resumed.step(), samples)


def test_states_that_do_not_fit() -> None:
    sampler = make_sampler("sgld", 4, seed=1)
    state = sampler.state_dict()
    for missing in state:
        with pytest.raises(ValueError, match=f"AmortizedLangevin: state_dict: got no '{missing}', expected dict"):
            sampler.load_state_dict({name: value for name, value in state.items() if name != missing})
    for changes, message in (
        ({"minibatches": {**state["minibatches"], "position": -1}}, "state_dict: minibatches: position: got -1"),
        ({"optimizer": {}}, "SGLD: load_state_dict: got no 'state'"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.load_state_dict({**state, **changes})


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("inputs", ["one-hot", "orthonormal"])
def test_orthonormal_inputs_make_it_langevin_dynamics_of_each_datum(inputs: str, temperature: float) -> None:
    """So the variance is known: T/λ / (1 - ηλ/2) for a precision λ. One-hot x are data with a posterior each;
    orthonormal ones fixed inputs of unconditional sampling, ignored by the potential."""
    n, eta, num_steps = 400, 0.5, 300
    x = torch.eye(n, dtype=DOUBLE)
    network = linear_network(n, 1)
    potential: Potential
    if inputs == "one-hot":
        mean, precision = torch.linspace(-2, 2, n, dtype=DOUBLE)[:, None], 1.5
        potential = lambda x, z: precision / 2 * (z - x @ mean).square().sum(1)  # noqa: E731
    else:
        x = torch.linalg.qr(torch.randn(n, n, dtype=DOUBLE)).Q
        mean, precision = torch.full((n, 1), 0.5, dtype=DOUBLE), 2.0
        potential = prior_potential(energy=lambda z: precision / 2 * (z - 0.5).square().sum(1))
    optimizer = SGLD(network.parameters(), lr=eta * n, num_data=n, temperature=temperature, seed=SEED)
    sampler = AmortizedLangevin(network, potential, x, optimizer)
    for _ in range(30):
        sampler.step()
    deviations = torch.stack([sampler.step() for _ in range(num_steps)]) - mean
    variance = temperature / precision / (1 - eta * precision / 2)
    averages = torch.cat([deviations.mean(0), deviations.square().mean(0)], 1)
    assert_averages(averages, torch.tensor([0.0, variance]))


def test_minibatches_have_their_known_limit() -> None:
    """Two minibatches an epoch: a datum is hit by a gradient twice as large once an epoch, by noise at both steps.
    With a = 1 - 2ηλ its variance at the end of epochs is ηT(3 + a²)/(1 - a²)."""
    n, eta = 400, 0.2
    network = linear_network(n, 1)
    potential = GaussianPotential(torch.zeros(1, dtype=DOUBLE), torch.eye(1, dtype=DOUBLE))
    optimizer = SGLD(network.parameters(), lr=eta, num_data=1, seed=SEED)
    sampler = AmortizedLangevin(
        network, potential, torch.eye(n, dtype=DOUBLE), optimizer, batch_size=n // 2, reduction="sum", seed=SEED
    )
    for _ in range(60):
        sampler.step()
    squares = []
    for _ in range(300):
        sampler.step()
        squares.append(sampler.step().square())
    a = 1 - 2 * eta
    assert_averages(torch.stack(squares).mean(0), torch.tensor([eta * (3 + a**2) / (1 - a**2)]))


@pytest.mark.parametrize(("reduction", "num_data"), [("mean", 1), ("mean", NUM_DATA - 1), ("sum", NUM_DATA)])
def test_num_data_has_to_suit_the_reduction(reduction: str, num_data: int) -> None:
    network, extra = linear_network(), nn.Parameter(torch.zeros(1, dtype=DOUBLE))
    right = NUM_DATA if reduction == "mean" else 1
    groups: list[Any] = [{"params": network.parameters(), "num_data": right}, {"params": [extra]}]
    optimizer = SGLD(groups, lr=0.1, num_data=num_data)
    message = f"optimizer: got num_data={num_data}, expected {right} for 12 data with reduction='{reduction}'"
    with pytest.raises(ValueError, match=message):
        AmortizedLangevin(network, make_potential(), make_data(), optimizer, reduction=reduction)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0, expected 1 to 12"),
        ({"batch_size": 13}, "batch_size: got 13, expected 1 to 12"),
        ({"reduction": "none"}, "reduction: got 'none', expected 'mean' or 'sum'"),
        ({"outputs": "some"}, "outputs: got 'some', expected 'all' or 'batch'"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)


# Inference for new data (paper: Algorithm 2)


KERNELS: dict[Any, dict[str, Any]] = {
    LangevinDynamics: {},
    MALA: {"adapt_steps": 5},
    HMC: {"num_leapfrog_steps": 3},
    UnderdampedLangevin: {"friction": 2.0},
}


@pytest.mark.parametrize("chains", [None, 1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_begin_at_the_outputs_of_an_encoder(kernel: Any, chains: int | None) -> None:
    """And go on as those of a sampler made by hand; the encoder gets no gradient."""
    potential, encoder, x = make_potential(), linear_network(), make_data()
    options = {"step_size": 0.1, "seed": 4, "temperature": 0.8, **KERNELS[kernel]}
    sampler = sampler_from_encoder(encoder, potential, x, kernel=kernel, chains=chains, **options)
    assert type(sampler) is kernel
    start = encoder(x).detach() if chains is None else encoder(x).detach()[:, None].repeat(1, chains, 1)
    assert torch.equal(sampler.z, start)
    by_hand = kernel(potential, x, start, **options)
    for _ in range(8):
        z = sampler.step()
        assert torch.equal(z, by_hand.step())
    assert z.shape == start.shape
    if chains == 3:
        assert not torch.isclose(z[:, 0], z[:, 1]).all(-1).any()
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_chains_begin_at_those_of_a_last_layer() -> None:
    """Each chain of the last layer gives the start of one chain of the new data."""
    potential, x, train = make_potential(), make_data(), torch.randn(6, NUM_FEATURES, dtype=DOUBLE)
    features = RandomFourierFeatures(NUM_FEATURES, 24, 1.0, dtype=DOUBLE)
    last_layer = LastLayerALD(features, potential, train, 2, chains=3, step_size=0.05)
    for _ in range(5):
        last_layer.step()
    sampler = sampler_from_encoder(last_layer, potential, x, step_size=0.1)
    assert type(sampler) is MALA, "the kernel where none is given"
    assert sampler.z.shape == (NUM_DATA, 3, 2)
    assert torch.equal(sampler.z, last_layer(x))
    weight = last_layer.weight.clone()
    assert not torch.equal(sampler.step(), last_layer(x))
    assert torch.equal(last_layer.weight, weight)
    with pytest.raises(ValueError, match=r"chains: got 4 for encoder outputs of shape \(12, 3, 2\), expected None"):
        sampler_from_encoder(last_layer, potential, x, chains=4, step_size=0.1)
