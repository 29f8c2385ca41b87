"""Moments in one pass, against two passes, arviz-stats, and AR(1) chains, whose autocorrelation is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext.samplers import diagnostics
from ald_ext.samplers.streaming import StreamingMoments


def autoregressive(draws: int, n: int, chains: int, d: int, rho: float, seed: int = 0) -> Tensor:
    """z ← ρz + √(1-ρ²)ε, stationary, of variance 1; (draws, n, chains, d). ESS of the mean: total·(1-ρ)/(1+ρ)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(draws, n, chains, d, generator=generator, dtype=torch.float64)
    for t in range(1, draws):
        z[t] = rho * z[t - 1] + (1 - rho**2) ** 0.5 * z[t]
    return z


def stream(samples: Tensor, **options: Any) -> StreamingMoments:
    moments = StreamingMoments(**options)
    for draw in samples:
        moments.append(draw)
    return moments


@pytest.mark.parametrize("draws", [2, 63, 64, 65, 1000])
def test_moments_are_those_of_two_passes(draws: int) -> None:
    # An offset far larger than the spread, which sums of squares would lose.
    samples = autoregressive(draws, 3, 2, 4, 0.5) + 1e6
    pooled = samples.movedim(2, 1).flatten(0, 1)
    moments = stream(samples, covariance=True)
    torch.testing.assert_close(moments.mean, pooled.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(moments.variance, pooled.var(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(stream(samples).variance, pooled.var(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(moments.chain_means, samples.mean(0), rtol=1e-13, atol=0)
    for datum in range(3):
        torch.testing.assert_close(moments.covariance[datum], torch.cov(pooled[:, datum].T), rtol=1e-7, atol=1e-7)


def test_float32_draws_are_accumulated_in_float64() -> None:
    samples = autoregressive(500, 2, 1, 3, 0.0).float() + 1000
    moments = stream(samples.squeeze(2))
    torch.testing.assert_close(moments.variance, samples.double().squeeze(2).var(0), rtol=1e-9, atol=0)
    assert moments.mean.shape == (2, 3)


@pytest.mark.parametrize("draws", [10, 64, 128, 256, 1024])
def test_split_r_hat_is_the_textbook_number_at_full_batches(draws: int) -> None:
    pytest.importorskip("arviz_stats")
    samples = autoregressive(draws, 3, 4, 2, 0.7)
    samples[:, 0, 0] += 2  # a datum whose chains disagree
    expected = diagnostics.r_hat(samples, "split")
    for covariance in (False, True):
        got = stream(samples, covariance=covariance).r_hat
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    assert (expected[0] > 1.1).all()


def test_split_r_hat_between_full_batches() -> None:
    pytest.importorskip("arviz_stats")
    samples = autoregressive(2 * 1000 + 77, 3, 4, 2, 0.5)
    samples[:, 0] += torch.linspace(0, 3, len(samples), dtype=torch.float64)[:, None, None]  # a trend within chains
    expected = diagnostics.r_hat(samples, "split")
    torch.testing.assert_close(stream(samples).r_hat, expected, rtol=0.03, atol=0)
    assert (expected[0] > 1.2).all()


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_autoregressive_chains(rho: float) -> None:
    """The mean over 60 variables is right to 5 of its standard errors, plus the bias for short batches.

    With k batches a variable, k - 1 degrees of freedom, 1/σ² of a chi-squared law has the mean (k-1)/(k-3) and the
    relative standard deviation √(2/(k-5)).
    """
    draws, chains = 4096, 4
    samples = autoregressive(draws, 20, chains, 3, rho)
    exact = draws * chains * (1 - rho) / (1 + rho)
    moments = stream(samples)
    degrees = 64 * chains - 1
    error = (2 / (degrees - 4) / 60) ** 0.5
    bias = 2 * rho / (1 - rho**2) / moments.batch_size + 2 / (degrees - 2)
    ratio = float(moments.effective_sample_size.mean()) / exact
    assert abs(ratio - 1) < 5 * error + bias
    pytest.importorskip("arviz_stats")
    # arviz-stats' own estimates of the same have a spread of a few percent here.
    theirs = diagnostics.effective_sample_size(samples, "mean").mean()
    assert abs(float(moments.effective_sample_size.mean() / theirs) - 1) < 0.1 + bias


def test_the_standard_error_is_that_of_the_mean() -> None:
    """Over 400 independent variables, errors of the mean in standard errors have a variance of about 1."""
    samples = autoregressive(1000, 200, 2, 2, 0.8)
    moments = stream(samples)
    scores = moments.mean / moments.monte_carlo_standard_error
    bias = 2 * 0.8 / (1 - 0.8**2) / moments.batch_size
    assert abs(float(scores.square().mean()) - 1) < 5 * (2 / 400) ** 0.5 + bias


def test_chains_that_disagree_have_a_small_effective_sample_size() -> None:
    samples = autoregressive(1024, 1, 4, 1, 0.0)
    samples += torch.arange(4, dtype=torch.float64)[None, None, :, None]
    # Batches of 16 draws have the variance 1/16 within chains, 1.25 between them; single draws 2.25.
    expected = 4096 * 2.25 / (16 * (1 / 16 + 1.25))
    assert abs(float(stream(samples).effective_sample_size) / expected - 1) < 0.2


def test_a_constant() -> None:
    moments = stream(torch.ones(100, 2, 3, 1))
    assert (moments.effective_sample_size == 300).all()
    assert (moments.monte_carlo_standard_error == 0).all()


@pytest.mark.parametrize(("first", "second"), [(10, 20), (64, 64), (100, 1000), (1000, 100), (512, 512), (1, 700)])
def test_merged_draws(first: int, second: int) -> None:
    samples = autoregressive(first + second, 3, 2, 2, 0.5)
    merged, later = stream(samples[:first], covariance=True), stream(samples[first:], covariance=True)
    later_count = later.count
    merged.merge(later, along="draws")
    whole = stream(samples, covariance=True)
    torch.testing.assert_close(merged.mean, whole.mean)
    torch.testing.assert_close(merged.covariance, whole.covariance)
    assert merged.count == first + second
    assert later.count == later_count
    torch.testing.assert_close(merged.effective_sample_size, whole.effective_sample_size, rtol=1.0, atol=0)
    torch.testing.assert_close(merged.r_hat, whole.r_hat, rtol=0.1, atol=0)
    if first == second:  # no rest between the two
        torch.testing.assert_close(merged.effective_sample_size, whole.effective_sample_size)
        torch.testing.assert_close(merged.r_hat, whole.r_hat)


def test_a_merged_pass_goes_on_within_a_batch() -> None:
    """64 draws are full batches; the 71 after them end within one, which later draws complete."""
    samples = autoregressive(200, 3, 2, 2, 0.5)
    merged = stream(samples[:64])
    merged.merge(stream(samples[64:135]), along="draws")
    for draw in samples[135:]:
        merged.append(draw)
    whole = stream(samples)
    torch.testing.assert_close(merged.effective_sample_size, whole.effective_sample_size)
    torch.testing.assert_close(merged.r_hat, whole.r_hat)


def test_merged_chains_are_the_same_as_together() -> None:
    samples = autoregressive(333, 3, 5, 2, 0.5)
    merged = stream(samples[:, :, :2])
    merged.merge(stream(samples[:, :, 2:]), along="chains")
    whole = stream(samples)
    for name in ("mean", "variance", "effective_sample_size", "r_hat", "monte_carlo_standard_error"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))
    empty = StreamingMoments()
    empty.merge(whole, along="draws")
    assert torch.equal(empty.mean, whole.mean)


def test_memory_does_not_grow() -> None:
    moments = stream(torch.zeros(5000, 2, 3), num_batches=16)
    assert moments._batch_means.shape == (16, 2, 1, 3)
    assert 8 <= moments._num_full <= 16
    assert moments.batch_size == 512


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda m: m.append(torch.zeros(2, 4)), r"got shape \(2, 4\), expected \(2, 3\)"),
        (lambda m: m.merge(StreamingMoments(num_batches=8), along="draws"), "num_batches"),
        (lambda m: m.merge(StreamingMoments(), along="rows"), "along: got 'rows'"),
        (lambda m: m.merge(stream(torch.zeros(7, 2, 3)), along="chains"), "got 7 draws a chain, expected 5"),
        (lambda m: m.merge(stream(torch.zeros(5, 1, 3)), along="draws"), r"got draws of shape \(1, 3\)"),
        (lambda m: m.load_state_dict(StreamingMoments(covariance=True).state_dict()), "keeps_covariance=True"),
        (lambda _: StreamingMoments(num_batches=7), "num_batches: got 7"),
    ],
)
def test_errors(action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action(stream(torch.zeros(5, 2, 3)))


def test_results_need_draws() -> None:
    with pytest.raises(RuntimeError, match="got 0 draws, expected 1 at least"):
        _ = StreamingMoments().mean
    with pytest.raises(RuntimeError, match="expected covariance=True"):
        _ = stream(torch.zeros(5, 2, 3)).covariance
