"""The executable specification against independent oracles: published answers, scalar arithmetic, quadrature."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ald_ext import ops, reference

WORD = 2**32 - 1

#: Random123, tests/kat_vectors, philox4x32 7: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    ((WORD,) * 4, (WORD,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = reference.philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == ops.philox(counter, key) == expected


words = st.integers(0, WORD)


@given(counter=st.tuples(words, words, words, words), key=st.tuples(words, words))
def test_philox_equals_the_compiled_one(counter: tuple[int, ...], key: tuple[int, int]) -> None:
    got = reference.philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in got) == ops.philox(counter, key)


def rounded(value: float, dtype: torch.dtype) -> float:
    return struct.unpack("f", struct.pack("f", value))[0] if dtype == torch.float32 else float(value)


def scalar_normal(element: int, seed: int, step: int, parameter: int, dtype: torch.dtype) -> float:
    """One normal by csrc/math/normal.h, Notes [Noise layout] and [Box-Muller], in Python's integers and floats."""
    per_block = 4 if dtype == torch.float32 else 2
    chunk = 16 * per_block
    block, lane = 16 * (element // chunk) + element % 16, (element % chunk) // 16
    high = (parameter >> 32) << 16 | (step >> 32) << 8 | block >> 32
    counter = (block & WORD, step & WORD, parameter & WORD, high)
    a, b, c, d = ops.philox(counter, (seed & WORD, seed >> 32))
    if per_block == 4:
        radius_word, angle_word, bits = (a, b, 32) if lane < 2 else (c, d, 32)
    else:
        radius_word, angle_word, bits = b << 32 | a, d << 32 | c, 64
    u = rounded(rounded(radius_word >> 1, dtype) + 0.5, dtype) / 2 ** (bits - 1)
    radius, angle = math.sqrt(-2 * math.log(u)), 2 * math.pi * (angle_word / 2**bits)
    return radius * (math.cos(angle) if lane % 2 == 0 else math.sin(angle))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0, 37, 2**34 - 100, 2**41 - 200])
@pytest.mark.parametrize(("seed", "step", "parameter"), [(0, 0, 0), (2**63 - 1, 2**40 - 1, 2**44 - 1), (7, 2**33, 5)])
def test_normal_equals_scalar_arithmetic(dtype: torch.dtype, offset: int, seed: int, step: int, parameter: int) -> None:
    got = reference.normal(200, seed=seed, step=step, parameter=parameter, offset=offset, dtype=dtype).double()
    expected = torch.tensor(
        [scalar_normal(offset + i, seed, step, parameter, dtype) for i in range(200)], dtype=torch.float64
    )
    # float32: one rounding of values below 8. float64: an angle up to 2 pi, rounded (2^-51), times a radius below 10.
    torch.testing.assert_close(got, expected, rtol=0, atol=2.0**-22 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize(("row_length", "row_stride"), [(0, 0), (1, 1), (1, 4), (3, 5), (7, 7), (33, 2**36)])
@pytest.mark.parametrize("offset", [0, 37])
def test_elements_of_shards(offset: int, row_length: int, row_stride: int) -> None:
    """Row by row, and their noise is what whole rows have."""
    n, key = 100, {"seed": 7, "step": 2**33, "parameter": 5}
    rows = [(0, n)] if row_length == 0 else [(r * row_stride, row_length) for r in range(-(-n // row_length))]
    expected = [offset + start + i for start, length in rows for i in range(length)][:n]
    assert reference.elements_of_shard(n, offset, row_length, row_stride).tolist() == expected
    shard = {"offset": offset, "row_length": row_length, "row_stride": row_stride}
    for function in (reference.normal, reference.rounding_words):
        of_rows = torch.cat([function(length, **key, offset=offset + start) for start, length in rows])
        assert torch.equal(function(n, **key, **shard), of_rows[:n])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latent_normal_equals_scalar_arithmetic(dtype: torch.dtype) -> None:
    data = [5, 2**44 - 1, 0, 5]
    got = reference.latent_normal(torch.tensor(data), 70, seed=3, step=2**35, dtype=dtype).double()
    rows = [[scalar_normal(i, 3, 2**35, datum, dtype) for i in range(70)] for datum in data]
    expected = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=0, atol=2.0**-22 if dtype == torch.float32 else 1e-14)


# --- The underdamped update: the flows of its parts, one after another ---


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_underdamped_update_is_baoab(momentum: float, temperature: float) -> None:
    """The half kicks of two steps are one: from p after a half kick back, BAOAB is B A O A B of the same forces."""
    lr, n = 0.3, 20
    h = math.sqrt(lr)
    theta, p = torch.randn(2, n, dtype=torch.float64)
    ours, state = theta.clone(), p + h / 2 * theta.sin()  # the half kick that the step makes whole
    for step in range(1, 4):
        options = {"lr": lr, "num_data": 2.0, "temperature": temperature, "weight_decay": 0.0, "maximize": False}
        key = {"seed": 1, "step": step}
        lists = {"noise_ids": [4], "offsets": [0]}
        reference.sghmc_step_([ours], [ours.sin()], [state], **options, **key, **lists, momentum=momentum)
        p = p - h / 2 * theta.sin()
        theta = theta + h / 2 * p
        xi = reference.normal(n, **key, parameter=4, dtype=torch.float64)
        p = momentum * p + math.sqrt((1 - momentum**2) * temperature / 2) * xi
        theta = theta + h / 2 * p
        p = p - h / 2 * theta.sin()
        # A few roundings of numbers below 4 a step.
        torch.testing.assert_close(ours, theta, rtol=0, atol=3 * 8 * 2.0**-51)
        torch.testing.assert_close(state - h / 2 * ours.sin(), p, rtol=0, atol=3 * 8 * 2.0**-51)


def test_float64_normals_of_small_radius() -> None:
    """Where u is near one, log u is as good as u, which is a float64: its relative error must not grow as r shrinks."""
    n, key = 2**20, {"seed": 3, "step": 1}
    got = reference.normal(n, **key, dtype=torch.float64)
    pairs = got.reshape(-1, 2, 16)  # a chunk of 16 blocks: the cosines, then the sines
    smallest = pairs.square().sum(1).flatten().topk(20, largest=False).indices
    for index in smallest.tolist():
        for element in (32 * (index // 16) + index % 16 + lane * 16 for lane in (0, 1)):
            assert abs(float(got[element]) - scalar_normal(element, 3, 1, 0, torch.float64)) <= 1e-14


# --- Stochastic rounding ---


def scalar_rounding_word(element: int, seed: int, step: int, parameter: int) -> int:
    """By csrc/math/normal.h: the word at the lane of the element's float normal, of the block of purpose 1."""
    block, lane = 16 * (element // 64) + element % 16, (element % 64) // 16
    high = 1 << 28 | (parameter >> 32) << 16 | (step >> 32) << 8 | block >> 32
    counter = (block & WORD, step & WORD, parameter & WORD, high)
    return ops.philox(counter, (seed & WORD, seed >> 32))[lane]


@pytest.mark.parametrize("offset", [0, 37, 2**34 - 100, 2**41 - 200])
@pytest.mark.parametrize(("seed", "step", "parameter"), [(0, 0, 0), (2**63 - 1, 2**40 - 1, 2**44 - 1), (7, 2**33, 5)])
def test_rounding_words(offset: int, seed: int, step: int, parameter: int) -> None:
    got = reference.rounding_words(200, seed=seed, step=step, parameter=parameter, offset=offset)
    assert got.tolist() == [scalar_rounding_word(offset + i, seed, step, parameter) for i in range(200)]


def exactly_rounded(value: float, dtype: torch.dtype, word: int) -> float:
    """In rational arithmetic, by csrc/math/rounding.h, Note [Stochastic rounding]."""
    if not math.isfinite(value):
        return value
    bits, mantissa, smallest_exponent = (16, 7, -126) if dtype == torch.bfloat16 else (13, 10, -14)
    exponent = max(smallest_exponent, math.frexp(value)[1] - 1)
    unit = Fraction(2) ** (exponent - mantissa)
    # Half a unit beyond the largest number, rounding to nearest (even) gives infinity.
    largest = Fraction(torch.finfo(dtype).max)
    if abs(Fraction(value)) >= largest + Fraction(2) ** (math.frexp(largest)[1] - 2 - mantissa):
        return math.copysign(math.inf, value)
    units = math.floor(abs(Fraction(value)) / unit + Fraction(word >> (32 - bits), 2**bits))
    return math.copysign(float(min(units * unit, largest)), value)


@given(
    value=st.one_of(
        st.floats(width=32),
        st.floats(-70000, 70000, width=32),
        st.floats(-(2.0**-13), 2.0**-13, width=32),
        st.sampled_from([65504.0, 65519.99609375, 65520.0, 3.3895313892515355e38, 3.396144e38, 3.4028234663852886e38]),
    ),
    word=st.one_of(words, st.sampled_from([0, WORD, 1 << 31, WORD >> 1])),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_rounding_equals_rational_arithmetic(value: float, word: int, dtype: torch.dtype) -> None:
    single = torch.tensor([value])
    got = reference.round_stochastically(single, dtype, torch.tensor([word])).double().item()
    expected = exactly_rounded(single.double().item(), dtype, word)
    assert got == expected or (math.isnan(got) and math.isnan(expected))
    assert math.isnan(got) or math.copysign(1, got) == math.copysign(1, expected)


# --- The marginal likelihood is an integral over the precision ---

PRIORS = [(1.0, 0.0), (0.0, 0.0), (2.5, 0.75), (0.3, 4.0)]


def log_prior_density(log_precision: torch.Tensor, shape: float, rate: float) -> torch.Tensor:
    """Of the precision, as a density over itself; improper where rate = 0: 1 (flat) or 1/precision (Jeffreys)."""
    log_density = (shape - 1) * log_precision - rate * log_precision.exp()
    return log_density + (shape * math.log(rate) - math.lgamma(shape) if rate > 0 else 0.0)


def quadrature(x: torch.Tensor, mean: torch.Tensor, shape: float, rate: float) -> torch.Tensor:
    """log of the integral of N(x; mean, I/precision) p(precision), by the trapezoid rule in log precision.

    The integrand is analytic and vanishes doubly exponentially on the right, exponentially on the left: the rule's
    error is far below the rounding error.
    """
    spacing = 0.01
    t = torch.arange(-140.0, 60.0, spacing, dtype=torch.float64)
    dimension = x.shape[1]
    squared = (x - mean).square().sum(1, keepdim=True)
    log_likelihood = dimension / 2 * (t - math.log(2 * math.pi)) - 0.5 * squared * t.exp()
    return torch.logsumexp(log_likelihood + log_prior_density(t, shape, rate) + t, 1) + math.log(spacing)


@pytest.mark.parametrize("dimension", [1, 2, 5])
@pytest.mark.parametrize(("shape", "rate"), PRIORS)
def test_marginal_likelihood_equals_quadrature(shape: float, rate: float, dimension: int) -> None:
    x, mean = torch.randn(2, 6, dimension, dtype=torch.float64)
    x[0] = mean[0] + 0.01  # a large precision
    expected = quadrature(x, mean, shape, rate)
    # The terms of the log-sum-exp are exponentials of numbers below 1e4, good to 1e4 2^-53 = 1e-12.
    for function in (reference.marginal_gaussian_log_prob, torch.ops.ald_ext.marginal_gaussian_log_prob.default):
        got = function(x, mean, shape, rate)
        torch.testing.assert_close(got[0] if isinstance(got, tuple) else got, expected, rtol=0, atol=1e-11)


# --- Dequantization ---


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_dequantize_is_the_logit_of_the_bin(bits: int) -> None:
    x = torch.arange(2**bits).repeat_interleave(41).to(torch.uint8)
    h = torch.linspace(-8, 8, 41, dtype=torch.float64).repeat(2**bits)
    place = (x + torch.sigmoid(h)) / 2**bits
    # logit loses digits where `place` is near one, which is what the specification avoids: 1 - place >= 2^-8 e^-8 / 2.
    torch.testing.assert_close(reference.langevin_dequantize(x, h, bits), torch.logit(place), rtol=0, atol=1e-10)


@given(bits=st.integers(1, 8), h=st.floats(allow_nan=False, allow_infinity=False))
def test_quantize_inverts_dequantize(bits: int, h: float) -> None:
    x = torch.arange(2**bits).to(torch.uint8)
    y = reference.langevin_dequantize(x, torch.full((2**bits,), h, dtype=torch.float64), bits)
    assert torch.isfinite(y).all()
    assert torch.equal(reference.quantize(y, bits), x)


def test_quantize_of_nothing_finite() -> None:
    y = torch.tensor([math.nan, math.inf, -math.inf])
    assert reference.quantize(y).tolist() == [0, 255, 0]
