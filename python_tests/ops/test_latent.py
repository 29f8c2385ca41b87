"""Noise and steps of latent variables: row r has the noise of parameter index[r] bit for bit, in every batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops.test_steps import assert_same_bits
from torch import Tensor

from ald_ext import ops, reference

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
DIMENSIONS = [1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 1000]
KEY: dict[str, Any] = {"seed": 2**63 - 5, "step": 2**33 + 1}
LARGEST = 2**44 - 1


def index_of(rows: int, device: torch.device) -> Tensor:
    """Of all sizes, some of them twice."""
    generator = torch.Generator().manual_seed(rows)
    index = torch.randint(0, LARGEST, (rows,), generator=generator)
    index >>= torch.randint(0, 44, (rows,), generator=generator)
    index[rows // 2 :] = index[: rows - rows // 2].clone()
    index[-1:] = LARGEST
    return index.to(device)


def row_by_row(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    rows = [ops.normal(count, **KEY, parameter=datum, dtype=dtype) for datum in index.tolist()]
    return torch.stack(rows) if rows else torch.empty(0, count, dtype=dtype)


# --- Noise ---


@DTYPES
@pytest.mark.parametrize("rows", [0, 1, 5, 16, 333])
@pytest.mark.parametrize("count", DIMENSIONS)
def test_normals_are_those_of_the_parameter(device: torch.device, count: int, rows: int, dtype: torch.dtype) -> None:
    index = index_of(rows, device)
    got = ops.latent_normal(index, count, **KEY, dtype=dtype)
    assert (got.shape, got.dtype, got.device.type) == ((rows, count), dtype, device.type)
    assert torch.equal(got.cpu(), row_by_row(index, count, dtype))


@given(order=st.permutations(list(range(20))), size=st.integers(1, 20), count=st.integers(1, 40))
def test_a_datums_noise_is_the_same_in_any_batch(device: torch.device, order: list[int], size: int, count: int) -> None:
    index = index_of(20, device)
    picked = torch.tensor(order[:size], device=device)
    got = ops.latent_normal(index[picked], count, **KEY)
    assert torch.equal(got, ops.latent_normal(index, count, **KEY)[picked])


@DTYPES
@pytest.mark.parametrize("offset", [1, 15, 16, 37, 64, 1000])
@pytest.mark.parametrize("count", [1, 5, 16, 70])
def test_normals_from_an_element_on(device: torch.device, count: int, offset: int, dtype: torch.dtype) -> None:
    index = index_of(40, device)
    got = ops.latent_normal(index, count, **KEY, offset=offset, dtype=dtype)
    assert torch.equal(got, ops.latent_normal(index, offset + count, **KEY, dtype=dtype)[:, offset:])
    largest = {"count": 3, **KEY, "dtype": dtype, "offset": 2**41 - 3}
    datum = int(index[7])
    expected = ops.normal(3, **KEY, parameter=datum, offset=2**41 - 3, dtype=dtype)
    assert torch.equal(ops.latent_normal(index, **largest)[7].cpu(), expected)


@DTYPES
@pytest.mark.parametrize("steps", [range(0), range(3, 4), range(9, 2, -2), range(2**33, 2**33 + 7, 2)], ids=str)
def test_normals_of_several_steps(device: torch.device, steps: range, dtype: torch.dtype) -> None:
    index, key = index_of(20, device), {"seed": 3, "offset": 5, "dtype": dtype}
    got = ops.latent_normal(index, 7, step=steps, **key)
    assert got.shape == (len(steps), 20, 7)
    for values, step in zip(got, steps, strict=True):
        assert torch.equal(values, ops.latent_normal(index, 7, step=step, **key))
    with pytest.raises(RuntimeError, match="latent_normal_: step: got -1, expected"):
        ops.latent_normal(index, 7, step=range(-1, 1), **key)


def test_strided_index(device: torch.device) -> None:
    index = index_of(20, device)
    got = ops.latent_normal(index[::3], 5, **KEY)
    assert torch.equal(got, ops.latent_normal(index[::3].contiguous(), 5, **KEY))


@pytest.mark.parametrize(("rows", "count"), [(0, 0), (0, 5), (5, 0)])
def test_nothing_to_draw(device: torch.device, rows: int, count: int) -> None:
    assert ops.latent_normal(index_of(rows, device), count, **KEY).shape == (rows, count)


# --- Steps ---


@dataclass(frozen=True)
class Case:
    name: str
    underdamped: bool
    options: dict[str, Any]

    def run(self, tensors: list[Tensor], index: Tensor, **more: Any) -> list[Tensor]:
        """Of copies of z, grad and momenta: what is written."""
        z, grad, momenta = (tensor.clone() for tensor in tensors)
        options = {**self.options, **KEY, **more}
        if self.underdamped:
            ops.latent_underdamped_step_(z, momenta, grad, index, **options)
            return [z, momenta]
        ops.latent_langevin_step_(z, grad, index, **options)
        return [z]

    def run_as_parameters(self, tensors: list[Tensor], index: Tensor) -> list[Tensor]:
        """By the steps of the optimizers, a parameter a row."""
        written = [tensor.clone() for tensor in tensors]
        z, grad, momenta = (list(tensor) for tensor in written)
        options = {**self.options, **KEY, "num_data": 1.0, "noise_ids": index.tolist()}
        if self.underdamped:
            ops.sghmc_step_(z, grad, momenta, **options)
            return [written[0], written[2]]
        ops.sgld_step_(z, grad, **options)
        return [written[0]]


CASES = [
    Case("langevin", False, {"lr": 0.1, "temperature": 1.5}),
    Case("langevin_cold", False, {"lr": 0.1, "temperature": 0.0}),
    Case("underdamped", True, {"lr": 0.1, "temperature": 1.5, "momentum": 0.9}),
    Case("underdamped_cold", True, {"lr": 0.1, "temperature": 0.0, "momentum": 0.5}),
    Case("no_momentum", True, {"lr": 0.5, "momentum": 0.0}),
    Case("no_time", True, {"lr": 0.0, "momentum": 0.9}),
]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype).to(device) for _ in range(3)]


@DTYPES
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("dimension", DIMENSIONS)
@EVERY_CASE
def test_steps_are_those_of_a_parameter_a_row(
    device: torch.device, case: Case, dimension: int, rows: int, dtype: torch.dtype
) -> None:
    """With N = 1: one formula."""
    tensors, index = draw((rows, dimension), dtype, device), index_of(rows, device)
    assert_same_bits(case.run(tensors, index), case.run_as_parameters(tensors, index))


@DTYPES
@pytest.mark.parametrize("cut", [1, 3, 16, 50])
@EVERY_CASE
def test_rows_in_two_parts(device: torch.device, case: Case, cut: int, dtype: torch.dtype) -> None:
    tensors, index = draw((40, 70), dtype, device), index_of(40, device)
    parts = [
        case.run([tensor[:, start:stop].contiguous() for tensor in tensors], index, offset=start)
        for start, stop in [(0, cut), (cut, 70)]
    ]
    assert_same_bits([torch.cat(written, 1) for written in zip(*parts, strict=True)], case.run(tensors, index))


@DTYPES
@pytest.mark.parametrize("offset", [0, 33])
@EVERY_CASE
def test_steps_agree_with_the_reference(device: torch.device, case: Case, offset: int, dtype: torch.dtype) -> None:
    tensors, index = draw((30, 4, 5), dtype, device), index_of(30, device)
    z, grad, momenta = (tensor.clone() for tensor in tensors)
    options = {"temperature": 1.0, **case.options, **KEY, "offset": offset}
    expected = [z, momenta] if case.underdamped else [z]
    step = reference.latent_underdamped_step_ if case.underdamped else reference.latent_langevin_step_
    step(*expected, grad, index, **options)
    # Noise to 1e-6 and 1e-14, scales below 1; a few roundings of numbers below 4.
    tolerance = {torch.float32: 4 * 6 * 2.0**-24 + 1e-6, torch.float64: 4 * 6 * 2.0**-53 + 1e-14}[dtype]
    torch.testing.assert_close(case.run(tensors, index, offset=offset), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0), (0, 0), (4, 2, 0, 3)], ids=str)
@EVERY_CASE
def test_nothing_to_do(device: torch.device, case: Case, shape: tuple[int, ...]) -> None:
    written = case.run(draw(shape, torch.float32, device), index_of(shape[0], device))
    assert all(tensor.shape == shape for tensor in written)


@pytest.mark.parametrize("shape", [(7,), (7, 2, 3), (7, 1, 1, 20)], ids=str)
@EVERY_CASE
def test_shapes_of_a_row(device: torch.device, case: Case, shape: tuple[int, ...]) -> None:
    tensors, index = draw(shape, torch.float32, device), index_of(7, device)
    got = case.run(tensors, index)
    flat = case.run([tensor.reshape(7, -1) for tensor in tensors], index)
    assert_same_bits(got, [tensor.view(shape) for tensor in flat])


@EVERY_CASE
def test_gradients_of_any_strides(device: torch.device, case: Case) -> None:
    """As autograd gives them: of a sum, one number expanded."""
    z, grad, momenta = draw((6, 8), torch.float32, device)
    index = index_of(6, device)
    for strided in (grad.t().contiguous().t(), grad[:1].expand(6, 8), grad[0, 0].expand(6, 8)):
        assert_same_bits(case.run([z, strided, momenta], index), case.run([z, strided.contiguous(), momenta], index))


@DTYPES
@EVERY_CASE
def test_cuda_has_the_bits_of_the_cpu(cuda: torch.device, case: Case, dtype: torch.dtype) -> None:
    cpu = torch.device("cpu")
    for dimension in (1, 2, 17, 1000):
        tensors, index = draw((333, dimension), dtype, cpu), index_of(333, cpu)
        for offset in (0, 21):
            on_gpu = case.run([tensor.to(cuda) for tensor in tensors], index.to(cuda), offset=offset)
            assert_same_bits(on_gpu, case.run(tensors, index, offset=offset))


# --- Errors: nothing has been changed then ---


def valid(device: torch.device) -> dict[str, Any]:
    """The arguments of an underdamped step; the others take some of them."""
    z, momenta, grad = torch.rand(3, 4, 6, device=device)
    return {"z": z, "momenta": momenta, "grad": grad, "index": torch.tensor([3, 1, 3, 9], device=device)}


NUMBERS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "seed": 1, "step": 1}
NOISE = ("index", "count", "seed", "step", "offset", "dtype")
LANGEVIN = ("z", "grad", "index", "lr", "temperature", "seed", "step", "offset")
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "latent_normal": (ops.latent_normal, NOISE),
    "latent_langevin_step_": (ops.latent_langevin_step_, LANGEVIN),
    "latent_underdamped_step_": (ops.latent_underdamped_step_, (*LANGEVIN, "momenta", "momentum")),
}


def check_refused(device: torch.device, message: str, spoil: Callable[[dict[str, Any]], None], *names: str) -> None:
    """By each of the functions that have such an argument."""
    for name in names or FUNCTIONS:
        function, taken = FUNCTIONS[name]
        arguments = {**valid(device), "count": 6, **NUMBERS}
        spoil(arguments)
        given = {key: value for key, value in arguments.items() if key in taken}
        tensors = [value for value in given.values() if isinstance(value, Tensor) and not value.is_meta]
        before, versions = [tensor.clone() for tensor in tensors], [tensor._version for tensor in tensors]
        with pytest.raises(RuntimeError, match=rf"{name}.*{message}"):
            function(**given)
        for tensor, old in zip(tensors, before, strict=True):
            assert torch.equal(tensor, old)
        assert [tensor._version for tensor in tensors] == versions


STEP_NAMES = ("latent_langevin_step_", "latent_underdamped_step_")


def replaced(argument: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def spoil(arguments: dict[str, Any]) -> None:
        arguments[argument] = change(arguments.get(argument))

    return spoil


@pytest.mark.parametrize(
    ("names", "argument", "change", "message"),
    [
        (STEP_NAMES, "z", lambda z: z.half(), "z: got dtype Half, expected Float or Double"),
        (STEP_NAMES, "z", lambda z: z[0, 0], "z: got a tensor without dimensions|grad: got shape"),
        (STEP_NAMES, "z", lambda z: z.t().contiguous().t(), r"z: got strides \(1, 4\), expected a contiguous tensor"),
        (STEP_NAMES, "z", lambda z: z[:3].clone(), r"grad: got shape \(4, 6\), expected \(3, 6\) as of z"),
        (STEP_NAMES, "grad", lambda grad: grad.double(), "grad: got dtype Double, expected Float"),
        (STEP_NAMES, "grad", lambda grad: grad.flatten(), r"grad: got shape \(24\), expected \(4, 6\) as of z"),
        (STEP_NAMES[1:], "momenta", lambda p: p.double(), "momenta: got dtype Double, expected Float"),
        (STEP_NAMES[1:], "momenta", lambda p: p[:, :5].clone(), r"got shape \(4, 5\), expected \(4, 6\) as of z"),
        (STEP_NAMES[1:], "momenta", lambda p: p.t().contiguous().t(), r"momenta: got strides \(1, 4\), expected a c"),
        ((), "index", lambda index: index.int(), "index: got dtype Int, expected Long"),
        ((), "index", lambda index: index.view(2, 2), r"index: got shape \(2, 2\)"),
        (STEP_NAMES, "index", lambda index: index[:3], r"index: got shape \(3\), expected \(4\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_tensors(
    device: torch.device, names: tuple[str, ...], argument: str, change: Callable[[Any], Any], message: str
) -> None:
    check_refused(device, message, replaced(argument, change), *names)


@pytest.mark.parametrize("datum", [-1, 2**44, -(2**63), 2**63 - 1])
def test_index_out_of_range(datum: int) -> None:
    """On a CPU; CUDA does not look."""
    expected = rf"index\[1\]: got {datum}, expected 0 to {LARGEST}"
    check_refused(torch.device("cpu"), expected, replaced("index", lambda index: torch.tensor([LARGEST, datum, 0, -5])))


def test_one_datum_of_many_out_of_range() -> None:
    """Where several threads look."""
    index = torch.arange(200_000)
    index[123_456] = -7
    with pytest.raises(RuntimeError, match=r"latent_normal_: index\[123456\]: got -7, expected 0 to"):
        ops.latent_normal(index, 1, **KEY)


@pytest.mark.parametrize("argument", ["index", "grad", "momenta"])
def test_two_devices(device: torch.device, argument: str) -> None:
    names = [name for name in STEP_NAMES if argument in FUNCTIONS[name][1]]
    other = "cpu" if device.type == "cuda" else "meta"
    check_refused(device, f"{argument}: got a tensor on", replaced(argument, lambda tensor: tensor.to(other)), *names)


def test_shared_memory(device: torch.device) -> None:
    def same(first: str, second: str) -> Callable[[dict[str, Any]], None]:
        def spoil(arguments: dict[str, Any]) -> None:
            arguments[first] = arguments[second]

        return spoil

    check_refused(device, "grad, index: got memory that the step writes", same("grad", "z"), *STEP_NAMES)
    check_refused(
        device, "grad, index: got memory that the step writes", same("grad", "momenta"), "latent_underdamped_step_"
    )
    check_refused(device, "z, momenta: got the same memory twice", same("momenta", "z"), "latent_underdamped_step_")


@pytest.mark.parametrize(
    ("argument", "values", "expected", "names"),
    [
        ("lr", [-0.1, float("inf"), float("nan")], "expected a finite number >= 0", STEP_NAMES),
        ("temperature", [-1.0, float("nan")], "expected a finite number >= 0", STEP_NAMES),
        ("momentum", [-0.1, 1.0, float("nan")], "expected 0 <= momentum < 1", STEP_NAMES[1:]),
        ("seed", [-1], "expected 0 to", ()),
        ("step", [-1, 2**40], "expected 0 to", ()),
        ("offset", [-1, 2**41 - 5], f"expected 0 to {2**41 - 6}", ()),
        ("count", [-1], "expected an integer >= 0", ("latent_normal",)),
    ],
    ids=["lr", "temperature", "momentum", "seed", "step", "offset", "count"],
)
def test_numbers_out_of_range(
    device: torch.device, argument: str, values: list[float], expected: str, names: tuple[str, ...]
) -> None:
    for value in values:
        message = rf"{argument}: got {re.escape(f'{value:g}' if isinstance(value, float) else str(value))}, {expected}"
        check_refused(device, message, replaced(argument, lambda _, value=value: value), *names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_dtypes_of_noise(device: torch.device, dtype: torch.dtype) -> None:
    check_refused(device, "out: got dtype .*expected Float", replaced("dtype", lambda _: dtype), "latent_normal")


@pytest.mark.parametrize("argument", ["z", "momenta"])
def test_refuses_what_autograd_records(device: torch.device, argument: str) -> None:
    names = [name for name in STEP_NAMES if argument in FUNCTIONS[name][1]]
    message = f"{argument}: got a tensor that requires grad, which autograd is recording"
    check_refused(device, message, replaced(argument, lambda tensor: tensor.requires_grad_()), *names)
    arguments = {**valid(device), **NUMBERS}
    arguments[argument].requires_grad_()
    with torch.no_grad():
        ops.latent_underdamped_step_(**arguments)
