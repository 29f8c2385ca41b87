"""One posterior in one call: exact answers, structures and constraints, warm-up, errors in one line."""

from __future__ import annotations

import math
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Exponential, Gamma, Normal, constraints

from ald_ext.samplers import (
    HMC,
    MALA,
    CapturedPotential,
    DynamicHMC,
    GaussianPotential,
    LangevinDynamics,
    LinearGaussianPotential,
    MetropolisSampler,
    SampleStorage,
    UnderdampedLangevin,
    collect,
    metropolis,
    monte_carlo_standard_error,
    sample,
    warm_up,
)
from ald_ext.samplers.adaptation import ENERGY_VARIANCE, PooledCovariance, windows
from ald_ext.samplers.dynamic_hmc import van_der_corput
from ald_ext.samplers.leapfrog import by_mass_factor
from ald_ext.samplers.potential import potential_and_gradient

pytest.importorskip("arviz_stats")

DTYPE = torch.float64


def assert_within_errors(draws: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Mean and variance of draws (draws, 1, chains, d), each within 5 Monte Carlo standard errors."""
    for values, expected in ((draws, mean), ((draws - mean).square(), variance)):
        error = monte_carlo_standard_error(values)[0]
        deviation = (values.mean((0, 1, 2)) - expected).abs()
        assert (deviation < 5 * error).all(), (deviation / error).max()
        assert (error < 0.2 * variance.sqrt().clamp_min(variance)).all()


def correlated_gaussian(d: int, condition: float) -> GaussianPotential:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=DTYPE))
    covariance = (basis * torch.logspace(0, math.log10(condition), d, dtype=DTYPE)) @ basis.T
    return GaussianPotential(torch.arange(d, dtype=DTYPE), (covariance + covariance.T) / 2)


@pytest.mark.parametrize("mass_matrix", ["auto", "diagonal"])
def test_a_badly_scaled_gaussian(mass_matrix: str) -> None:
    target = correlated_gaussian(10, 100.0)
    posterior = sample(
        lambda z: -target(None, z[None])[0],
        (10,),
        mass_matrix=mass_matrix,
        num_samples=300,
        warm_up=200,
        dtype=DTYPE,
        seed=3,
    )
    assert posterior.samples.shape == (300, 16, 10)
    assert_within_errors(posterior.samples[:, None], target.mean, target.covariance.diag())
    assert posterior.r_hat.max() < 1.05
    assert posterior.divergences.tolist() == [0] * 16
    torch.testing.assert_close(posterior.mean, posterior.samples.mean((0, 1)))


def test_a_dictionary_with_constraints_and_a_nested_one() -> None:
    """A rate with a conjugate prior, of which the posterior is Gamma(5, 8), beside a normal one in two dimensions."""
    counts = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0])

    def log_density(p: Any) -> Tensor:
        rate, place = p["rate"], p["inner"]["place"]
        poisson = (counts * rate.log() - rate).sum()
        return Gamma(1.0, 3.0).log_prob(rate) + poisson + Normal(2.0, 0.5).log_prob(place).sum()

    shapes = {"rate": (), "inner": {"place": (2,)}}
    posterior = sample(log_density, shapes, constraints={"rate": constraints.positive}, num_samples=500, seed=1)
    assert posterior.samples["inner"]["place"].shape == (500, 16, 2)
    rate = posterior.samples["rate"]
    assert rate.shape == (500, 16)
    assert (rate > 0).all()
    assert_within_errors(rate[:, None, :, None].double(), torch.tensor([5 / 8]), torch.tensor([5 / 64]))
    place = posterior.samples["inner"]["place"][:, None].double()
    assert_within_errors(place, torch.full((2,), 2.0), torch.full((2,), 0.25))
    assert posterior.mean["inner"]["place"].shape == (2,)
    assert posterior.effective_sample_size["rate"] > 1000
    assert posterior.summary["inner.place"]["sd"].shape == (2,)


def test_shares_on_the_simplex() -> None:
    """Dirichlet(2, 3, 5), sampled in two dimensions by stick breaking."""
    weight = torch.tensor([1.0, 2.0, 4.0])
    posterior = sample(
        lambda p: (weight * p.log()).sum(), (3,), constraints=constraints.simplex, num_samples=500, seed=0
    )
    assert posterior.sampler.z.shape == (1, 16, 2)
    mean = torch.tensor([0.2, 0.3, 0.5])
    assert_within_errors(posterior.samples[:, None].double(), mean, mean * (1 - mean) / 11)


def test_batched_and_starts_of_each_chain() -> None:
    starts = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    options = {"num_samples": 20, "warm_up": 30, "seed": 5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few draws may disagree
        one = sample(lambda z: -z.square().sum() / 2, starts, **options)
        all_at_once = sample(lambda z: -z.square().sum(-1) / 2, starts, batched=True, **options)
        by_shape = sample(lambda z: -z.square().sum() / 2, (3,), chains=4, **options)
    assert one.samples.shape == (20, 4, 3)
    torch.testing.assert_close(one.samples, all_at_once.samples)
    assert not torch.equal(one.samples, by_shape.samples)


def test_the_seed_decides_all() -> None:
    options: dict[str, Any] = {"num_samples": 10, "warm_up": 20, "chains": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second, other = (
            sample(lambda z: -z.square().sum(), (2,), seed=seed, **options).samples for seed in (1, 1, 2)
        )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("kernel", "variance"),
    [(MALA, 1.0), (UnderdampedLangevin, 1.0), (LangevinDynamics, 1 / (1 - 0.2 / 2))],
)
def test_other_kernels(kernel: Any, variance: float) -> None:
    posterior = sample(
        lambda z: -z.square().sum() / 2,
        (2,),
        kernel=partial(kernel, step_size=0.2),
        num_samples=500,
        warm_up=100,
        seed=0,
    )
    assert isinstance(posterior.sampler, kernel)
    assert_within_errors(posterior.samples[:, None].double(), torch.zeros(2), torch.full((2,), variance))


def test_inference_data(tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    xarray = pytest.importorskip("xarray")
    if not hasattr(xarray, "open_datatree"):
        pytest.skip("this xarray has no trees")
    posterior = sample(
        lambda p: -p["a"].square().sum() - p["b"].square(), {"a": (2, 3), "b": ()}, num_samples=100, seed=0
    )
    posterior.save_netcdf(tmp_path / "samples.nc")
    tree = xarray.open_datatree(tmp_path / "samples.nc", engine="h5netcdf")
    assert tree["posterior"]["a"].shape == (16, 100, 2, 3)
    assert tree["posterior"]["a"].dims[:2] == ("chain", "draw")
    torch.testing.assert_close(torch.tensor(tree["posterior"]["b"].values), posterior.samples["b"].T)
    assert tree["sample_stats"]["diverging"].shape == (16, 100)


def test_chains_that_disagree_are_told() -> None:
    """Two modes that no trajectory joins, and each start stays at its own."""
    starts = torch.tensor([[-20.0], [20.0]]).repeat(4, 1)
    with pytest.warns(UserWarning, match=r"^ald_ext.samplers.sample: chains disagree: R-hat is up to \d+"):
        sample(lambda z: -(z.abs() - 20).square().sum() / 2, starts, num_samples=50, warm_up=50, seed=0)


def test_divergences_are_told() -> None:
    """Beyond 1.5 the density is NaN, and trajectories that get there diverge, however small their steps are."""
    with pytest.warns(UserWarning, match="transitions diverged") as warned:
        posterior = sample(
            lambda z: -z.where(z.abs() < 1.5, math.nan).square().sum(),
            torch.zeros(8, 2),
            num_samples=100,
            warm_up=40,
            seed=0,
        )
    told = next(warning for warning in warned if "diverged" in str(warning.message))
    number = int(posterior.divergences.sum())
    assert str(told.message).startswith(f"ald_ext.samplers.sample: {number} transitions")
    assert str(told.message).endswith("or try kernel=partial(DynamicHMC, target_acceptance=0.95)")
    assert told.filename == __file__


def test_a_missing_gradient_is_told() -> None:
    def log_density(p: dict[str, Tensor]) -> Tensor:
        return -p["a"].square() - p["b"].detach().square()

    with pytest.warns(UserWarning, match="got one without a gradient for 'b' at any start") as warned:
        sample(log_density, {"a": (), "b": ()}, num_samples=50, warm_up=40, chains=4, seed=0)
    assert warned[0].filename == __file__


Z = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("log_density", "parameters", "options", "expected"),
    [
        (torch.sum, torch.zeros(3), {}, r"parameters: got shape \(3,\), torch.float32, expected \(4, ...\)"),
        (torch.sum, Z.long(), {}, r"parameters: got shape \(4, 2\), torch.int64, expected floating-point starts"),
        (torch.sum, {"a": Z, "b": Z.double()}, {}, "parameters: b: got torch.float64 on cpu, expected torch.float32"),
        (torch.sum, {"a": 2.5}, {}, r"parameters: a: got 2.5, expected a shape such as \(3,\)"),
        (torch.sum, {}, {}, "parameters: got no element"),
        (torch.sum, {"a": (0,)}, {}, r"parameters: a: got \(0,\), expected a shape"),
        (torch.sum, {"a.b": (), "a": {"b": ()}}, {}, "parameters: got two of the name 'a.b', expected names"),
        (torch.sum, (3,), {"dtype": torch.int64}, "dtype: got torch.int64, expected torch.float32 or torch.float64"),
        (torch.sum, Z, {"dtype": DTYPE}, "dtype: got torch.float64, expected torch.float32, as of the starts"),
        (torch.sum, (3,), {"device": "nowhere"}, "device: got 'nowhere', expected cpu or a GPU"),
        (
            torch.sum,
            (3,),
            {"constraints": constraints.greater_than(torch.zeros(2))},
            r"of shape \(3,\), expected one that",
        ),
        (torch.sum, (), {"constraints": constraints.greater_than(torch.zeros(4))}, r"of shape \(\), expected one that"),
        (lambda z: torch.tensor(z.numpy().sum()), (3,), {}, "log_density: got one that vmap cannot run"),
        (torch.neg, (3,), {}, r"log_density: got a result of shape \(3,\), expected one number"),
        (lambda _: 1.0, (3,), {}, "log_density: got one that vmap cannot run"),
        (lambda z: z.sum() if z[0] > 0 else -z.sum(), (3,), {}, "log_density: got one that vmap cannot run"),
        (torch.sum, (3,), {"batched": True}, r"log_density: got a result of shape \(\), expected \(4,\)"),
        (lambda z: z.sum() / 0, (3,), {}, "log_density: got one that is not finite.* at 4 of 4 starts"),
        (torch.sum, Z - 1, {"constraints": constraints.positive}, "parameters: got values outside or on the boundary"),
        (torch.sum, (3,), {"constraints": {"b": constraints.positive}}, "constraints: got that of 'b', expected those"),
        (torch.sum, (3,), {"constraints": 3}, "constraints: got 3, expected a Constraint"),
        (torch.sum, (3,), {"chains": 1}, "chains: got 1, expected an integer >= 2"),
        (torch.sum, (3,), {"chains": 4.0}, "chains: got 4.0, expected an integer >= 2"),
        (torch.sum, (3,), {"num_samples": 3}, "num_samples: got 3, expected an integer >= 4"),
        (torch.sum, (3,), {"num_samples": 4.5}, "num_samples: got 4.5, expected an integer >= 4"),
        (torch.sum, (3,), {"warm_up": 20.5}, "num_steps: got 20.5, expected an integer >= 20"),
        (torch.sum, (3,), {"seed": 1.5}, "seed: got 1.5, expected an integer, 0 <= seed"),
        (torch.sum, (3,), {"warm_up": 5}, "num_steps: got 5, expected an integer >= 20"),
        (torch.sum, (3,), {"mass_matrix": "full"}, "mass_matrix: got 'full', expected one of identity, diagonal"),
        (torch.sum, (3,), {"seed": -1}, "seed: got -1, expected an integer, 0 <= seed"),
    ],
)
def test_errors_in_one_line(log_density: Any, parameters: Any, options: dict[str, Any], expected: str) -> None:
    options = {"num_samples": 4, "warm_up": 20, "chains": 4, "seed": 0, **options}
    with pytest.raises(ValueError, match=expected) as caught:
        sample(log_density, parameters, **options)
    assert str(caught.value).startswith("ald_ext.samplers.")
    assert "\n" not in str(caught.value)


def test_the_van_der_corput_sequence() -> None:
    assert [van_der_corput(step) for step in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


@pytest.mark.parametrize("num_steps", [20, 57, 300, 1000])
def test_windows_fill_the_warm_up(num_steps: int) -> None:
    *lengths, last = windows(num_steps)
    assert sum(lengths) + last == num_steps
    assert all(later >= earlier for earlier, later in pairwise(lengths))
    assert last == num_steps // 6


@pytest.mark.parametrize("shape", [(3, 2), (3, 5, 2)])
def test_the_covariance_over_steps_and_chains(shape: tuple[int, ...]) -> None:
    draws = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0), dtype=DTYPE) + 1e4
    pooled, diagonal = PooledCovariance(draws[0], dense=True), PooledCovariance(draws[0], dense=False)
    for draw in draws:
        pooled.append(draw)
        diagonal.append(draw)
    of_each = draws.movedim(1, 0).reshape(3, -1, 2)
    count = of_each.shape[1]
    expected = torch.stack([torch.cov(rows.T) for rows in of_each])
    shrunk = (expected + torch.diag_embed(5e-3 / count * expected.diagonal(dim1=1, dim2=2))) * count / (count + 5)
    torch.testing.assert_close(pooled.estimate(), shrunk)
    torch.testing.assert_close(diagonal.estimate()[:, 0], shrunk.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("sampler_class", [HMC, MALA, DynamicHMC])
@pytest.mark.parametrize("chains", [(), (6,)])
def test_warm_up_of_many_data(sampler_class: Any, chains: tuple[int, ...]) -> None:
    """Each datum gets its own step size and mass matrix, in scales that differ a thousandfold."""
    scales = torch.logspace(-1.5, 1.5, 4, dtype=DTYPE)

    def potential(x: Tensor, z: Tensor) -> Tensor:
        return ((z / x) ** 2).sum(1) / 2

    x = scales[:, None] * torch.tensor([1.0, 5.0], dtype=DTYPE)
    options = {"num_leapfrog_steps": 4} if sampler_class is HMC else {}
    sampler = sampler_class(potential, x, torch.zeros(4, *chains, 2, dtype=DTYPE), step_size=0.01, seed=0, **options)
    warm_up(sampler, 300)
    variance = sampler.inverse_mass_matrix.diagonal(dim1=1, dim2=2)
    assert (variance / x.square()).log().abs().max() < math.log(3)
    assert sampler.step_size.min() > 0.3
    assert sampler.adaptation_steps_left == 0
    if chains:
        draws = collect(sampler, 400)
        for datum in range(4):
            values = draws[:, datum : datum + 1]
            assert_within_errors(values / x[datum], torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize(("temperature", "chains"), [(1.0, (6,)), (4.0, (6,)), (1.0, ())])
def test_warm_up_without_a_metropolis_test(temperature: float, chains: tuple[int, ...]) -> None:
    """On Gaussians whose sds are 1 in units of the mass matrix, ΔE of a leapfrog step has the variance d h⁶/16."""
    x = torch.tensor([[0.01, 0.1], [1.0, 10.0], [100.0, 1000.0]], dtype=DTYPE)
    z = torch.zeros(3, *chains, 2, dtype=DTYPE)
    sampler = UnderdampedLangevin(
        lambda x, z: ((z / x) ** 2).sum(1) / 2, x, z, step_size=0.01, temperature=temperature, seed=0
    )
    warm_up(sampler, 200)
    assert sampler.inverse_mass_matrix is not None
    variance = temperature * x.square()
    assert (sampler.inverse_mass_matrix[:, 0] / variance).log().abs().max() < math.log(2)
    # M holds T, so that lengths of time do, too.
    expected = (16 * ENERGY_VARIANCE) ** (1 / 6) / temperature**0.5
    assert abs(math.log(sampler.step_size / expected)) < 0.25
    assert sampler.num_gradients > 200
    if chains:
        draws = collect(sampler, 400)
        for datum in range(3):
            values = draws[:, datum : datum + 1] / variance[datum].sqrt()
            assert_within_errors(values, torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize("kernel", [partial(HMC, num_leapfrog_steps=3), MALA, DynamicHMC, UnderdampedLangevin])
def test_a_state_holds_what_a_warm_up_found(kernel: Any, tmp_path: Path) -> None:
    target = correlated_gaussian(3, 20.0)
    make = partial(kernel, target, None, torch.zeros(1, 4, 3, dtype=DTYPE), step_size=0.1)
    sampler = make(seed=0)
    warm_up(sampler, np.int64(30))  # type: ignore[arg-type]
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = torch.stack([sampler.step() for _ in range(5)])
    resumed = make(seed=1)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.stack([resumed.step() for _ in range(5)]), expected)
    if kernel is not UnderdampedLangevin:
        assert torch.equal(resumed.acceptance_rate, sampler.acceptance_rate)


@pytest.mark.parametrize(("kernel", "name"), [(UnderdampedLangevin, "step_size"), (DynamicHMC, "trajectory_length")])
def test_what_a_warm_up_sets_can_be_set_to_what_makes_sense(kernel: Any, name: str) -> None:
    """A trajectory of length 0 would leave every chain where it is, without a word."""
    sampler = kernel(correlated_gaussian(3, 20.0), None, torch.zeros(1, 4, 3, dtype=DTYPE), step_size=0.1)
    setattr(sampler, name, 0.5)
    for value in (0.0, -1.0, math.nan):
        expected = f"{kernel.__name__}: {name}: got {value}, expected a finite number > 0"
        with pytest.raises(ValueError, match=expected):
            setattr(sampler, name, value)
    assert getattr(sampler, name) == 0.5


def test_a_state_within_an_adaptation_goes_on_with_it() -> None:
    target = correlated_gaussian(3, 20.0)
    first, second = (MALA(target, None, torch.zeros(1, 4, 3, dtype=DTYPE), step_size=0.1, seed=0) for _ in range(2))
    first.adapt_for(20)
    for _ in range(10):
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(15):
        assert torch.equal(first.step(), second.step())
    assert torch.equal(first.step_size, second.step_size)


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("chains", [(), (3,)])
def test_a_mass_matrix_for_each_datum(kind: str, chains: tuple[int, ...]) -> None:
    """It does what each matrix does by itself."""
    target = correlated_gaussian(2, 10.0)
    matrices = torch.stack([torch.eye(2, dtype=DTYPE), target.covariance, torch.diag(target.covariance.diag())])
    matrices = matrices.diagonal(dim1=1, dim2=2)[:, None] if kind == "diagonal" else matrices
    z = torch.randn(3, *chains, 2, generator=torch.Generator().manual_seed(2), dtype=DTYPE)
    options: dict[str, Any] = {"step_size": 0.3, "num_leapfrog_steps": 3, "seed": 4}
    index = torch.arange(3)
    x = torch.zeros(3)
    together = HMC(target, x, z, inverse_mass_matrix=matrices, index=index, **options)
    states = torch.stack([together.step() for _ in range(5)])
    for datum, matrix in enumerate(matrices):
        part = slice(datum, datum + 1)
        own = matrix[0] if kind == "diagonal" else matrix
        alone = HMC(target, x[part], z[part], inverse_mass_matrix=own, index=index[part], **options)
        torch.testing.assert_close(torch.stack([alone.step() for _ in range(5)]), states[:, part])
    scaled = by_mass_factor(together._mass_factor, states[-1])
    torch.testing.assert_close(together.whitened(scaled), states[-1], msg="whitened is not the inverse")


def test_a_captured_potential_is_the_potential() -> None:
    target = LinearGaussianPotential(torch.zeros(2), torch.eye(2), torch.eye(2))
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"step_size": 0.1, "num_leapfrog_steps": 3, "seed": 0}
    expected = collect(HMC(target, x, torch.zeros(3, 2, 2), **options), 5)
    captured = CapturedPotential(target)
    torch.testing.assert_close(collect(HMC(captured, x, torch.zeros(3, 2, 2), **options), 5), expected)
    assert torch.equal(captured(x, x), target(x, x))


def test_a_captured_potential_follows_its_tensors() -> None:
    scale = torch.ones(())
    captured = CapturedPotential(lambda _, z: z.square().sum(1) * scale)
    z = torch.ones(2, 3)
    assert captured.value_and_gradient(None, z)[0].tolist() == [3, 3]
    scale.fill_(2)
    value, gradient = captured.value_and_gradient(None, z)
    assert value.tolist() == [6, 6]
    assert torch.equal(gradient, 4 * z)


def test_a_captured_potential_follows_parameters_of_a_module() -> None:
    """Whose data are replaced, as torch.nn.utils.vector_to_parameters does; and no graph of autograd is kept."""
    layer = torch.nn.Linear(3, 2, dtype=DTYPE)
    potential = CapturedPotential(lambda _, z: layer(z).square().sum(1))
    z = torch.ones(1, 4, 3, dtype=DTYPE)
    sampler = HMC(potential, None, z, step_size=0.1, num_leapfrog_steps=2, seed=0)
    assert not sampler._gradient.requires_grad
    torch.nn.utils.vector_to_parameters(torch.linspace(-1, 1, 8, dtype=DTYPE), layer.parameters())
    sampler.refresh()
    expected = potential_and_gradient(potential.potential, None, z[0])
    torch.testing.assert_close(sampler._potential[0], expected[0])
    torch.testing.assert_close(sampler._gradient[0], expected[1])
    with torch.no_grad():
        torch.testing.assert_close(potential.gradient(None, z[0]), expected[1])


INDEX = torch.tensor([2, 0, 2])


@pytest.mark.parametrize(
    "potential",
    [
        lambda _, z: -torch.nn.functional.logsigmoid(100 * z).sum(1) + z.square().sum(1) / 2,
        lambda _, z: z[:, INDEX].sum(1),  # whose gradient is a constant that autograd writes to
        lambda _, z: z.sum(1),
        lambda _, z: z[:, :2].cumsum(1).exp().sum(1) + (z @ torch.ones(3, 3, dtype=DTYPE).T).prod(1),
    ],
    ids=["log sigmoid", "index", "constant gradient", "slice"],
)
def test_a_captured_gradient_is_that_of_autograd(potential: Any) -> None:
    captured = CapturedPotential(potential)
    for seed in range(3):
        z = torch.randn(4, 3, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))
        expected = potential_and_gradient(potential, None, z)
        for found, exact in zip(captured.value_and_gradient(None, z), expected, strict=True):
            torch.testing.assert_close(found, exact)
        torch.testing.assert_close(captured.gradient(None, z), expected[1])


def test_a_captured_log_sigmoid_at_its_limits() -> None:
    captured = CapturedPotential(lambda _, z: torch.nn.functional.logsigmoid(z).sum(1))
    z = torch.tensor([[-1e4], [-90.0], [-1.0], [0.0], [1.0], [1e4]])
    value, gradient = captured.value_and_gradient(None, z)
    torch.testing.assert_close(value.double(), torch.nn.functional.logsigmoid(z.double())[:, 0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(gradient.double(), torch.sigmoid(-z.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("mass", "chains"), [(None, 2), ("diagonal", None), ("dense", 2)])
def test_blocks_of_leapfrog_steps(monkeypatch: pytest.MonkeyPatch, mass: str | None, chains: int | None) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # what it makes faster
    monkeypatch.setattr(metropolis, "BLOCK", 2)
    target = LinearGaussianPotential(torch.zeros(2), torch.eye(2), torch.eye(2))
    x, matrix = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.3], [0.3, 0.5]])
    matrices = {"diagonal": matrix.diagonal(), "dense": matrix}
    options: dict[str, Any] = {"step_size": 0.1, "num_leapfrog_steps": 4, "seed": 0}
    options["inverse_mass_matrix"] = matrices.get(mass or "")
    z = torch.zeros(1, 2) if chains is None else torch.zeros(1, chains, 2)
    expected, blocks = HMC(target, x, z, **options), HMC(CapturedPotential(target, compile=True), x, z, **options)
    torch.testing.assert_close(collect(blocks, 5), collect(expected, 5))
    for length in (1, 3):  # a trajectory by itself, and the end of another
        blocks.num_leapfrog_steps = expected.num_leapfrog_steps = length
        torch.testing.assert_close(collect(blocks, 5), collect(expected, 5))
    assert blocks.num_gradients == expected.num_gradients


def test_divergences_of_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    options: dict[str, Any] = {"step_size": 100.0, "seed": 0}
    target, z = lambda _, z: z.pow(4).sum(1), torch.ones(1, 4, 2)
    expected, compiled = (MALA(each, None, z, **options) for each in (target, CapturedPotential(target, compile=True)))
    with pytest.warns(UserWarning, match="diverged"):
        assert torch.equal(collect(compiled, 3), z.expand(3, *z.shape))
    with pytest.warns(UserWarning, match="diverged"):
        collect(expected, 3)
    assert torch.equal(compiled.divergences, expected.divergences)
    assert int(compiled.divergences.min()) == 3


def compiled_and_plain(kernel: type[MetropolisSampler], **options: Any) -> list[MetropolisSampler]:
    """Return two samplers of 3 data with 2 chains each."""
    target, x = LinearGaussianPotential(torch.zeros(2), torch.eye(2), torch.eye(2)), torch.arange(6.0).view(3, 2)
    options = {"step_size": 0.3, "seed": 0, **options}
    potentials = CapturedPotential(target, compile=True), target
    return [kernel(potential, x, torch.zeros(3, 2, 2), **options) for potential in potentials]


@pytest.mark.parametrize(
    ("kernel", "options", "at_once"),
    [
        (MALA, {}, True),
        (MALA, {"temperature": 0.5, "inverse_mass_matrix": torch.tensor([[1.0, 0.3], [0.3, 0.5]])}, True),
        (MALA, {"adapt_steps": 5}, True),
        (HMC, {"num_leapfrog_steps": 2}, True),
        (HMC, {"num_leapfrog_steps": 3}, False),
        (HMC, {"num_leapfrog_steps": 1, "jitter": 0.1}, False),
        (DynamicHMC, {"max_leapfrog_steps": 1}, False),
    ],
)
def test_several_compiled_steps_at_once(
    monkeypatch: pytest.MonkeyPatch, kernel: Any, options: dict[str, Any], at_once: bool
) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    monkeypatch.setattr(metropolis, "BLOCK", 4)
    compiled, plain = compiled_and_plain(kernel, **options)
    ran = watch_methods(monkeypatch)
    for number in (5, 1, 17):  # more than a block, less, and two of them after a state that is no block's
        torch.testing.assert_close(list(compiled.steps(number)), list(plain.steps(number)))
        assert torch.equal(compiled.acceptance_rate.nan_to_num(), plain.acceptance_rate.nan_to_num())
    counts = [(each.step_count, each.num_gradients, each.adaptation_steps_left) for each in (compiled, plain)]
    assert counts[0] == counts[1]
    assert ("_transitions" in ran) == at_once
    loaded = compiled_and_plain(kernel, **options)[0]
    loaded.load_state_dict(compiled.state_dict())
    torch.testing.assert_close(list(loaded.steps(5)), list(plain.steps(5)))


def watch_methods(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that will have the names of the methods that run as compiled functions."""
    ran: list[str] = []
    original = CapturedPotential.run_compiled

    def run(potential: CapturedPotential, sampler: Any, method: str, *inputs: Any) -> tuple[Tensor, ...]:
        ran.append(method)
        return original(potential, sampler, method, *inputs)

    monkeypatch.setattr(CapturedPotential, "run_compiled", run)
    return ran


@pytest.mark.parametrize("change", ["temperature", "step", "seed", "potential", "state"])
def test_a_sampler_that_is_changed_between_compiled_steps(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    samplers = compiled_and_plain(MALA)
    other = compiled_and_plain(MALA)

    def run(sampler: MetropolisSampler, potential: Any, state: dict[str, Any]) -> list[Tensor]:
        states = []
        for number, z in enumerate(sampler.steps(16)):
            states.append(z)
            if number == 2 and change == "temperature":
                sampler.temperature = 3.0
            elif number == 2 and change == "step":
                states.append(sampler.step())
            elif number == 2 and change == "seed":
                sampler.seed = 5
            elif number == 2 and change == "potential":
                sampler.potential = potential
                sampler.refresh()
            elif number == 2 and change == "state":
                sampler.load_state_dict(state)
        return states

    scaled = GaussianPotential(torch.ones(2), 9 * torch.eye(2))
    potentials = CapturedPotential(scaled, compile=True), scaled
    states = [each.state_dict() for each in other]
    got, expected = map(run, samplers, potentials, states)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got[-1], list(other[1].steps(16))[-1]) or change == "step"


def test_steps_in_vain_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sampler is changed after every step."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    ran = watch_methods(monkeypatch)
    sampler: Any = compiled_and_plain(MALA)[0]
    for number, _ in enumerate(sampler.steps(20)):
        sampler.note = number
    assert ran.count("_transitions") == 2


def test_jitter_that_is_set_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    samplers: list[Any] = compiled_and_plain(HMC, num_leapfrog_steps=1)
    for sampler in samplers:
        sampler.jitter = 0.5
    torch.testing.assert_close(*(list(sampler.steps(9)) for sampler in samplers))


@pytest.mark.parametrize("of_class", [True, False])
@pytest.mark.parametrize("name", ["step", "_advance", "_propose"])
def test_steps_by_ones_own_method(monkeypatch: pytest.MonkeyPatch, name: str, of_class: bool) -> None:
    """Of a subclass, or of an instance, in the midst of steps that were computed ahead."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    sampler = compiled_and_plain(type("Own", (MALA,), {}))[0]
    owner, steps, calls = type(sampler) if of_class else sampler, sampler.steps(12), []
    original, first = getattr(owner, name), [] if of_class else [next(steps)]

    def own(*args: Any) -> Any:
        calls.append(name)
        return original(*args)

    setattr(owner, name, own)
    assert len([*first, *steps]) == len([*first, *calls]) == 12
    collect(sampler, 10)
    assert len([*first, *calls]) == 22


@pytest.mark.parametrize("kernel", [MALA, LangevinDynamics])
def test_the_number_of_steps(kernel: Any) -> None:
    sampler, number = compiled_and_plain(kernel)[1], torch.tensor(2)
    assert len(list(sampler.steps(number))) == number == 2
    assert list(sampler.steps(-1)) == []
    with pytest.raises(TypeError, match="float"):
        next(sampler.steps(2.5))


@pytest.mark.parametrize(("kernel", "options"), [(MALA, {}), (HMC, {"num_leapfrog_steps": 2})])
def test_compiled_steps_are_the_plain_ones(kernel: Any, options: dict[str, Any]) -> None:
    """By torch.compile itself, and the same bits from whatever state a block begins."""
    compiled, plain = compiled_and_plain(kernel, **options)
    together = collect(compiled, 17)
    torch.testing.assert_close(together, collect(plain, 17))
    apart = compiled_and_plain(kernel, **options)[0]
    assert torch.equal(torch.cat([collect(apart, 3), collect(apart, 14)]), together)


def test_divergences_of_several_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    ran = watch_methods(monkeypatch)
    options: dict[str, Any] = {"step_size": 100.0, "seed": 0}
    target, z = lambda _, z: z.pow(4).sum(1), torch.ones(1, 4, 2)
    expected, compiled = (MALA(each, None, z, **options) for each in (target, CapturedPotential(target, compile=True)))
    storages = [SampleStorage(), SampleStorage()]
    for sampler, storage in zip((compiled, expected), storages, strict=True):
        with pytest.warns(UserWarning, match="diverged"):
            collect(sampler, 40, into=storage)
    assert "_transitions" in ran
    assert storages[0].diverging is not None
    assert torch.equal(storages[0].diverging, storages[1].diverging)
    assert torch.equal(compiled.divergences, expected.divergences)
    assert compiled.num_gradients == expected.num_gradients == 41
    assert ran.count("_transitions") == 3, "after 0, 8 and 16 steps more"


def test_large_states_make_their_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    monkeypatch.setattr(metropolis, "MOST_ELEMENTS", 11)
    ran = watch_methods(monkeypatch)
    compiled, plain = compiled_and_plain(MALA)
    torch.testing.assert_close(list(compiled.steps(9)), list(plain.steps(9)))
    assert "_transitions" not in ran


@pytest.mark.parametrize(
    ("potential", "error", "expected"),
    [
        (lambda _, z: z.sum(), RuntimeError, r"CapturedPotential: potential: got a result of shape \(\)"),
        (lambda _, z: z.sum(1) if z[0, 0] > 0 else -z.sum(1), ValueError, "potential: got one that cannot be traced"),
    ],
)
def test_errors_of_captured_potentials(potential: Any, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        CapturedPotential(potential).value_and_gradient(None, torch.ones(2, 2))


def test_distributions_validate_again_after_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch.compile has turned it off for the whole process
    CapturedPotential(lambda _, z: -Exponential(z.exp()).log_prob(z.exp()).sum(1)).value_and_gradient(
        None, torch.ones(2, 2)
    )
    with pytest.raises(ValueError, match="Expected parameter"):
        Normal(0.0, torch.tensor(-1.0))


def test_a_warm_up_says_what_it_cannot_adapt() -> None:
    langevin: Any = LangevinDynamics(lambda _, z: z.square().sum(1), None, torch.zeros(1, 4, 2), step_size=0.1)
    with pytest.raises(
        ValueError, match="warm_up: sampler: got a LangevinDynamics, expected one of MALA, HMC, DynamicHMC, Underdamped"
    ):
        warm_up(langevin, 20)
    underdamped = UnderdampedLangevin(lambda _, z: z.square().sum(1), None, torch.zeros(1, 4, 2), step_size=0.1)
    with pytest.raises(ValueError, match="mass_matrix: got 'dense' for an UnderdampedLangevin, expected 'diagonal'"):
        warm_up(underdamped, 20, mass_matrix="dense")
    underdamped.temperature = 0.0
    with pytest.raises(ValueError, match="warm_up: sampler: got one of temperature 0, expected one > 0"):
        warm_up(underdamped, 20)
    at_a_point = MALA(lambda _, z: z.sum(1).where((z == 0).all(1), math.inf), None, torch.zeros(1, 4, 2), step_size=0.1)
    with pytest.raises(
        ValueError, match=r"warm_up: sampler: got chains that did not move in \d+ steps, expected other"
    ):
        warm_up(at_a_point, 20)
