"""16-bit parameters: stochastic rounding, bit by bit where the float32 value is known exactly, and as a random process.

One unit (ulp) is the spacing of the 16-bit format at a value. A value a fraction f of it beyond a number of the format
goes up with probability f: the error has mean zero and variance f (1 - f) units². Statistics have fixed keys, so they
come out the same in every run; their bounds are at 5 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops.test_steps import EVERY_CASE, KEY, Case, make_lists, run
from torch import Tensor

from ald_ext import ops, reference

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
#: Those that move a parameter by its gradient and its noise alone.
BOTH_OPS = pytest.mark.parametrize("kind", ["sgld", "psgld"])
EVERY_KIND = pytest.mark.parametrize("kind", ["sgld", "psgld", "sghmc"])

#: A preconditioner that is G = 1 and stays so.
NO_PRECONDITIONER: dict[str, Any] = {"eps": 0.0, "freeze_after": -1}


def step(param: Tensor, grad: Tensor, kind: str = "sgld", **options: Any) -> None:
    """In place; with the preconditioner 1."""
    ones = torch.ones_like(param, dtype=torch.float32)
    if kind == "psgld":
        ops.psgld_step_([param], [grad], [ones], **NO_PRECONDITIONER, **options)
    elif kind == "sghmc":
        ops.sghmc_step_([param], [grad], [ones], **options)
    else:
        ops.sgld_step_([param], [grad], **options)


def unit_at(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of the format in the binade of each value, in float64."""
    _, mantissa_bits = reference.ROUNDING_BITS[dtype]
    smallest = round(math.log2(torch.finfo(dtype).tiny))
    exponent = (torch.frexp(value.double().abs()).exponent - 1).clamp_min(smallest)
    exponent[value == 0] = smallest
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent - mantissa_bits)


def every_number(dtype: torch.dtype) -> Tensor:
    """All 65536 bit patterns: subnormal numbers, infinities, NaN."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


def shuffled(values: Tensor, seed: int) -> Tensor:
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]


def assert_same_bits(got: Tensor, expected: Tensor) -> None:
    """Signs of zeros too; NaN has many spellings."""
    got, expected = got.cpu(), expected.cpu()
    assert torch.equal(got.isnan(), expected.isnan())
    kept = ~expected.isnan()
    assert torch.equal(got[kept].view(torch.int16), expected[kept].view(torch.int16))


# --- Bit by bit ---


@HALVES
@EVERY_KIND
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lr_of_zero_keeps_every_number(device: torch.device, dtype: torch.dtype, kind: str, temperature: float) -> None:
    numbers = every_number(dtype).to(device)
    param, grad = numbers.clone(), torch.ones_like(numbers)
    step(param, grad, kind, lr=0.0, temperature=temperature, **KEY)
    finite = numbers.isfinite()
    assert torch.equal(param[finite], numbers[finite])
    # What is not finite is what float32 makes of it.
    wide = numbers.float()
    step(wide, grad.float(), kind, lr=0.0, temperature=temperature, **KEY)
    assert_same_bits(param[~finite], wide[~finite].to(dtype))


@HALVES
@pytest.mark.parametrize("lr", [1.0, 2.0**-9, 0.37, 1.1e-4])
def test_every_drift_to_the_bit(device: torch.device, dtype: torch.dtype, lr: float) -> None:
    """θ - lr g without noise: two float32 roundings, which torch does alike. Numbers of all sizes meet all sizes."""
    numbers = every_number(dtype)
    for theta in (torch.zeros_like(numbers), shuffled(numbers, 1)):
        grad = shuffled(numbers, 2)
        value = theta.float() - torch.tensor(lr) * grad.float()
        random = reference.rounding_words(len(numbers), **KEY, parameter=3, offset=17)
        # 0 θ is part of the gradient: weight decay.
        expected = reference.round_stochastically(value + 0 * theta.float(), dtype, random)
        param = theta.to(device)
        step(param, grad.to(device), lr=lr, temperature=0.0, noise_ids=[3], offsets=[17], **KEY)
        assert_same_bits(param, expected)


@HALVES
def test_every_drift_with_noise_to_the_bit(device: torch.device, dtype: torch.dtype) -> None:
    """lr is a power of two, so that lr g is exact, and what is added to the noise is rounded once."""
    lr, n = 2.0**-5, 100_003
    theta, grad = torch.randn(2, n).to(dtype)
    noise = torch.tensor(math.sqrt(2 * lr)) * ops.normal(n, **KEY)
    value = theta.float() + (-lr * grad.float() + noise)
    expected = reference.round_stochastically(value, dtype, reference.rounding_words(n, **KEY))
    param = theta.to(device)
    step(param, grad.to(device), lr=lr, **KEY)
    assert_same_bits(param, expected)


@HALVES
def test_preconditioned_drift_to_the_bit(device: torch.device, dtype: torch.dtype) -> None:
    """alpha = 1/2 makes v exact but for one rounding; the rest is IEEE's roots, quotients and two fma.

    In float64, and rounded: torch's own float32 root misses the nearest number now and then.
    """
    lr, n = 2.0**-5, 100_003
    theta, grad = torch.randn(2, n).to(dtype)
    v = torch.rand(n)
    expected_v = 0.5 * v + 0.5 * grad.float() ** 2
    denominator = expected_v.double().sqrt().float() + 0.125
    root = (1 / denominator.double().sqrt().float().double()).float()
    # A product of two float32 is exact in float64.
    drift = (root.double() * (-lr * grad.double())).float()
    value = (root.double() * drift.double() + theta.double()).float()
    expected = reference.round_stochastically(value, dtype, reference.rounding_words(n, **KEY))
    param, square_avg = theta.to(device), v.to(device)
    options: dict[str, Any] = {"lr": lr, "temperature": 0.0, "alpha": 0.5, "eps": 0.125}
    ops.psgld_step_([param], [grad.to(device)], [square_avg], **options, **KEY)
    assert torch.equal(square_avg.cpu(), expected_v)
    assert_same_bits(param, expected)


def reference_step(case: Case, lists: Any) -> Any:
    """The reference on copies, with the kernel's own normals: what differs is float32 rounding."""
    new = lists.map(lambda tensor: tensor.clone())
    count = len(new.params)
    defaults = {"num_data": 1.0, "temperature": 1.0, "weight_decay": 0.0, "maximize": False}
    options = {**defaults, **case.options, **KEY, "noise_ids": list(range(count)), "offsets": [0] * count}
    if case.kind == "psgld":
        own = {"alpha": 0.99, "freeze_after": ops.NEVER}
        reference.psgld_step_(new.params, new.grads, new.states, **{**own, **options}, normal=ops.normal)
    elif case.kind == "sghmc":
        reference.sghmc_step_(new.params, new.grads, new.states, **options, normal=ops.normal)
    else:
        reference.sgld_step_(new.params, new.grads, **options, normal=ops.normal)
    return new


@HALVES
@EVERY_CASE
def test_equals_the_reference(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    """The rounding is monotonous: values that differ by d end at most one unit further apart, and differ in d / unit
    of all cases."""
    lists = make_lists([(40_001,), (17, 9), ()], dtype, torch.device("cpu"))
    got, expected = run(case, lists.map(lambda tensor: tensor.to(device))), reference_step(case, lists)
    # As in test_steps.py: terms are products of at most 8 factors, on both sides.
    float_error = 2 * 10 * 2.0**-24
    for theta, other, start, state, other_state, start_state in zip(
        got.params, expected.params, lists.params, got.states, expected.states, lists.states, strict=True
    ):
        theta, other = theta.cpu().double(), other.double()
        terms = start.double().abs() + (other - start.double()).abs() + unit_at(other, dtype)
        if case.kind == "sghmc":
            # p's own terms: noise and gradient stay below 6 and have factors below 1.
            size = start_state.double().abs() + 6
            assert ((state.cpu().double() - other_state.double()).abs() <= 12 * 2.0**-24 * size).all()
            terms += size
        else:
            torch.testing.assert_close(state.cpu(), other_state, rtol=12 * 2.0**-24, atol=0)
        difference = float_error * terms
        assert ((theta - other).abs() <= unit_at(other, dtype) + difference).all()
        often = (difference / unit_at(other, dtype)).clamp_max(1).sum()
        assert (theta != other).sum() <= often + 5 * often.sqrt()


@HALVES
def test_overflow_is_that_of_rounding_to_nearest(device: torch.device, dtype: torch.dtype) -> None:
    """Infinity begins half a unit beyond the largest number; below, stochastic rounding ends at that number."""
    largest = torch.finfo(dtype).max
    unit = float(unit_at(torch.tensor(largest), dtype))
    n = 1000
    for beyond, expected in [(0.4999, largest), (0.5, math.inf), (0.9, math.inf), (-0.5, None)]:
        for sign in (1, -1):
            param = torch.full((n,), sign * largest, dtype=dtype, device=device)
            grad = torch.full((n,), -sign * unit, dtype=dtype, device=device)
            step(param, grad, lr=abs(beyond), maximize=beyond < 0, temperature=0.0, **KEY)
            if expected is None:
                assert set(param.double().abs().unique().tolist()) == {largest, largest - unit}
            else:
                assert (param == sign * expected).all()


# --- One step, many elements ---


def assert_mean(values: Tensor, expected: float, variance: float) -> None:
    standard_error = math.sqrt(variance / len(values))
    assert abs(float(values.double().mean()) - expected) < 5 * standard_error


def assert_variance(values: Tensor, variance: float, fourth_moment: float) -> None:
    """Of values whose mean is known to be zero."""
    standard_error = math.sqrt((fourth_moment - variance**2) / len(values))
    assert abs(float(values.double().square().mean()) - variance) < 5 * standard_error


#: Numbers of both formats, in units of the smallest subnormal one, of the smallest normal one, and plain.
PLACES: dict[str, Callable[[torch.finfo], float]] = {
    "zero": lambda _: 0.0,
    "subnormal": lambda format_: 3 * format_.smallest_normal * format_.eps,
    "largest_subnormal": lambda format_: format_.smallest_normal * (1 - format_.eps),
    "smallest_normal": lambda format_: format_.smallest_normal,
    "plain": lambda _: 1.25,
    "below_a_power_of_two": lambda format_: 2 * (1 - format_.eps / 2),
    "negative": lambda _: -1.25,
    "large": lambda format_: format_.max / 2,
}


@HALVES
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fraction", [1 / 8192, 0.125, 0.5, 0.8125])
def test_the_probability_is_the_fraction(device: torch.device, dtype: torch.dtype, place: str, fraction: float) -> None:
    """Between two neighbours, everywhere in the format. 1/8192 is what float16's random bits resolve."""
    n = 2**19
    start = PLACES[place](torch.finfo(dtype))
    unit = float(unit_at(torch.tensor(start, dtype=dtype), dtype)) * (-1 if start < 0 else 1)
    param = torch.full((n,), start, dtype=dtype, device=device)
    step(param, torch.full_like(param, -unit), lr=fraction, temperature=0.0, **KEY)
    moved = (param.double() - start).cpu() / unit
    assert set(moved.unique().tolist()) <= {0.0, 1.0}
    assert_mean(moved, fraction, fraction * (1 - fraction))


def test_errors_do_not_know_the_noise() -> None:
    """The rounding has random bits of its own: its error is uncorrelated with the noise and its square."""
    n = 2**20
    param = torch.ones(n, dtype=torch.bfloat16)
    step(param, torch.zeros_like(param), lr=0.5e-4, **KEY)
    noise = ops.normal(n, **KEY)
    value = 1 + torch.tensor(0.01) * noise
    unit = unit_at(value, torch.bfloat16)
    error = (param.double() - value.double()) / unit
    assert error.abs().max() < 1
    for statistic in (error, error * noise, error * (noise.double() ** 2 - 1)):
        assert_mean(statistic, 0.0, float(statistic.square().mean()))
    # Given f, the error squared has the mean f (1 - f), and the variance f (1 - f) (1 - 2f)², which is at most 1/16.
    fraction = value.double() / unit % 1
    assert_mean(error.square() - fraction * (1 - fraction), 0.0, 1 / 16)


# --- Many steps of less than half a unit: rounding to nearest loses them all ---

STEPS, ELEMENTS = 200, 100_000
FRACTION = 1 / 128  # of a unit, a step


def assert_moved_as_float32(param: Tensor, start: float, unit: float) -> None:
    """The number of units that each element moved is binomial(STEPS, FRACTION)."""
    units = (param.double().cpu() - start) / unit
    p = FRACTION * (1 - FRACTION)
    mean, variance = STEPS * FRACTION, STEPS * p
    assert_mean(units, mean, variance)
    assert_variance(units - mean, variance, variance * (1 + 3 * (STEPS - 2) * p))


@HALVES
@BOTH_OPS
def test_a_drift_of_a_fraction_of_a_unit(device: torch.device, dtype: torch.dtype, kind: str) -> None:
    unit = torch.finfo(dtype).eps
    param = torch.ones(ELEMENTS, dtype=dtype, device=device)
    grad = -torch.ones_like(param)
    wide, wide_grad = param[:1].float(), grad[:1].float()
    for number in range(1, STEPS + 1):
        options = {"lr": FRACTION * unit, "temperature": 0.0, "seed": 5, "step": number}
        step(param, grad, kind, **options)
        step(wide, wide_grad, kind, **options)
    assert wide.item() == 1 + STEPS * FRACTION * unit
    assert_moved_as_float32(param, 1.0, unit)


def assert_diffused(param: Tensor, start: float, unit: float, noise: float) -> None:
    """A step of noise s ξ moves by ± one unit, with probability s |ξ|: a martingale of variance E |s ξ| a step."""
    units = (param.double().cpu() - start) / unit
    p = noise / unit * math.sqrt(2 / math.pi)
    assert_mean(units, 0.0, STEPS * p)
    assert_variance(units, STEPS * p, STEPS * p + 3 * STEPS * (STEPS - 1) * p**2)


@HALVES
@BOTH_OPS
def test_noise_of_a_fraction_of_a_unit(device: torch.device, dtype: torch.dtype, kind: str) -> None:
    """Its variance is that of the rounding, not that of the noise, which is smaller; but it is there."""
    unit, start = torch.finfo(dtype).eps, 1.5
    noise = FRACTION * unit
    param = torch.full((ELEMENTS,), start, dtype=dtype, device=device)
    grad = torch.zeros_like(param)
    for number in range(1, STEPS + 1):
        step(param, grad, kind, lr=noise**2 / 2, seed=5, step=number)
    assert_diffused(param, start, unit, noise)


# --- The stationary distribution ---


def mean_squared_unit(variance: float, dtype: torch.dtype) -> float:
    """E unit(θ)² for θ ~ N(0, variance), binade by binade."""
    total = 0.0
    for exponent in range(-20, 6):
        low, high = (2.0 ** (exponent + i) / math.sqrt(2 * variance) for i in (0, 1))
        unit = float(unit_at(torch.tensor(2.0**exponent), dtype))
        total += (math.erf(high) - math.erf(low)) * unit**2
    return total


def expected_variances(h: float, steps: int, dtype: torch.dtype) -> tuple[float, float]:
    """Of θ, and of what rounding adds to it, from N(0, 1) on: θ ← (1 - h) θ + √(2h) ξ + e.

    Noise of many units makes f uniform, so that the error e has variance unit²/6 (at most unit²/4, whatever f). It has
    mean zero given all before, so the errors add up to a process D ← (1 - h) D + e of its own.
    """
    exact, added = 1.0, 0.0
    for _ in range(steps):
        exact = (1 - h) ** 2 * exact + 2 * h
        added = (1 - h) ** 2 * added + mean_squared_unit(exact + added, dtype) / 6
    return exact, added


@HALVES
@BOTH_OPS
def test_stationary_variance(device: torch.device, dtype: torch.dtype, kind: str) -> None:
    """On N(0, 1), beside a float32 chain with the same noise: their difference is the rounding's part, alone."""
    h, steps, chains = 0.02, 200, 100_000
    # With v = 1 and eps = 1, G = 1/2.
    lr, own = (2 * h, {"eps": 1.0, "freeze_after": -1}) if kind == "psgld" else (h, {})
    narrow = torch.randn(chains).to(dtype).to(device)
    wide = narrow.float()
    square_avg = torch.ones_like(wide)
    for number in range(1, steps + 1):
        for theta in (narrow, wide):
            options: dict[str, Any] = {"lr": lr, "seed": 8, "step": number, **own}
            if kind == "psgld":
                ops.psgld_step_([theta], [theta.clone()], [square_avg], **options)
            else:
                ops.sgld_step_([theta], [theta.clone()], **options)
    exact, added = expected_variances(h, steps, dtype)
    narrow, wide = narrow.double().cpu(), wide.double().cpu()
    difference = narrow - wide
    assert_variance(wide, exact, 3 * exact**2)
    assert_variance(narrow, exact + added, 3 * (exact + added) ** 2)
    assert_mean(difference, 0.0, added)
    assert_mean(difference * wide, 0.0, exact * added)
    # Units differ from chain to chain, so its fourth moment is not that of a normal.
    assert_variance(difference, added, float((difference**4).mean()))
