"""Residuals of each datum around an encoder: against exact posteriors, however bad the encoder; checkpoints, errors."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import torch
from samplers.test_last_layer import EXACT, X, assert_moments, blocks, make_potential
from samplers.test_stationary import assert_averages, expected_moments
from torch import Tensor
from torch.distributions import Cauchy, Independent, MultivariateNormal, Normal

from ald_ext.samplers import (
    HMC,
    MALA,
    GaussianEncoder,
    LangevinDynamics,
    ResidualALD,
    TransformedPotential,
    UnderdampedLangevin,
    fit_variational,
    prior_potential,
)

DOUBLE = torch.float64


def exact_encoder(x: Tensor) -> MultivariateNormal:
    mean, covariance = make_potential().posterior(x)
    return MultivariateNormal(mean, covariance.expand(len(x), -1, -1))


def wrong_encoder(x: Tensor) -> MultivariateNormal:
    """Beside the mean, too wide, and turned another way for each datum."""
    factor = torch.tensor([[0.7, 0.0], [-0.3, 0.4]], dtype=DOUBLE) * (1 + 0.3 * x[:, :1, None].abs())
    return MultivariateNormal(x + 0.5, scale_tril=factor)


def diagonal_encoder(x: Tensor) -> Independent:
    return Independent(Normal(0.2 * x, 0.3 + 0.2 * x.abs()), 1)


ENCODERS: dict[str, Any] = {"exact": exact_encoder, "wrong": wrong_encoder, "diagonal": diagonal_encoder}


def make(encoder: str = "wrong", x: Tensor = X, **options: Any) -> ResidualALD:
    common: dict[str, Any] = {"kernel": MALA, "step_size": 0.2, "chains": 2, "seed": 1}
    return ResidualALD(ENCODERS[encoder], make_potential(), x, **{**common, **options})


@pytest.mark.parametrize(("encoder", "batch_size"), [("wrong", 1), ("wrong", 3), ("diagonal", 2)])
@pytest.mark.parametrize(("kernel", "temperature"), [("mala", 1.0), ("hmc", 2.0)])
def test_the_posterior_is_sampled_however_bad_the_encoder(
    kernel: str, encoder: str, batch_size: int, temperature: float
) -> None:
    """Means and covariances of all outputs together, so that data are independent as well."""
    x = X[:3]
    mean, covariance = make_potential().posterior(x)
    options = {**EXACT[kernel], "transitions": 3, "temperature": temperature, "batch_size": batch_size}
    sampler = make(encoder, x, chains=500, seed=3, **options)
    for _ in range(60 * 3 // batch_size):
        sampler.step()
    total: Any = 0
    for _ in range(60):
        z = (sampler.step() - mean[:, None]).movedim(1, 0).flatten(1)
        total = total + torch.cat([z, (z[:, :, None] * z[:, None]).flatten(1)], 1)
    assert_moments(total / 60, blocks(3, temperature * covariance))


@pytest.mark.parametrize("steps", [0, 1])
def test_chains_begin_at_the_draws_of_the_encoder(steps: int) -> None:
    """Those of the exact one are samples at once, and stay samples."""
    sampler = make("exact", X[:2], chains=4000, **EXACT["hmc"])
    for _ in range(steps):
        sampler.step()
    mean, covariance = make_potential().posterior(X[:2])
    z = (sampler.z - mean[:, None]).movedim(1, 0).flatten(1)
    averages = torch.cat([z, (z[:, :, None] * z[:, None]).flatten(1)], 1)
    assert_averages(averages, expected_moments(torch.zeros(4, dtype=DOUBLE), blocks(2, covariance)))


def test_step_sizes_are_in_units_of_the_encoder() -> None:
    """A posterior a thousand times as wide is sampled with the same step: bit for bit, times a power of two."""

    def states(scale: float) -> Tensor:
        def encoder(x: Tensor) -> Independent:
            return Independent(Normal(scale * x, scale * torch.ones_like(x)), 1)

        def potential(x: Tensor, z: Tensor) -> Tensor:
            return (z / scale - x).square().sum(1) / 2

        sampler = ResidualALD(encoder, potential, X, step_size=0.4, num_leapfrog_steps=3, chains=2, seed=0)
        for _ in range(5):
            sampler.step()
        return sampler.z / scale

    torch.testing.assert_close(states(1024.0), states(1.0), rtol=1e-12, atol=1e-12)


def test_a_step_touches_its_minibatch_alone() -> None:
    sampler = make(batch_size=2, outputs="batch", kernel=LangevinDynamics)
    before = sampler.z.clone()
    moved = sampler.step()
    assert moved.shape == (2, 2, 2)
    assert torch.equal(sampler.z[sampler.batch], moved)
    others = [i for i in range(len(X)) if i not in sampler.batch.tolist()]
    assert torch.equal(sampler.z[others], before[others])
    assert (moved != before[sampler.batch]).all()


def test_a_chain_is_the_same_whichever_run_beside_it() -> None:
    both, second = make(chains=2), make(chains=1, first_chain=1)
    for _ in range(3):
        torch.testing.assert_close(second.step(), both.step()[:, 1:], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "transitions": 2}, {"kernel": HMC, "num_leapfrog_steps": 2}])
def test_resumed_run_is_the_same_bit_for_bit(options: dict[str, Any]) -> None:
    sampler = make(**options)
    for _ in range(4):
        sampler.step()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = [sampler.step().clone() for _ in range(5)]
    file.seek(0)
    resumed = make(**{**options, "seed": 2})
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for samples in expected:
        assert torch.equal(resumed.step(), samples)
    assert resumed.acceptance_rate == sampler.acceptance_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"z": torch.zeros(6, 3, 2, dtype=X.dtype)},
            ": z: got float64 of shape [6, 3, 2], expected float64 of shape [",
        ),
        ({"z": torch.zeros(6, 2, 2)}, ": z: got float32 of shape [6, 2, 2], expected float64 of shape [6, 2, 2]"),
        ({"z": torch.zeros(6, 2, 2, dtype=X.dtype).to_sparse()}, ": z: got "),
        ({"z": None}, ": z: got None, expected float64 of shape [6, 2, 2]"),
        ({"step_count": "4"}, ": step_count: got '4', expected int"),
        ({"step_count": -1}, ": step_count: got -1, expected >= 0"),
        ({"seed": -1}, ": seed: got -1, expected 0 <= seed < 2**63"),
        (
            {"divergences": torch.zeros(6, 3).long()},
            ": divergences: got int64 of shape [6, 3], expected int64 of shape",
        ),
        ({"minibatches": {}}, ": minibatches: got no 'generator', expected Tensor of dtype torch.uint8 with 1 dim"),
    ],
    ids=str,
)
def test_states_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    """One line each; the sampler goes on as it was."""
    sampler, untouched = make(batch_size=4), make(batch_size=4)
    with pytest.raises(ValueError, match=re.escape(f"ald_ext.samplers.ResidualALD: state_dict{message}")) as caught:
        sampler.load_state_dict({**make(batch_size=4, seed=2).state_dict(), **changes})
    assert "\n" not in str(caught.value)
    assert torch.equal(sampler.step(), untouched.step())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": torch.arange(5)}, "order: got int64 of shape [5], expected the numbers from 0 to 5, each once"),
        ({"order": torch.zeros(6).long()}, "order: got int64 of shape [6], expected the numbers from 0 to 5"),
        ({"position": 7}, "position: got 7, expected 0 to 6"),
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, "generator: got no state of a generator, expected one ("),
    ],
    ids=str,
)
def test_minibatches_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    sampler = make(batch_size=4)
    state = sampler.state_dict()
    with pytest.raises(ValueError, match=re.escape(f"ResidualALD: state_dict: minibatches: {message}")):
        sampler.load_state_dict({**state, "minibatches": {**state["minibatches"], **changes}})


def test_a_state_without_an_entry() -> None:
    sampler = make()
    state = sampler.state_dict()
    for missing in state.keys() - {"divergences"}:
        with pytest.raises(ValueError, match=f"ResidualALD: state_dict: got no '{missing}', expected "):
            sampler.load_state_dict({name: value for name, value in state.items() if name != missing})
    for nothing in ({}, None, [state]):
        with pytest.raises(ValueError, match="ResidualALD: state_dict: got "):
            sampler.load_state_dict(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 7}, "batch_size: got 7, expected 1 to 6"),
        ({"batch_size": 2.5}, "batch_size: got 2.5, expected 1 to 6"),
        ({"chains": 0}, "chains: got 0, expected an integer >= 1"),
        ({"transitions": 0}, "transitions: got 0, expected >= 1"),
        ({"outputs": "some"}, "outputs: got 'some', expected 'all' or 'batch'"),
        ({"adapt_steps": 5}, "adapt_steps: got a value, expected none"),
        ({"kernel": UnderdampedLangevin}, "kernel: got UnderdampedLangevin, expected one without momenta"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"ResidualALD: {message}"):
        make(**options)


def test_encoders_of_other_distributions_and_other_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder: got a Independent, expected Independent"):
        ResidualALD(lambda x: Independent(Cauchy(x, 1 + x.square()), 1), make_potential(), X, step_size=0.1)
    with pytest.raises(ValueError, match="encoder: got a Tensor, expected Independent"):
        ResidualALD(lambda x: x, make_potential(), X, step_size=0.1)
    shared = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ValueError, match=re.escape("encoder: got means of shape (2,), expected (6, d)")):
        ResidualALD(lambda _: shared, make_potential(), X, step_size=0.1)
    gamma = torch.distributions.Gamma(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0]))
    potential = TransformedPotential(prior_potential(gamma), gamma.support)
    with pytest.raises(ValueError, match=re.escape("temperature: got 2.0, expected 1.0, that of the Transformed")):
        ResidualALD(diagonal_encoder, potential, X, step_size=0.1, temperature=2.0)


def test_an_encoder_is_fitted_on_minibatches() -> None:
    """An affine one finds the exact posterior of 1,000 data, and its draws are nearly always accepted."""
    torch.manual_seed(0)
    x, potential = torch.randn(1000, 2, dtype=DOUBLE), make_potential()
    network = torch.nn.Linear(2, GaussianEncoder.num_outputs(2, "full"), dtype=DOUBLE)
    encoder = GaussianEncoder(network, 2, "full")
    fit_variational(encoder, potential, x, num_steps=400, lr=0.05, num_samples=16, batch_size=50, seed=0)
    mean, covariance = potential.posterior(x)
    fitted = encoder(x)
    torch.testing.assert_close(fitted.mean, mean, rtol=0, atol=0.05)
    torch.testing.assert_close(fitted.covariance_matrix, covariance.expand(1000, -1, -1), rtol=0, atol=0.05)
    sampler = ResidualALD(encoder, potential, x, batch_size=200, seed=0, step_size=0.4, num_leapfrog_steps=4)
    for _ in range(5):
        sampler.step()
    assert sampler.acceptance_rate > 0.95
    with pytest.raises(ValueError, match="fit_variational: batch_size: got 1001, expected 1 to 1000"):
        fit_variational(encoder, potential, x, num_steps=1, batch_size=1001)
