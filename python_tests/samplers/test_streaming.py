"""Moments in one pass, against two passes, arviz-stats, and AR(1) chains, whose autocorrelation is known."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from corpus.chains import FAULTY, autoregressive
from torch import Tensor

from ald_ext.samplers import diagnostics
from ald_ext.samplers.streaming import StreamingMoments


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


def r_hat_of_scales(samples: Tensor) -> Tensor:
    """That of |z| for normal chains with the standard deviations that these have."""
    scale = samples.std(0, correction=0)
    mean, variance = scale * (2 / math.pi) ** 0.5, scale**2 * (1 - 2 / math.pi)
    return (1 - 1 / len(samples) + mean.var(1) / variance.mean(1)).sqrt()


@pytest.mark.parametrize("draws", [10, 64, 128, 256, 1024])
def test_split_r_hat_is_the_textbook_number_at_full_batches(draws: int) -> None:
    pytest.importorskip("arviz_stats")
    samples = autoregressive(draws, 3, 4, 2, 0.7)
    samples[:, 0, 0] += 2  # a datum whose chains disagree
    expected = diagnostics.r_hat(samples, "split")
    for covariance in (False, True):
        got = stream(samples, covariance=covariance).r_hat
        torch.testing.assert_close(got, torch.maximum(expected, r_hat_of_scales(samples)), rtol=1e-10, atol=0)
    assert (expected[0] > 1.1).all()
    assert draws < 64 or torch.equal(expected, torch.maximum(expected, r_hat_of_scales(samples)))


def test_split_r_hat_between_full_batches() -> None:
    pytest.importorskip("arviz_stats")
    samples = autoregressive(2 * 1000 + 77, 3, 4, 2, 0.5)
    samples[:, 0] += torch.linspace(0, 3, len(samples), dtype=torch.float64)[:, None, None]  # a trend within chains
    expected = diagnostics.r_hat(samples, "split")
    torch.testing.assert_close(stream(samples).r_hat, expected, rtol=0.03, atol=0)
    assert (expected[0] > 1.2).all()


@pytest.mark.parametrize("draws", [4, 6, 64, 128])
@pytest.mark.parametrize("chains", [1, 3])
def test_effective_sample_size_of_all_draws_is_that_of_arviz(draws: int, chains: int) -> None:
    """As long as no batches are joined, for a number of draws whose halves are equal."""
    pytest.importorskip("arviz_stats")
    samples = torch.cat([autoregressive(draws, 5, chains, 3, rho, seed=draws) for rho in (-0.5, 0.0, 0.6, 0.95)])
    samples = samples.view(4, draws, 5, chains, 3).transpose(0, 1).flatten(1, 2)
    moments = stream(samples)
    expected = diagnostics.effective_sample_size(samples, "mean")
    torch.testing.assert_close(moments.effective_sample_size, expected, rtol=1e-4, atol=0)
    expected = diagnostics.monte_carlo_standard_error(samples)
    torch.testing.assert_close(moments.monte_carlo_standard_error, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("draws", [1000, 3000])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9, 0.95, 0.98, 0.99])
def test_effective_sample_size_of_autoregressive_chains(draws: int, rho: float) -> None:
    """Within a fifth of arviz-stats' own, of the same draws, on the average and nearly always."""
    pytest.importorskip("arviz_stats")
    samples = autoregressive(draws, 10, 4, 4, rho)
    moments = stream(samples)
    theirs = diagnostics.effective_sample_size(samples, "mean")
    ratio = moments.effective_sample_size / theirs
    assert abs(float(ratio.mean()) - 1) < 0.12
    assert float(((ratio - 1).abs() < 0.2).double().mean()) > 0.85
    torch.testing.assert_close(
        moments.monte_carlo_standard_error, moments.standard_deviation / moments.effective_sample_size.sqrt()
    )


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_effective_sample_size_of_long_batches(rho: float) -> None:
    """Of 16,384 draws in batches of 128 each variable's value has an error of some 6% at 4 chains."""
    moments = stream(autoregressive(2**14, 5, 4, 4, rho))
    ratio = moments.effective_sample_size / (2**16 * (1 - rho) / (1 + rho))
    assert moments.batch_size == 128
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float(ratio.std()) < 0.12


def test_few_batches() -> None:
    """Four draws and batches that are long enough do; of shorter ones little is known, and that is told."""
    samples = torch.cat([autoregressive(1000, 1, 4, 1, rho) for rho in (0.0, 0.99)], 3)
    moments = stream(samples, num_batches=16)
    message = "1 of 2 values are NaN, as no more than 16 batches of 64 draws do not tell"
    with pytest.warns(UserWarning, match=message) as told:
        size = moments.effective_sample_size
    assert [warning.filename for warning in told] == [__file__]
    with pytest.warns(UserWarning, match=message):
        error = moments.monte_carlo_standard_error
    assert size.isnan().tolist() == error.isnan().tolist() == [[False, True]]
    assert abs(float(size[0, 0]) / 4000 - 1) < 0.5
    moments = stream(samples[:5], num_batches=4)
    with pytest.warns(UserWarning, match="no more than 4 batches of 2 draws"):
        assert moments.effective_sample_size[0, 1].isnan()
    assert stream(samples[:4], num_batches=4).effective_sample_size.isfinite().all()


def test_the_standard_error_is_that_of_the_mean() -> None:
    """Over 400 independent variables, errors of the mean in standard errors have a variance of about 1."""
    samples = autoregressive(1000, 200, 2, 2, 0.8)
    moments = stream(samples)
    scores = moments.mean / moments.monte_carlo_standard_error
    bias = 2 * 0.8 / (1 - 0.8**2) / moments.batch_size
    assert abs(float(scores.square().mean()) - 1) < 5 * (2 / 400) ** 0.5 + bias


def test_chains_that_disagree_have_a_small_effective_sample_size() -> None:
    pytest.importorskip("arviz_stats")
    samples = autoregressive(1024, 1, 4, 1, 0.0)
    samples += torch.arange(4, dtype=torch.float64)[None, None, :, None]
    expected = diagnostics.effective_sample_size(samples, "mean")
    assert float(expected) < 10
    assert abs(float(stream(samples).effective_sample_size / expected) - 1) < 0.2


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("covariance", [False, True])
def test_faults_are_told(name: str, covariance: bool) -> None:
    kind = FAULTY[name]
    moments = stream(kind.draws(), covariance=covariance)
    size = kind.effective_sample_size
    expected = {
        "effective_sample_size": size,
        "monte_carlo_standard_error": math.inf if size == 0 else math.nan,
        "r_hat": kind.r_hat,
    }
    fault = "all draws are equal" if size == 0 else "draws are not finite"
    for result, value in expected.items():
        with pytest.warns(UserWarning, match=f"StreamingMoments.{result}: {fault} in . of 12 chains, first in") as told:
            got = getattr(moments, result)
        assert [warning.filename for warning in told] == [__file__]
        assert got[0, 1].item() == pytest.approx(value, nan_ok=True)
        got[0, 1] = 1
        assert got.isfinite().all()


def test_chains_that_agree_in_their_means_only() -> None:
    """One of four that hardly moves; of eight that all are well, none is suspected, with heavy tails either."""
    samples = autoregressive(1000, 2, 8, 2, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (stream(samples).r_hat < 1.01).all()
        assert (stream(samples.exp()).r_hat < 1.01).all()
        samples[:, 1, 0, 0] *= 0.05
        got = stream(samples[:, :, :4]).r_hat
        assert got[1, 0] > 1.2
        got[1, 0] = 1
        assert (got < 1.01).all()


def test_lone_chains() -> None:
    chains = autoregressive(100, 1, 4, 2, 0.3)[:, 0]
    with pytest.warns(UserWarning, match="r_hat: draws .* count as 4 data with one chain each") as told:
        stream(chains).r_hat  # noqa: B018
    assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream(chains[:, None]).r_hat  # noqa: B018
        stream(chains).effective_sample_size  # noqa: B018


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
        torch.testing.assert_close(merged.r_hat, whole.r_hat, rtol=2e-3, atol=0)  # distances are from each pass's mean


def test_a_slow_part_of_little_variance_counts() -> None:
    """The sum of a fast and a slow chain, of which a batch shows little but the fast one."""
    z = autoregressive(4000, 1, 4, 8, 0.3) + 0.3 * autoregressive(4000, 1, 4, 8, 0.998, seed=1)
    time = (1.3 / 0.7 + 0.09 * 1.998 / 0.002) / 1.09
    ratio = stream(z).effective_sample_size / (16000 / time)
    assert 0.7 < ratio.mean() < 2


def test_a_merged_pass_goes_on_within_a_batch() -> None:
    """64 draws are full batches; the 71 after them end within one, which later draws complete."""
    samples = autoregressive(200, 3, 2, 2, 0.5)
    merged = stream(samples[:64])
    merged.merge(stream(samples[64:135]), along="draws")
    for draw in samples[135:]:
        merged.append(draw)
    whole = stream(samples)
    torch.testing.assert_close(merged.effective_sample_size, whole.effective_sample_size)
    torch.testing.assert_close(merged.r_hat, whole.r_hat, rtol=2e-3, atol=0)  # distances are from each pass's mean


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


def test_a_state_of_before_loads() -> None:
    """It has 64 batches, which was the default, and no distances from the mean, for which normal ones stand."""
    samples = autoregressive(500, 2, 3, 2, 0.5)
    earlier, whole = stream(samples[:300], num_batches=64), stream(samples, num_batches=64)
    state = earlier.state_dict()
    del state["_deviations"]
    assert set(state) == {
        *("keeps_covariance", "num_batches", "count", "batch_size", "_num_full", "_num_partial", "_shape"),
        *("_mean", "_squares", "_batch_means", "_partial_sum"),
    }
    moments = StreamingMoments()
    moments.load_state_dict(state)
    for draw in samples[300:]:
        moments.append(draw)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(getattr(moments, key), value, rtol=0.05 * (key == "_deviations"), atol=0)
    empty = StreamingMoments()
    empty.load_state_dict(
        {key: value for key, value in StreamingMoments().state_dict().items() if key[:2] not in ("_m", "_d")}
    )
    empty.append(samples[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": "5"}, "state: count: got '5', expected int"),
        ({"count": -1}, "expected numbers of one run"),
        ({"_num_full": 129}, "expected numbers of one run"),
        ({"batch_size": 0}, "expected numbers of one run"),
        ({"_mean": None}, r"state: _mean: got None, expected shape \(2, 1, 3\), torch.float64"),
        ({"_mean": [1.0]}, "state: _mean: got"),
        ({"_mean": torch.zeros(2, 1, 4, dtype=torch.float64)}, r"_mean: got shape \(2, 1, 4\), torch.float64, cpu"),
        ({"_squares": torch.zeros(2, 1, 3)}, r"_squares: got shape \(2, 1, 3\), torch.float32, cpu"),
        ({"_partial_sum": torch.zeros(2, 1, 3, dtype=torch.float64, device="meta")}, "_partial_sum: got .* meta"),
        ({"_batch_means": torch.zeros(64, 2, 1, 3, dtype=torch.float64)}, "_batch_means: got shape"),
        ({"_shape": (2,)}, r"_shape: got \(2,\), expected \(n, d\)"),
        ({"append": None}, "state: got 'append', expected some of"),
    ],
)
def test_damaged_states_are_refused(changes: dict[str, Any], message: str) -> None:
    moments = stream(autoregressive(5, 2, 1, 3, 0.0).squeeze(2))
    before = moments.state_dict()
    with pytest.raises(ValueError, match=message):
        moments.load_state_dict({**before, **changes})
    for key, value in before.items():
        torch.testing.assert_close(getattr(moments, key), value, rtol=0, atol=0)


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
