"""The steps of ald_ext.ops against their equations, over dtypes, shapes, strides and lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ald_ext import ops

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
WITH_16_BITS = {dtype: str(dtype).removeprefix("torch.") for dtype in ops.PARAMETER_DTYPES}
EVERY_DTYPE = pytest.mark.parametrize("dtype", WITH_16_BITS, ids=WITH_16_BITS.values())


@dataclass(frozen=True)
class Case:
    """One kind of step: which op, with which options."""

    name: str
    kind: str
    options: dict[str, Any]


CASES = [
    Case("sgld", "sgld", {"lr": 0.1, "num_data": 100, "temperature": 1.5, "weight_decay": 0.01}),
    Case("sgld_cold_maximize", "sgld", {"lr": 0.1, "num_data": 100, "temperature": 0.0, "maximize": True}),
    Case("psgld", "psgld", {"lr": 0.01, "num_data": 10, "weight_decay": 0.1, "alpha": 0.99, "eps": 0.1}),
    Case("psgld_cold", "psgld", {"lr": 0.01, "num_data": 10, "temperature": 0.0, "alpha": 0.5, "eps": 1e-8}),
    Case("psgld_frozen", "psgld", {"lr": 0.01, "num_data": 3, "temperature": 0.5, "eps": 1e-3, "freeze_after": -1}),
    Case("psgld_maximize", "psgld", {"lr": 0.01, "num_data": 3, "weight_decay": 0.1, "eps": 0.1, "maximize": True}),
    Case("sghmc", "sghmc", {"lr": 0.1, "num_data": 10, "temperature": 1.5, "weight_decay": 0.1, "momentum": 0.9}),
    Case("sghmc_cold_maximize", "sghmc", {"lr": 0.1, "temperature": 0.0, "momentum": 0.5, "maximize": True}),
    Case("sghmc_no_momentum", "sghmc", {"lr": 0.3, "num_data": 3, "momentum": 0.0}),
]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

KEY: dict[str, Any] = {"seed": 11, "step": 3}

SHAPES = [(3,), (), (5, 7), (0,), (64,), (2, 3, 4, 5), (0, 3), (1000,), (1, 1), (65, 1), (0,)]


@dataclass
class Lists:
    params: list[Tensor]
    grads: list[Tensor]
    states: list[Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> Lists:
        return Lists(*([function(t) for t in ts] for ts in (self.params, self.grads, self.states)))


def make_lists(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> Lists:
    """The state of 16-bit parameters is float32."""
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def draw(dtype: torch.dtype) -> list[Tensor]:
        return [torch.randn(shape, dtype=dtype).to(device) for shape in shapes]

    return Lists(draw(dtype), draw(dtype), [t.square() for t in draw(state_dtype)])


def run(case: Case, lists: Lists, **more: Any) -> Lists:
    """The op on copies."""
    new = lists.map(lambda tensor: tensor.clone())
    run_in_place(case, new, **more)
    return new


def run_in_place(case: Case, lists: Lists, **more: Any) -> None:
    options = {**case.options, **KEY, **more}
    if case.kind == "psgld":
        ops.psgld_step_(lists.params, lists.grads, lists.states, **options)
    elif case.kind == "sghmc":
        ops.sghmc_step_(lists.params, lists.grads, lists.states, **options)
    else:
        ops.sgld_step_(lists.params, lists.grads, **options)


def assert_same_bits(got: list[Tensor], expected: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(a.cpu(), b.cpu()), f"tensor {i}"


# --- The equation ---


@dataclass
class Expected:
    """θ, the state and the sizes of their terms."""

    theta: Tensor
    state: Tensor
    theta_size: Tensor
    state_size: Tensor


def expected_step(case: Case, theta: Tensor, grad: Tensor, state: Tensor, xi: Tensor) -> Expected:
    """Notes [The update equation] and [The underdamped update], of float64 tensors."""
    o = {"num_data": 1, "temperature": 1.0, "weight_decay": 0.0, "maximize": False, "alpha": 0.99, **case.options}
    g = (-1 if o["maximize"] else 1) * grad + o["weight_decay"] * theta
    if case.kind == "sghmc":
        h, mu = o["lr"] ** 0.5, o["momentum"]
        kicked = state - h * g
        noise = ((1 - mu**2) * o["temperature"] / o["num_data"]) ** 0.5 * xi
        p = mu * kicked + noise
        size = state.abs() + h * (grad.abs() + o["weight_decay"] * theta.abs()) + noise.abs()
        return Expected(theta + h / 2 * kicked + h / 2 * p, p, theta.abs() + h * size, size)
    preconditioner = torch.ones_like(theta)
    if case.kind == "psgld":
        if KEY["step"] <= o.get("freeze_after", ops.NEVER):
            state = o["alpha"] * state + (1 - o["alpha"]) * g**2
        preconditioner = 1 / (state.sqrt() + o["eps"])
    drift = -o["lr"] * preconditioner * g
    noise = (2 * o["lr"] * o["temperature"] / o["num_data"] * preconditioner).sqrt() * xi
    return Expected(theta + drift + noise, state, theta.abs() + drift.abs() + noise.abs(), state)


@DTYPES
@EVERY_CASE
def test_equals_the_equation(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    """With the op's own noise."""
    lists = make_lists(SHAPES, dtype, device)
    got = run(case, lists)
    # A term is the product of at most 8 rounded factors; of a state, of 4.
    unit = torch.finfo(dtype).eps / 2
    for k, (theta, state) in enumerate(zip(got.params, got.states, strict=True)):
        before = (tensors[k].double().cpu() for tensors in (lists.params, lists.grads, lists.states))
        xi = ops.normal(theta.numel(), **KEY, parameter=k, dtype=dtype).double().reshape(theta.shape)
        expected = expected_step(case, *before, xi)
        assert ((theta.cpu().double() - expected.theta).abs() <= 10 * unit * expected.theta_size).all()
        assert ((state.cpu().double() - expected.state).abs() <= 6 * unit * expected.state_size).all()
    assert_same_bits(got.grads, lists.grads)
    assert all(theta.dtype == dtype for theta in got.params)


@EVERY_DTYPE
def test_frozen_average_keeps_its_bits(device: torch.device, dtype: torch.dtype) -> None:
    lists = make_lists(SHAPES, dtype, device)
    frozen, adapting = (run(case, lists) for case in (CASES[4], CASES[2]))
    assert_same_bits(frozen.states, lists.states)
    assert not torch.equal(adapting.states[0], lists.states[0])


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("freeze_after", [2, 3])
def test_freeze_after_is_the_last_step_that_adapts(device: torch.device, freeze_after: int, as_tensor: bool) -> None:
    """The step of KEY is 3."""
    lists = make_lists([(70,)], torch.float32, device)
    step = {"step": torch.tensor(KEY["step"], device=device)} if as_tensor else {}
    got = run(CASES[2], lists, freeze_after=freeze_after, **step)
    same = run(CASES[2], lists, freeze_after=ops.NEVER if freeze_after == 3 else -1)
    assert_same_bits(got.params + got.states, same.params + same.states)


@EVERY_DTYPE
@EVERY_CASE
def test_cuda_has_the_bits_of_the_cpu(cuda: torch.device, dtype: torch.dtype, case: Case) -> None:
    shapes = SHAPES + [(n,) for n in range(1, 120)] + [(40001,)]  # also more tensors than one launch takes
    lists = make_lists(shapes, dtype, torch.device("cpu"))
    on_cpu, on_gpu = run(case, lists), run(case, lists.map(lambda tensor: tensor.to(cuda)))
    assert_same_bits(on_gpu.params, on_cpu.params)
    assert_same_bits(on_gpu.states, on_cpu.states)


# --- Lists, pieces, threads ---


@EVERY_DTYPE
@EVERY_CASE
def test_empty_tensors_anywhere_lose_nothing(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    shapes = [(0,), (70,), (0, 3), (), (0,), (5, 5), (2, 0)]
    lists = make_lists(shapes, dtype, device)
    kept = [i for i, shape in enumerate(shapes) if 0 not in shape]
    without = Lists(*([ts[i] for i in kept] for ts in (lists.params, lists.grads, lists.states)))
    got = run(case, lists)
    assert_same_bits([got.params[i] for i in kept], run(case, without, noise_ids=kept).params)
    assert [tuple(t.shape) for t in got.params] == shapes


@EVERY_CASE
def test_nothing_to_do(device: torch.device, case: Case) -> None:
    assert run(case, make_lists([], torch.float32, device)).params == []
    run(case, make_lists([(0,), (0, 4)], torch.float32, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@EVERY_CASE
def test_one_call_equals_one_call_per_tensor(device: torch.device, case: Case, dtype: torch.dtype) -> None:
    lists = make_lists([(n,) for n in range(1, 101)], dtype, device)
    together = run(case, lists)
    for i in range(100):
        one = Lists([lists.params[i]], [lists.grads[i]], [lists.states[i]])
        assert_same_bits(run(case, one, noise_ids=[i]).params, [together.params[i]])


def test_parameters_and_offsets_choose_the_noise(device: torch.device) -> None:
    """With zero gradients, θ moves by √(2 lr T / N) ξ alone."""
    for parameter, offset in [(0, 0), (5, 3), (2**40, 2**35 + 1)]:
        param = torch.zeros(200, device=device)
        options: dict[str, Any] = {
            "lr": 0.5,
            "num_data": 1,
            "temperature": 1,
            "noise_ids": [parameter],
            "offsets": [offset],
        }
        ops.sgld_step_([param], [torch.zeros_like(param)], **options, **KEY)
        assert torch.equal(param, ops.normal(200, **KEY, parameter=parameter, offset=offset, device=device))


@given(
    n=st.integers(1, 700),
    cuts=st.lists(st.integers(0, 700), max_size=4),
    offset=st.sampled_from([0, 13, 2**34 - 300]),
    case=st.sampled_from(CASES),
    dtype=st.sampled_from(ops.PARAMETER_DTYPES),
)
def test_shards_have_the_bits_of_the_whole(
    device: torch.device, n: int, cuts: list[int], offset: int, case: Case, dtype: torch.dtype
) -> None:
    """A parameter in pieces, each at its own offset (a piece may be empty)."""
    lists = make_lists([(n,)], dtype, device)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    ranges = list(pairwise(bounds))
    shards = Lists(*([ts[0][a:b].clone() for a, b in ranges] for ts in (lists.params, lists.grads, lists.states)))
    whole = run(case, lists, noise_ids=[4], offsets=[offset])
    pieces = run(case, shards, noise_ids=[4] * len(ranges), offsets=[offset + a for a, _ in ranges])
    assert torch.equal(torch.cat(pieces.params), whole.params[0])
    assert torch.equal(torch.cat(pieces.states), whole.states[0])


@pytest.mark.parametrize("as_tensor", [False, True])
@EVERY_DTYPE
@EVERY_CASE
def test_columns_have_the_bits_of_the_whole(
    device: torch.device, case: Case, dtype: torch.dtype, as_tensor: bool
) -> None:
    """Shards that are rows of the parameter: columns of a matrix, of all its rows and of some, uneven and empty."""
    widths, offset = [1, 2, 3, 0, 5, 7, 16, 33, 257, 40], 13
    columns = sum(widths)
    lists = make_lists([(9, columns)], dtype, device)
    clock = clock_tensors(torch.tensor(case.options["lr"], dtype=torch.float64), KEY["step"], device)
    given = clock if as_tensor else {}
    whole = run(case, lists, noise_ids=[4], offsets=[offset], **given)

    def columns_of(tensor: Tensor, rows: slice) -> list[Tensor]:
        return [part.contiguous() for part in tensor[rows].split(widths, 1)]

    for rows in (slice(0, 9), slice(2, 7)):
        starts = [offset + rows.start * columns + start for start in accumulate(widths[:-1], initial=0)]
        shards = {"offsets": starts, "row_lengths": widths, "row_strides": [columns] * len(widths)}
        parts = Lists(*(columns_of(ts[0], rows) for ts in (lists.params, lists.grads, lists.states)))
        got = run(case, parts, noise_ids=[4] * len(widths), **shards, **given)
        assert_same_bits(got.params, columns_of(whole.params[0], rows))
        assert_same_bits(got.states, columns_of(whole.states[0], rows))


@pytest.mark.parametrize(("row_length", "row_stride"), [(0, 0), (7, 7), (300, 1000)])
def test_rows_that_are_one_range(device: torch.device, row_length: int, row_stride: int) -> None:
    lists = make_lists([(300,)], torch.float32, device)
    got = run(CASES[0], lists, offsets=[5], row_lengths=[row_length], row_strides=[row_stride])
    assert_same_bits(got.params, run(CASES[0], lists, offsets=[5]).params)


@EVERY_DTYPE
def test_rows_at_the_last_elements(device: torch.device, dtype: torch.dtype) -> None:
    """The last element that a parameter may have, reached by long strides."""
    case, stride = CASES[0], 2**38 + 5
    lists = make_lists([(8, 3)], dtype, device)
    offset = 2**41 - 7 * stride - 3
    shard = {"offsets": [offset], "row_lengths": [3], "row_strides": [stride]}
    got = run(case, lists, **shard)
    for row in range(8):
        one = lists.map(lambda tensor, row=row: tensor[row])
        assert_same_bits([got.params[0][row]], run(case, one, offsets=[offset + row * stride]).params)


@pytest.mark.parametrize("rows", [{}, {"row_lengths": [88, 0, 0, 5, 0], "row_strides": [177, 0, 0, 7, 0]}], ids=str)
@EVERY_DTYPE
@EVERY_CASE
def test_threads_do_not_matter(
    restore_threads: None, dtype: torch.dtype, case: Case, rows: dict[str, list[int]]
) -> None:
    lists = make_lists([(100_003,), (7,), (0,), (333, 101), ()], dtype, torch.device("cpu"))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(case, lists, **rows))
    for other in results[1:]:
        assert_same_bits(other.params, results[0].params)
        assert_same_bits(other.states, results[0].states)


# --- lr and step as tensors ---


def clock_tensors(lr: Tensor, step: int, device: torch.device, shape: tuple[int, ...] = ()) -> dict[str, Tensor]:
    return {"lr": lr.to(device).reshape(shape), "step": torch.full(shape, step, device=device)}


@EVERY_DTYPE
@EVERY_CASE
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_tensors_give_the_bits_of_numbers(device: torch.device, case: Case, dtype: torch.dtype, where: str) -> None:
    """lr and step on the CPU, where they are read at once, or on the device, where they are read when the step runs."""
    lists = make_lists(SHAPES, dtype, device)
    place = torch.device("cpu") if where == "cpu" else device
    expected = run(case, lists)
    for lr_dtype, shape in [(torch.float64, ()), (torch.float64, (1,)), (torch.float32, ()), (torch.float32, (1, 1))]:
        lr = torch.tensor(case.options["lr"], dtype=lr_dtype)
        tensors = clock_tensors(lr, KEY["step"], place, shape)
        got = run(case, lists, **tensors)
        numbers = expected if lr_dtype == torch.float64 else run(case, lists, lr=float(lr))
        assert_same_bits(got.params + got.states, numbers.params + numbers.states)
        assert (tensors["lr"].item(), tensors["step"].item()) == (float(lr), KEY["step"]), "they are only read"


@EVERY_CASE
@pytest.mark.parametrize(
    ("argument", "step"), [("lr", 3), ("step", 3), ("step", 0), ("step", 2**32 + 5), ("step", 2**40 - 1)]
)
def test_only_one_of_them_a_tensor(device: torch.device, case: Case, argument: str, step: int) -> None:
    """And steps that are far."""
    lists = make_lists(SHAPES, torch.float32, device)
    value = clock_tensors(torch.tensor(case.options["lr"], dtype=torch.float64), step, device)[argument]
    got, expected = run(case, lists, **{"step": step, argument: value}), run(case, lists, step=step)
    assert_same_bits(got.params + got.states, expected.params + expected.states)


# --- Strides ---

STRIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
}


def in_memory_order(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("layout", STRIDED)
@EVERY_CASE
def test_strided_tensors(device: torch.device, case: Case, layout: str, dtype: torch.dtype) -> None:
    """Elements count in memory order: the step of a dense tensor is the step of its memory."""
    lists = make_lists([(4, 3, 5, 6)], dtype, device).map(STRIDED[layout])
    assert not lists.params[0].is_contiguous()
    # preserve_format: clone keeps the strides of a dense tensor.
    got = run(case, lists)
    assert got.params[0].stride() == lists.params[0].stride()
    flat = run(case, lists.map(in_memory_order))
    assert torch.equal(in_memory_order(got.params[0]), flat.params[0])
    assert torch.equal(in_memory_order(got.states[0]), flat.states[0])


def unaligned(tensor: Tensor) -> Tensor:
    """A copy that begins one element behind the start of its memory."""
    buffer = tensor.new_empty(tensor.numel() + 1)
    return buffer[1:].view(tensor.shape).copy_(tensor)


@EVERY_DTYPE
@EVERY_CASE
def test_alignment_does_not_matter(device: torch.device, case: Case, dtype: torch.dtype) -> None:
    """Kernels read many elements at once: here none of these accesses is aligned."""
    lists = make_lists([(1000,), (7,), (3, 43)], dtype, device)
    moved = lists.map(unaligned)
    run_in_place(case, moved)
    expected = run(case, lists)
    assert_same_bits(moved.params + moved.states, expected.params + expected.states)


def test_strides_of_dimensions_of_size_one_do_not_matter(device: torch.device) -> None:
    param = torch.zeros(3, 1, device=device)
    grad = torch.zeros(3, 9, device=device)[:, :1].as_strided((3, 1), (1, 77))
    ops.sgld_step_([param], [grad], lr=0.5, **KEY)
    assert torch.equal(param[:, 0], ops.normal(3, **KEY, device=device))


# --- Values that are no numbers ---


@EVERY_DTYPE
@EVERY_CASE
def test_nan_stays_in_its_element(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    lists = make_lists([(100,)], dtype, device)
    poisoned = lists.map(lambda tensor: tensor.clone())
    poisoned.grads[0][17] = float("nan")
    poisoned.params[0][40] = float("nan")
    got, clean = run(case, poisoned), run(case, lists)
    for a, b in zip(got.params + got.states, clean.params + clean.states, strict=True):
        a[[17, 40]] = b[[17, 40]]
        assert torch.equal(a, b)
    again = run(case, poisoned)
    assert again.params[0].isnan().nonzero().flatten().tolist() == [17, 40]


@DTYPES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_overflown_average_stops_its_element(device: torch.device, dtype: torch.dtype, temperature: float) -> None:
    """v = inf makes G = 0: the parameter stays, as under torch.optim.RMSprop, and is not lost to NaN."""
    huge = torch.finfo(dtype).max / 4
    param = torch.full((3,), 2.0, dtype=dtype, device=device)
    grad = torch.tensor([0.0, huge, 0.0], dtype=dtype, device=device)
    square_avg = torch.ones(3, dtype=dtype, device=device)
    ops.psgld_step_([param], [grad], [square_avg], lr=1e-3, temperature=temperature, eps=0.1, **KEY)
    assert square_avg[1] == float("inf")
    assert param[1] == 2.0
