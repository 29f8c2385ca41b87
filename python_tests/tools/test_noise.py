"""The small version of ``make noise-check``: the noise passes its tests on 1e7 normals, and bad noise fails them.

Keys are fixed, so results are the same in every run. On perfect noise, each set of tests fails for one choice of keys
in a thousand (tools.noise.__main__.FALSE_POSITIVE_RATE).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import ops, reference
from benchmarks.page import PAGES, RESULTS
from tools.noise.__main__ import (
    FALSE_POSITIVE_RATE,
    QUICK_DRAWS,
    Plan,
    check_noise,
    correlate_keys,
    small_key_outcomes,
    tally_streams,
)
from tools.noise.avalanche import avalanche_outcomes
from tools.noise.keys import BATCH, DISTANT, NEIGHBOURS, Normal, key_of_batch
from tools.noise.null_distributions import (
    anderson_darling_upper,
    binomial_two_sided,
    chi_square_two_sided,
    fisher,
    kolmogorov_smirnov_upper,
    largest_of,
)
from tools.noise.page import noise_page
from tools.noise.tallies import (
    DistributionTally,
    LagTally,
    MomentTally,
    Outcome,
    PairTally,
    StreamTally,
    failures,
    hermite,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Another thread would save little, and cost much where others use its core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nothing(done: int) -> None:
    """Shows no progress."""


def failed(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{outcome.name}: p = {outcome.p_value:.2g}" for outcome in failures(outcomes, FALSE_POSITIVE_RATE)]


# --- The noise is good ---


def test_noise_passes_tests_that_have_names_of_their_own() -> None:
    outcomes = check_noise(ops.normal, reference.philox, Plan.of(QUICK_DRAWS), nothing)[0]
    assert not failed(outcomes)
    assert len({(outcome.group, outcome.name) for outcome in outcomes}) == len(outcomes)


def test_pairs_of_keys_come_once() -> None:
    """Twice the same product would double a correlation's variance."""
    for relation in (*NEIGHBOURS, *DISTANT):
        keys = [key_of_batch(number) for number in range(600)]
        pairs = [frozenset({key, partner}) for key in keys if (partner := relation.partner(key)) is not None]
        assert all(len(pair) == 2 for pair in pairs), relation.name
        assert len(set(pairs)) == len(pairs), relation.name
        assert pairs, relation.name


# --- Bad noise is caught ---


def caught_by(outcomes: Sequence[Outcome], name: str) -> bool:
    return any(name in failure for failure in failed(outcomes))


def changed(change: Callable[[Tensor], Tensor]) -> Normal:
    return lambda n, **key: change(ops.normal(n, **key))


def pairwise(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Normal:
    """Changes the two normals of Box-Muller pairs, which are 16 elements apart."""

    def normal(n: int, **key: Any) -> Tensor:
        pairs = ops.normal(n, **key).view(-1, 2, reference.CHUNK_BLOCKS)
        return torch.stack(change(pairs[:, 0], pairs[:, 1]), dim=1).flatten()

    return normal


def tally(normal: Normal, batches: int = 1) -> StreamTally:
    return tally_streams(normal, torch.float32, batches, nothing)


def test_wrong_scale_is_caught() -> None:
    """A standard deviation of 1.001: x² is off by 0.002, which is 8 standard errors of 3.4e7 squares."""
    moments = MomentTally("moments")
    for number in range(32):
        moments.add(1.001 * key_of_batch(number).draw(ops.normal, BATCH, torch.float32).double())
    assert caught_by(moments.outcomes(), "mean of x^2")


def test_wrong_mean_is_caught() -> None:
    outcomes = tally(changed(lambda x: x + 0.01)).outcomes()
    for name in ("mean of x^1", "Kolmogorov-Smirnov of", "Anderson-Darling of", "bins' edges"):
        assert caught_by(outcomes, name), name


@pytest.mark.parametrize(("limit", "name"), [(3.0, "count of |x| > 3"), (4.0, "count of |x| > 4"), (4.5, "largest")])
def test_cut_tails_are_caught(limit: float, name: str) -> None:
    distribution = DistributionTally("distribution")
    for number in range(2):
        x = key_of_batch(number).draw(ops.normal, BATCH, torch.float32)
        distribution.add(x.clamp(-limit, limit))
    assert caught_by(distribution.outcomes(), name)


def test_one_missing_tail_is_caught() -> None:
    distribution = DistributionTally("distribution")
    x = key_of_batch(0).draw(ops.normal, BATCH, torch.float32)
    distribution.add(torch.where(x > 4, -x, x))
    assert caught_by(distribution.outcomes(), "count of x > 4")
    assert not caught_by(distribution.outcomes(), "count of |x| > 4")


def test_sum_of_uniforms_is_caught() -> None:
    """Twelve of them, less 6: mean 0, variance 1, fourth moment 2.9, nothing beyond 6."""

    def normal(n: int, **key: Any) -> Tensor:
        generator = torch.Generator().manual_seed(key["seed"] + key["step"] + key["parameter"])
        return torch.stack([torch.rand(n, generator=generator) for _ in range(12)]).sum(0) - 6

    outcomes = tally(normal, batches=2).outcomes()
    distances = ("Kolmogorov-Smirnov of", "Anderson-Darling of")
    for name in ("mean of x^4", *distances, "equiprobable bins", "count of |x| > 4"):
        assert caught_by(outcomes, name), name
    assert not caught_by(outcomes, "mean of x^2")


def test_too_even_noise_is_caught() -> None:
    """One normal in each of 2^20 equiprobable intervals: closer to the distribution than chance would have it."""

    def normal(n: int, **key: Any) -> Tensor:
        generator = torch.Generator().manual_seed(key["parameter"])
        u = (torch.randperm(n, generator=generator).double() + torch.rand(n, generator=generator).double()) / n
        return torch.special.ndtri(u).float()

    outcomes = tally(normal).outcomes()
    for name in ("Kolmogorov-Smirnov of 1 batches, -2 Σ log(1 - p)", "Anderson-Darling of 1 batches", "equiprobable"):
        assert caught_by(outcomes, name), name


def test_coarse_noise_is_caught() -> None:
    """Multiples of 1/1000."""
    assert caught_by(tally(changed(lambda x: (x * 1000).round() / 1000)).outcomes(), "equiprobable bins")


@pytest.mark.parametrize("lag", [1, 16])
def test_correlated_elements_are_caught(lag: int) -> None:
    """A correlation of 0.003 at 1e7 products is 9 standard errors."""
    share = 0.003

    def normal(n: int, **key: Any) -> Tensor:
        x = ops.normal(n + lag, **key)
        return math.sqrt(1 - share**2) * x[lag:] + share * x[:-lag]

    lags = LagTally("elements", (1, 2, 15, 16, 17))
    for number in range(0, 40, 4):
        lags.add(hermite(key_of_batch(number).draw(normal, BATCH, torch.float32)))
    names = failed(lags.outcomes())
    assert names
    assert all(name.startswith(f"lag {lag}: He_1 with He_1") for name in names)


def test_dependent_magnitudes_are_caught() -> None:
    """The smaller of a pair takes a share of the larger one's magnitude, with the signs independent."""
    normal = pairwise(lambda x, y: (x * (1 + 0.01 * (y.abs() - 0.8)), y))
    assert caught_by(tally(normal, batches=2).outcomes(), "lag 16: He_2 with He_2")


@pytest.mark.parametrize(("harmonic", "size"), [(4, 2e-3), (8, 1e-3), (32, 3e-4)])
def test_uneven_angles_are_caught(harmonic: int, size: float) -> None:
    """The harmonics leave the correlations of He_1 to He_3 as they are, or nearly."""

    def turn(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        radius, angle = torch.hypot(x, y), torch.atan2(y, x)
        angle = angle + size * torch.sin(harmonic * angle)
        return radius * torch.cos(angle), radius * torch.sin(angle)

    pairs = PairTally("pairs", reference.CHUNK_BLOCKS)
    for number in range(0, 40, 4):
        pairs.add(key_of_batch(number).draw(pairwise(turn), BATCH, torch.float32))
    assert caught_by(pairs.outcomes(), "χ² of angle")
    assert not caught_by(pairs.outcomes(), "χ² of x² + y²")


def test_radius_that_goes_with_the_angle_is_caught() -> None:
    """Rescaled radii in half of the sectors, and the other way in the others: no marginal but "both" shows it."""

    def rescale(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        sector = (torch.atan2(y, x) * (32 / math.pi)).floor()
        scale = torch.where(sector % 2 == 0, 1.02, 0.98)
        return x * scale, y * scale

    pairs = PairTally("pairs", reference.CHUNK_BLOCKS)
    for number in range(2):
        pairs.add(key_of_batch(number).draw(pairwise(rescale), BATCH, torch.float32))
    assert caught_by(pairs.outcomes(), "χ² of both")
    assert not caught_by(pairs.outcomes(), "χ² of angle")


@pytest.mark.parametrize("field", ["seed", "step", "parameter"])
def test_correlated_neighbours_are_caught(field: str) -> None:
    share = 0.005

    def normal(n: int, **key: Any) -> Tensor:
        return math.sqrt(1 - share**2) * ops.normal(n, **key) + share * ops.normal(n, **{**key, field: key[field] + 1})

    names = failed(correlate_keys("keys", normal, NEIGHBOURS, 4, nothing))
    assert names
    assert all(name.startswith(f"{field} + 1") for name in names)


@pytest.mark.parametrize(
    ("field", "bits"), [("seed", 32), ("seed", 62), ("step", 39), ("parameter", 32), ("offset", 34)]
)
def test_dropped_high_bits_are_caught(field: str, bits: int) -> None:
    relation = next(relation for relation in DISTANT if relation.name == f"{field} xor 2^{bits}")

    def normal(n: int, **key: Any) -> Tensor:
        return ops.normal(n, **{**key, field: key[field] % 2**bits})

    assert failed(correlate_keys("keys", normal, [relation], 1, nothing))


def test_added_fields_are_caught() -> None:
    """A key of step + parameter gives (2, 1) and (1, 2) the same stream."""

    def normal(n: int, **key: Any) -> Tensor:
        return ops.normal(n, **{**key, "step": key["step"] + key["parameter"], "parameter": 0})

    relation = next(relation for relation in DISTANT if relation.name == "step and parameter exchanged")
    assert failed(correlate_keys("keys", normal, [relation], 1, nothing))
    assert caught_by(small_key_outcomes(normal, 1, nothing), "largest correlation")


def test_a_shared_part_of_small_keys_is_caught() -> None:
    """All streams of a seed share 0.5% of their variance: no single correlation shows it, all together do."""

    def normal(n: int, **key: Any) -> Tensor:
        shared = ops.normal(n, **{**key, "step": 1000, "parameter": 0})
        return math.sqrt(1 - 0.005) * ops.normal(n, **key) + math.sqrt(0.005) * shared

    assert caught_by(small_key_outcomes(normal, 1, nothing), "correlations of He_1")


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
def test_too_few_rounds_are_caught(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """A bit of the key or the counter has not reached every bit of the block."""
    monkeypatch.setattr(reference, "PHILOX_ROUNDS", rounds)
    assert failed(avalanche_outcomes(reference.philox, 2**10, nothing))


def test_bits_that_flip_together_are_caught() -> None:
    """Every bit of a block twice: each flips with probability 1/2, but their number is twice as uneven."""

    def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
        a, b, _, _ = reference.philox(counter, key)
        return a, b, a, b

    assert caught_by(avalanche_outcomes(philox, 2**10, nothing), "number of bits flipped")


# --- The p-values ---


@pytest.mark.parametrize(
    ("statistic", "p_value"), [(1.933, 0.1), (2.492, 0.05), (3.070, 0.025), (3.857, 0.01), (6.000, 0.001)]
)
def test_anderson_darling(statistic: float, p_value: float) -> None:
    """Percentage points of Stephens (1974), Table 1A, case 0."""
    assert anderson_darling_upper(statistic) == pytest.approx(p_value, rel=0.04)


def test_anderson_darling_far_tail() -> None:
    """√3 erfc(√x) (1 + O(1/x)), of the largest term's tail (Zolotarev 1961)."""
    for x in (20.0, 100.0, 500.0):
        limit = math.sqrt(3) * math.erfc(math.sqrt(x))
        assert 1 < anderson_darling_upper(x) / limit < 1 + 1 / x


@pytest.mark.parametrize(("draws", "p_value"), [(100, 0.1033037490), (1000, 0.1094154143), (100_000, 0.1119658895)])
def test_kolmogorov_smirnov_of_few_draws(draws: int, p_value: float) -> None:
    """At √n D = 1.2: exact values, from scipy.stats.kstwo; the error of the formula is O(1/n)."""
    assert kolmogorov_smirnov_upper(1.2 / math.sqrt(draws), draws) == pytest.approx(p_value, rel=0.5 / draws)


@pytest.mark.parametrize("probability", [0.02, 0.5, 0.9])
def test_binomial(probability: float) -> None:
    """The p-value is the sum of all terms of the tail."""
    terms = [math.comb(7, k) * probability**k * (1 - probability) ** (7 - k) for k in range(8)]
    for count in range(8):
        tail = min(sum(terms[count:]), sum(terms[: count + 1]))
        assert binomial_two_sided(count, 7, probability) == pytest.approx(min(1, 2 * tail), rel=1e-9)


def test_binomial_of_many() -> None:
    """Poisson at a mean of 4.5."""
    poisson = 2 * sum(math.exp(-4.5) * 4.5**k / math.factorial(k) for k in range(2))
    assert binomial_two_sided(1, 10**9, 4.5e-9) == pytest.approx(poisson, rel=1e-5)


def test_fisher_and_largest_of() -> None:
    """-2 log of one p-value is χ² with 2 degrees, whose tail is that p-value."""
    assert fisher([0.3])[1] == pytest.approx(0.3)
    assert fisher([0.0, 0.5])[1] < 1e-100
    assert largest_of(0.5, 2) == pytest.approx(0.75)
    assert largest_of(1e-20, 1000) == pytest.approx(1e-17)
    assert largest_of(1.0, 3) == 1
    assert chi_square_two_sided(0.0, 1000) == 0


def test_p_values_of_batches_are_uniform() -> None:
    """So the false-positive rate is as stated: a thousand small batches of torch's own normals."""
    generator = torch.Generator().manual_seed(0)
    distribution = DistributionTally("distribution")
    for _ in range(1000):
        distribution.add(torch.randn(1000, generator=generator, dtype=torch.float64))
    for p_values in (distribution.kolmogorov_smirnov, distribution.anderson_darling):
        for quantile in (0.01, 0.1, 0.5, 0.9):
            below = sum(p <= quantile for p in p_values)
            assert binomial_two_sided(below, len(p_values), quantile) > 1e-4


def test_nan_is_caught() -> None:
    """One among a million."""
    normal = changed(lambda x: x.index_fill(0, torch.tensor([5]), math.nan))
    assert caught_by(tally(normal).outcomes(), "mean of x^1")


# --- The page ---


@pytest.mark.skipif(not PAGES.is_dir(), reason="docs/ is not here: an installed package is tested")
def test_the_page_is_of_its_results_and_names_what_failed() -> None:
    results = json.loads((RESULTS / "noise.json").read_text())
    assert noise_page(results) == (PAGES / "noise.md").read_text(), "python -m tools.noise --page-only writes it again"
    bad = Outcome("moments, float32", "made up", 10, 1.0, 0.0, 1e-30)
    results |= {"tests": [*results["tests"], asdict(bad)], "failed": ["moments, float32: made up"], "quick": True}
    page = noise_page(results)
    assert "**1 failed.**" in page
    assert "Failed: moments, float32: made up" in page
    assert "A quick run" in page
