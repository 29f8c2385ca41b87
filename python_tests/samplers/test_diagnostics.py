"""Diagnostics against chains whose autocorrelation is known, and temperatures against targets that are."""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from corpus.chains import FAULTY, autoregressive
from torch import Tensor

from ald_ext.samplers import MALA, GaussianPotential, SampleStorage, collect, diagnostics
from ald_ext.samplers.diagnostics import (
    configurational_temperature,
    effective_sample_size,
    exact_laplacian,
    hutchinson_laplacian,
    monte_carlo_standard_error,
    potential_gradient,
    r_hat,
    summarize,
    virial_temperature,
)

needs_arviz = pytest.mark.skipif(importlib.util.find_spec("arviz_stats") is None, reason="needs arviz-stats")

PRECISION = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 8.0]], dtype=torch.float64)


def quartic(x: Tensor | None, z: Tensor) -> Tensor:
    """U = Σ z⁴/4 + z'Λz/2 + x·z: ∇U = z³ + Λz + x, ΔU = 3‖z‖² + tr Λ."""
    shift = 0 if x is None else (x * z).sum(-1)
    return z.pow(4).sum(-1) / 4 + ((z @ PRECISION) * z).sum(-1) / 2 + shift


@needs_arviz
@pytest.mark.parametrize("method", ["bulk", "mean"])
def test_effective_sample_size(method: str) -> None:
    rho = 0.6
    got = effective_sample_size(autoregressive(2000, 5, 4, 3, rho), method)
    assert got.shape == (5, 3)
    assert abs(float(got.mean()) / (8000 * (1 - rho) / (1 + rho)) - 1) < 0.08  # each has a spread of about 6%


@needs_arviz
def test_axes_are_not_mixed_up() -> None:
    """Of each datum and variable by itself."""
    samples = autoregressive(500, 3, 4, 2, 0.5)
    for statistic in (effective_sample_size, r_hat, monte_carlo_standard_error):
        whole = statistic(samples)
        part = statistic(samples[:, 1:2, :, 1:])
        torch.testing.assert_close(whole[1:2, 1:], part)
    torch.testing.assert_close(effective_sample_size(samples[:, :, 0]), effective_sample_size(samples[:, :, :1]))


@needs_arviz
def test_r_hat_of_chains_that_agree_and_that_do_not() -> None:
    samples = autoregressive(500, 2, 4, 3, 0.2)
    samples[:, 1, 0, 2] += 3
    got = r_hat(samples)
    assert got[1, 2] > 1.2
    got[1, 2] = 1
    assert (got < 1.03).all()


@needs_arviz
def test_r_hat_of_one_chain_compares_its_halves() -> None:
    samples = autoregressive(500, 2, 1, 1, 0.0)
    samples[250:, 1] += 2
    got = r_hat(samples)
    assert got[0, 0] < 1.02
    assert got[1, 0] > 1.2


@needs_arviz
def test_summary() -> None:
    samples = 3 + 2 * autoregressive(1000, 2, 4, 3, 0.5)
    table = summarize(samples)
    assert set(table) == {"mean", "sd", "mcse", "ess_bulk", "ess_tail", "r_hat"}
    assert all(values.shape == (2, 3) for values in table.values())
    torch.testing.assert_close(table["mean"], samples.mean((0, 2)))
    torch.testing.assert_close(table["sd"], samples.movedim(2, 1).flatten(0, 1).std(0))
    assert ((table["mean"] - 3).abs() < 5 * table["mcse"]).all()
    torch.testing.assert_close(table["mcse"], table["sd"] / effective_sample_size(samples, "mean").sqrt())


@needs_arviz
@pytest.mark.parametrize("name", FAULTY)
def test_faults_are_told(name: str) -> None:
    """In the line that called, and no other variable is concerned."""
    kind = FAULTY[name]
    draws = kind.draws()
    with pytest.warns(UserWarning, match=kind.warning) as told:
        table = summarize(draws)
    assert len(told) == 1
    assert all(warning.filename == __file__ and "\n" not in str(warning.message) for warning in told)
    results = {key: values[0, 1].item() for key, values in table.items()}
    size = kind.effective_sample_size
    expected = {"mcse": math.inf if size == 0 else math.nan, "ess_bulk": size, "ess_tail": size, "r_hat": kind.r_hat}
    assert results == pytest.approx({**results, **expected}, nan_ok=True)
    for key, values in table.items():
        values[0, 1] = 1
        assert values.isfinite().all(), key
    single = {"ess_bulk": effective_sample_size, "mcse": monte_carlo_standard_error, "r_hat": r_hat}
    for key, statistic in single.items():
        with pytest.warns(UserWarning, match=kind.warning) as told:
            assert statistic(draws)[0, 1].item() == pytest.approx(expected[key], nan_ok=True)
        assert [warning.filename for warning in told] == [__file__]


@needs_arviz
def test_a_sampler_that_never_moves() -> None:
    z = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1], [0.2, 0.3]])[None]
    sampler = MALA(GaussianPotential(torch.zeros(2), torch.eye(2)), None, z, step_size=1e9, seed=0)
    with pytest.warns(UserWarning, match="all draws are equal in 4 of 4 chains"):
        table = summarize(collect(sampler, 100))
    assert (table["ess_bulk"] == 0).all()
    assert (table["mcse"] == math.inf).all()
    assert (table["r_hat"] == math.inf).all()


@needs_arviz
def test_lone_chains() -> None:
    """Chains given as data are not compared, which is told unless the shape says what is meant."""
    chains = autoregressive(100, 1, 4, 2, 0.3)[:, 0] + 5 * torch.arange(4)[:, None]  # (draws, chains, d)
    for statistic in (summarize, r_hat):
        with pytest.warns(UserWarning, match="count as 4 data with one chain each") as told:
            statistic(chains)
        assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (r_hat(chains[:, None]) > 2).all()
        assert (r_hat(chains[:, :, None]) < 1.1).all()
        r_hat(chains[:, :1])  # one of one
        effective_sample_size(chains)


@needs_arviz
def test_a_storage_is_summarized_with_its_divergences() -> None:
    storage, draws = SampleStorage(), autoregressive(50, 3, 2, 4, 0.3)
    for draw in draws:
        storage.append(draw)
    torch.testing.assert_close(summarize(storage), summarize(draws))
    storage = SampleStorage()
    for number, draw in enumerate(draws):
        storage.append(draw, torch.tensor([[number < 2, number == 7], [False, False], [False, True]]))
    assert summarize(storage)["divergences"].tolist() == [3, 0, 50]


def test_derivatives() -> None:
    x, z = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    gradient = potential_gradient(quartic, x)
    torch.testing.assert_close(gradient(z), z**3 + z @ PRECISION + x[:, None])
    exact = 3 * z.square().sum(-1) + PRECISION.trace()
    torch.testing.assert_close(exact_laplacian(gradient)(z), exact)
    torch.testing.assert_close(exact_laplacian(gradient)(z[:, 0]), exact[:, 0])
    estimate = hutchinson_laplacian(gradient, num_probes=4000)(z)
    # The variance of v'Av for signs v is 2 Σ_{i≠j} a_ij².
    error = (4 * (0.5**2 + 0.2**2) / 4000) ** 0.5
    assert ((estimate - exact).abs() < 5 * error).all()
    assert not torch.equal(estimate[0], estimate[1])
    assert float(exact_laplacian(potential_gradient(lambda _, z: z.sum(-1)))(z).abs().max()) == 0


def test_a_gradient_given_by_hand_and_a_linear_one() -> None:
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(exact_laplacian(lambda z: z @ PRECISION)(z), PRECISION.trace().expand(4))


def temperatures(z: Tensor, nominal: float) -> list[diagnostics.TemperatureEstimate]:
    gradient = potential_gradient(quartic)
    laplacian = hutchinson_laplacian(gradient, 2)
    return [
        configurational_temperature(z, gradient, nominal=nominal),
        configurational_temperature(z, gradient, laplacian, nominal=nominal),
        virial_temperature(z, gradient, nominal=nominal),
    ]


def quartic_samples(temperature: float, draws: int = 90, n: int = 600) -> Tensor:
    """Independent draws from exp(-U/T), by rejection from its Gaussian part."""
    covariance = temperature * torch.linalg.inv(PRECISION)
    z = torch.randn(4 * draws * n, 3, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    accepted = torch.rand(len(z), dtype=torch.float64) < torch.exp(-z.pow(4).sum(-1) / (4 * temperature))
    return z[accepted][: draws * n].view(draws, n, 3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperatures_of_exact_samples(temperature: float) -> None:
    z = quartic_samples(temperature)
    for estimate in temperatures(z, temperature):
        assert estimate.standard_error < 0.02 * temperature
        assert abs(estimate.z_score) < 4.5
    for estimate in temperatures(z, 1.1 * temperature):
        assert estimate.z_score < -5
    # With the axis of chains.
    with_chains = virial_temperature(z.view(90, 150, 4, 3), potential_gradient(quartic))
    assert with_chains.temperature == pytest.approx(temperatures(z, 1.0)[2].temperature)


def test_the_standard_error_is_that_of_a_ratio() -> None:
    """Errors that numerator and denominator share cancel: 2v/v is 2 exactly."""
    v = torch.rand(100, 5, dtype=torch.float64) + 1
    estimate = diagnostics.temperature_of_ratio(2 * v, v, 2.0)
    assert estimate.temperature == pytest.approx(2)
    assert estimate.standard_error < 1e-12
    # Of independent ones, the relative errors add up: 1/√12 of v's and 1/√12 of w's mean of 3/2.
    w = torch.rand(3000, 50, dtype=torch.float64) + 1
    v = torch.rand(3000, 50, dtype=torch.float64) + 1
    expected = (2 / 12 / 1.5**2 / w.numel()) ** 0.5
    assert diagnostics.temperature_of_ratio(w, v, 1.0).standard_error == pytest.approx(expected, rel=0.5)


def test_the_standard_error_knows_of_autocorrelation() -> None:
    """z-scores of 60 chains on N(0, 1) are nearly right: batches of 100 draws, an autocorrelation time of nine."""
    series = autoregressive(3000, 60, 1, 1, 0.8)
    scores = torch.tensor([virial_temperature(series[:, i], lambda z: z).z_score for i in range(60)])
    assert 0.5 < float(scores.square().mean()) < 2
    shuffled = series[torch.randperm(3000)]
    naive = virial_temperature(shuffled[:, 0], lambda z: z).standard_error
    assert virial_temperature(series[:, 0], lambda z: z).standard_error > 1.5 * naive


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: effective_sample_size(torch.zeros(9, 2, 2), "median_"), "method: got 'median_', expected one of bulk"),
        (lambda: r_hat(torch.zeros(9, 2)), r"samples: got shape \(9, 2\), expected"),
        (lambda: virial_temperature(torch.zeros(59, 2, 2), lambda z: z), "z: got 59 draws, expected 60 at least"),
        (lambda: hutchinson_laplacian(lambda z: z, 0), "num_probes: got 0"),
    ],
)
def test_errors(action: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action()


def test_without_arviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(ImportError, match=r"pip install 'ald_ext\[diagnostics\]'"):
        summarize(torch.randn(9, 2, 2, 2))
