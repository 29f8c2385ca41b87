"""Bad input to the ops: one error that names the function, the argument, what was got and what was expected; and
nothing has been changed then."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import ops

#: The argument that holds the states, of the steps that have some.
STATES = {"psgld": "square_avgs", "sghmc": "momenta"}
EVERY_STATE = pytest.mark.parametrize("kind", STATES)

#: Steps with states, and each of their lists.
EVERY_LIST = pytest.mark.parametrize(
    ("kind", "argument"), [(kind, name) for kind in STATES for name in ("params", "grads", STATES[kind])]
)
EVERY_COMPANION = pytest.mark.parametrize(
    ("kind", "argument"), [(kind, name) for kind in STATES for name in ("grads", STATES[kind])]
)


@dataclass
class Step:
    """A valid step of two tensors, to be spoilt."""

    device: torch.device
    kind: str
    options: dict[str, Any] = field(default_factory=lambda: {"lr": 0.1, "seed": 1, "step": 1})

    def __post_init__(self) -> None:
        self.params, self.grads, self.states = ([self.tensor(2, 3), self.tensor(4)] for _ in range(3))

    def tensor(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device)

    @property
    def lists(self) -> list[list[Tensor]]:
        return [self.params, self.grads, self.states] if self.kind in STATES else [self.params, self.grads]

    def replace(self, argument: str, tensors: list[Tensor]) -> None:
        setattr(self, "states" if argument == STATES.get(self.kind) else argument, tensors)

    def named(self, argument: str) -> list[Tensor]:
        return getattr(self, "states" if argument == STATES.get(self.kind) else argument)

    def call(self) -> None:
        getattr(ops, f"{self.kind}_step_")(*self.lists, **self.options)

    def check_refused(self, *parts: str) -> None:
        """The call raises an error that has all the parts, and leaves every tensor as it was."""
        before = [tensor.clone() for tensors in self.lists for tensor in tensors]
        versions = [tensor._version for tensors in self.lists for tensor in tensors]
        with pytest.raises(RuntimeError) as error:
            self.call()
        for part in (f"ald_ext::{self.kind}_step_", *parts):
            assert part in str(error.value)
        after = [tensor for tensors in self.lists for tensor in tensors]
        assert versions == [tensor._version for tensor in after]
        for old, new in zip(before, after, strict=True):
            if not new.is_meta and not new.is_sparse:
                assert torch.equal(old, new)


@pytest.fixture(params=["sgld", "psgld", "sghmc"])
def step(request: pytest.FixtureRequest, device: torch.device) -> Step:
    return Step(device, request.param)


def other_device(device: torch.device) -> torch.device:
    """A real one where there is one: the CPU for CUDA. The CPU itself has only meta beside it."""
    return torch.device("cpu" if device.type == "cuda" else "meta")


def test_the_valid_step_is_valid(step: Step) -> None:
    before = step.params[0].clone()
    step.call()
    assert not torch.equal(step.params[0], before)


# --- Lists ---


@EVERY_COMPANION
@pytest.mark.parametrize("length", [0, 1, 3])
def test_lists_of_different_lengths(device: torch.device, kind: str, argument: str, length: int) -> None:
    step = Step(device, kind)
    step.replace(argument, [step.tensor(2, 3), step.tensor(4), step.tensor(4)][:length])
    step.check_refused(f"{argument}: got {length} items, expected 2")


@EVERY_COMPANION
def test_no_params_but_companions(device: torch.device, kind: str, argument: str) -> None:
    step = Step(device, kind)
    step.params, step.grads, step.states = [], [], []
    step.replace(argument, [step.tensor(4)])
    step.check_refused(f"{argument}: got 1 items, expected 0")


@pytest.mark.parametrize("argument", ["noise_ids", "offsets", "row_lengths", "row_strides"])
def test_noise_indices_of_another_length(step: Step, argument: str) -> None:
    step.options |= {"row_lengths": [1, 1], "row_strides": [1, 1], argument: [0]}
    step.check_refused(f"{argument}: got 1 items, expected 2")


@pytest.mark.parametrize(("given", "missing"), [("row_lengths", "row_strides"), ("row_strides", "row_lengths")])
def test_rows_without_length_or_stride(step: Step, given: str, missing: str) -> None:
    step.options[given] = [1, 1]
    step.check_refused(f"{missing}: got 0 items, expected 2")


def test_the_same_tensor_twice(step: Step) -> None:
    step.params[1] = step.params[0]
    step.grads[1] = step.grads[0].clone()
    step.states[1] = step.states[0].clone()
    step.check_refused("params", "got the same memory twice, expected distinct tensors")


@EVERY_STATE
def test_a_param_that_is_a_state(device: torch.device, kind: str) -> None:
    step = Step(device, kind)
    step.states[1] = step.params[1]
    step.check_refused(STATES[kind], "got the same memory twice, expected distinct tensors")


def test_params_that_overlap(step: Step) -> None:
    """csrc/cpu/kernels.cpp rests on it: `ivdep` states that what is written overlaps nothing."""
    buffer = step.tensor(96)
    step.params = [buffer[:64], buffer[32:]]
    step.grads = [step.tensor(64), step.tensor(64)]
    step.states = [step.tensor(64), step.tensor(64)]
    step.check_refused("params", "expected distinct tensors")


def test_a_grad_that_overlaps_a_param(step: Step) -> None:
    buffer = step.tensor(65)
    step.params, step.grads, step.states = [buffer[1:]], [buffer[:-1]], [step.tensor(64)]
    step.check_refused("grads")


# --- Tensors ---


@EVERY_LIST
def test_other_shapes(device: torch.device, kind: str, argument: str) -> None:
    step = Step(device, kind)
    step.named(argument)[0] = step.tensor(3, 2)
    companion = "grads" if argument == "params" else argument
    got, expected = ("(2, 3)", "(3, 2)") if argument == "params" else ("(3, 2)", "(2, 3)")
    step.check_refused(f"{companion}[0]: got shape {got}, expected {expected}")


@EVERY_COMPANION
def test_other_strides(device: torch.device, kind: str, argument: str) -> None:
    step = Step(device, kind)
    step.named(argument)[0] = step.tensor(3, 2).t()
    step.check_refused(f"{argument}[0]: got strides (1, 2), expected (3, 1)")


@EVERY_COMPANION
def test_other_dtypes(device: torch.device, kind: str, argument: str) -> None:
    step = Step(device, kind)
    step.named(argument)[1] = step.tensor(4).double()
    step.check_refused(f"{argument}[1]: got dtype Double, expected Float")


def test_params_of_two_dtypes(step: Step) -> None:
    for tensors in step.lists:
        tensors[1] = tensors[1].double()
    step.check_refused("params[1]: got dtype Double, expected Float")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int64, "Long"),
        (torch.uint8, "Byte"),
        (torch.complex64, "ComplexFloat"),
        (torch.float8_e4m3fn, "Float8_e4m3fn"),
    ],
)
def test_dtypes_without_kernel(step: Step, dtype: torch.dtype, name: str) -> None:
    for tensors in step.lists:
        tensors[:] = [tensor.to(dtype) for tensor in tensors]
    step.check_refused(f"params[0]: got dtype {name}, expected Float, Double, BFloat16 or Half")


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "Half"), (torch.bfloat16, "BFloat16")])
@EVERY_STATE
def test_16_bit_params_have_a_wide_state(device: torch.device, kind: str, dtype: torch.dtype, name: str) -> None:
    """Only the gradients share the parameter's dtype."""
    step = Step(device, kind)
    step.params = [param.to(dtype) for param in step.params]
    step.check_refused(f"grads[0]: got dtype Float, expected {name}")
    step.grads = [grad.to(dtype) for grad in step.grads]
    step.states[1] = step.states[1].to(dtype)
    step.check_refused(f"{STATES[kind]}[1]: got dtype {name}, expected Float")
    step.states[1] = step.states[1].double()
    step.check_refused(f"{STATES[kind]}[1]: got dtype Double, expected Float")


@pytest.mark.parametrize(
    ("kind", "argument"), [("sgld", "grads"), *((k, name) for k in STATES for name in ("params", "grads", STATES[k]))]
)
@pytest.mark.parametrize("index", [0, 1])
def test_tensors_on_two_devices(device: torch.device, kind: str, argument: str, index: int) -> None:
    step = Step(device, kind)
    step.named(argument)[index] = step.named(argument)[index].to(other_device(device))
    step.check_refused("got a tensor on", "expected")


@pytest.mark.parametrize(
    "view",
    [lambda t: t[:, ::2], lambda t: t[:, :3], lambda t: t[:1].expand(4, 6), lambda t: t[:, 0]],
    ids=["every_second", "columns", "expanded", "column"],
)
def test_params_with_gaps_or_overlaps(step: Step, view: Callable[[Tensor], Tensor]) -> None:
    for tensors in step.lists:
        tensors[0] = view(step.tensor(4, 6))
    step.check_refused("params[0]: got strides", "expected a tensor that fills its memory")


def test_sparse_grads(step: Step) -> None:
    step.grads = [grad.to_sparse() for grad in step.grads]
    step.check_refused("grads[0]: got a tensor of layout torch.sparse_coo, expected a dense tensor")


# --- Numbers ---

INFINITY, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("kinds", "argument", "values", "expected"),
    [
        (["sgld", *STATES], "lr", [-0.1, INFINITY, NAN], "a finite number >= 0"),
        (["sgld", *STATES], "temperature", [-1.0, INFINITY, NAN], "a finite number >= 0"),
        (["sgld", *STATES], "weight_decay", [-1e-9, INFINITY, NAN], "a finite number >= 0"),
        (["sgld", *STATES], "num_data", [0.0, -5.0, INFINITY, NAN], "a finite number > 0"),
        (["psgld"], "eps", [-1e-8, NAN], "a finite number >= 0"),
        (["psgld"], "alpha", [-0.1, 1.0, 1.5, NAN], "0 <= alpha < 1"),
        (["sghmc"], "momentum", [-0.1, 1.0, 1.5, NAN], "0 <= momentum < 1"),
    ],
)
def test_numbers_out_of_range(
    device: torch.device, kinds: list[str], argument: str, values: list[float], expected: str
) -> None:
    for step, value in ((Step(device, kind), value) for kind in kinds for value in values):
        step.options[argument] = value
        step.check_refused(f"{argument}: got {value:g}, expected {expected}")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("seed", -1),
        ("step", -1),
        ("step", 2**40),
        ("noise_ids", [0, -1]),
        ("noise_ids", [0, 2**44]),
        ("offsets", [0, -1]),
        ("offsets", [0, 2**41 - 3]),
    ],
)
def test_noise_keys_out_of_range(step: Step, argument: str, value: Any) -> None:
    step.options[argument] = value
    name, got = (f"{argument}[1]", value[1]) if isinstance(value, list) else (argument, value)
    step.check_refused(f"{name}: got {got}, expected 0 to")


@pytest.mark.parametrize(
    ("row_length", "row_stride", "message"),
    [
        (-1, 4, "row_lengths[1]: got -1 beside a row stride of 4, expected at least 1, or 0 for both"),
        (0, 4, "row_lengths[1]: got 0 beside a row stride of 4, expected at least 1, or 0 for both"),
        (2, 1, "row_strides[1]: got 1, expected at least the row length, 2"),
        (2, 0, "row_strides[1]: got 0, expected at least the row length, 2"),
        (2, -3, "row_strides[1]: got -3, expected at least the row length, 2"),
        (2, 2**41 - 1, "row_strides[1]: got 2199023255551 for 2 rows, expected element indices below 2199023255552"),
        (1, 2**63 - 1, "row_strides[1]: got 9223372036854775807 for 4 rows, expected element indices below"),
        (1, (2**41 - 1) // 3 + 1, "row_strides[1]: got 733007751851 for 4 rows, expected element indices below"),
        (1, (2**41 - 1) // 3, "offsets[1]: got 3, expected 0 to 1"),
    ],
)
def test_rows_out_of_range(step: Step, row_length: int, row_stride: int, message: str) -> None:
    step.options |= {"offsets": [0, 3], "row_lengths": [0, row_length], "row_strides": [0, row_stride]}
    step.check_refused(message)


# --- lr and step as tensors ---


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("lr", torch.tensor([0.1, 0.1]), "got a tensor of 2 elements, expected one"),
        ("lr", torch.empty(0), "got a tensor of 0 elements, expected one"),
        ("lr", torch.tensor(1), "got dtype Long, expected Float or Double"),
        ("lr", torch.tensor(0.1, dtype=torch.float16), "got dtype Half, expected Float or Double"),
        ("lr", torch.tensor(0.1, dtype=torch.bfloat16), "got dtype BFloat16, expected Float or Double"),
        ("step", torch.tensor([1, 2]), "got a tensor of 2 elements, expected one"),
        ("step", torch.tensor(1, dtype=torch.int32), "got dtype Int, expected Long"),
        ("step", torch.tensor(1.0), "got dtype Float, expected Long"),
        # Values are looked at on the CPU, where they are at hand.
        ("lr", torch.tensor(-0.1), "got -0.1, expected a finite number >= 0"),
        ("lr", torch.tensor(INFINITY, dtype=torch.float64), "got inf, expected a finite number >= 0"),
        ("lr", torch.tensor(NAN), "got nan, expected a finite number >= 0"),
        ("step", torch.tensor(-1), "got -1, expected 0 to 1099511627775"),
        ("step", torch.tensor(2**40), "got 1099511627776, expected 0 to 1099511627775"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_tensors_that_are_no_lr_and_no_step(
    step: Step, argument: str, value: Tensor, expected: str, where: str
) -> None:
    is_of_a_value = "dtype" not in expected and "elements" not in expected
    step.options[argument] = value if where == "cpu" or is_of_a_value else value.to(step.device)
    step.check_refused(f"{argument}: {expected}")


@pytest.mark.parametrize("argument", ["lr", "step"])
def test_tensors_on_a_third_device(step: Step, argument: str) -> None:
    """Neither the CPU nor the parameters' device. The fake kernel of a meta tensor must not answer for a real one."""
    value = torch.tensor(0.1) if argument == "lr" else torch.tensor(1)
    step.options[argument] = value.to("meta")
    step.check_refused(f"{argument}: got a tensor on meta")


@pytest.mark.parametrize("kind", ["sgld", "psgld", "sghmc"])
def test_no_params_for_the_registered_op(kind: str) -> None:
    """The functions of ops return before; the op itself finds its device by lr and step."""
    own = {"psgld": {"alpha": 0.9, "eps": 0.1, "freeze_after": -1}, "sghmc": {"momentum": 0.9}}.get(kind, {})
    options = {"num_data": 1.0, "temperature": 1.0, "weight_decay": 0.0, "maximize": False, "seed": 1, **own}
    options |= {"noise_ids": [], "offsets": [], "lr": torch.tensor(0.1), "step": torch.tensor(1)}
    with pytest.raises(RuntimeError, match=r"_step_: params: got an empty list, expected at least one tensor"):
        getattr(torch.ops.ald_ext, f"{kind}_step_").tensor(*([] for _ in range(3 if kind in STATES else 2)), **options)


# --- The likelihood ---


@pytest.mark.parametrize(
    ("x", "mean", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), r"mean: got shape \(3, 4\), expected \(3, 2\)"),
        (torch.zeros(3, 2), torch.zeros(2), r"mean: got shape \(2\), expected \(3, 2\)"),
        (torch.zeros(3, 2), torch.zeros(1, 2), r"mean: got shape \(1, 2\), expected \(3, 2\)"),
        (torch.zeros(()), torch.zeros(()), r"x: got a tensor without dimensions, expected \(N, ...\)"),
        (torch.zeros(3, 2), torch.zeros(3, 2).double(), "mean: got dtype Double, expected Float"),
        (torch.zeros(3, 2).half(), torch.zeros(3, 2).half(), "x: got dtype Half, expected Float or Double"),
        (torch.zeros(3, 2).bfloat16(), torch.zeros(3, 2).bfloat16(), "x: got dtype BFloat16, expected Float or Double"),
        (torch.zeros(3, 2).int(), torch.zeros(3, 2).int(), "x: got dtype Int, expected Float or Double"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_likelihood_arguments(device: torch.device, x: Tensor, mean: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"ald_ext::marginal_gaussian_log_prob: {message}"):
        ops.marginal_gaussian_log_prob(x.to(device), mean.to(device))


@pytest.mark.parametrize("moved", ["x", "mean"])
def test_likelihood_on_two_devices(device: torch.device, moved: str) -> None:
    """The fake kernel of a meta tensor must not answer for the CPU with memory that nobody wrote."""
    tensors = {name: torch.zeros(3, 2, device=device) for name in ("x", "mean")}
    tensors[moved] = tensors[moved].to(other_device(device))
    with pytest.raises(RuntimeError, match=r"marginal_gaussian_log_prob.*got a tensor on .*expected"):
        ops.marginal_gaussian_log_prob(**tensors)


WRONG_PAIRS = [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, NAN), (INFINITY, 1.0), ("a", "b"), (1.0, None)]


@pytest.mark.parametrize("prior", ["gamma", "Flat", None, 1.0, (), (1.0,), (1.0, 2.0, 3.0), *WRONG_PAIRS], ids=str)
def test_bad_prior(device: torch.device, prior: Any) -> None:
    x = torch.zeros(3, 2, device=device)
    pattern = (
        rf"marginal_gaussian_log_prob: prior: got {re.escape(repr(prior))}, expected 'flat', 'jeffreys' or \(a, b\)"
    )
    with pytest.raises(ValueError, match=pattern):
        ops.marginal_gaussian_log_prob(x, x, prior)


def test_likelihood_gradient_arguments(device: torch.device) -> None:
    """The op of the backward pass, too, looks before it reads."""
    backward = torch.ops.ald_ext.marginal_gaussian_log_prob_backward
    x, rows = torch.zeros(3, 2, device=device), torch.zeros(3, device=device)
    with pytest.raises(RuntimeError, match=r"backward: grad: got shape \(2\), expected \(3\)"):
        backward(rows[:2], x, x, rows.double(), 1.0, 0.0, True, True)
    with pytest.raises(RuntimeError, match=r"backward: squared_distance: got dtype Float, expected Double"):
        backward(rows, x, x, rows, 1.0, 0.0, True, True)


# --- Dequantization ---

PIXELS = torch.zeros(3, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("x", "h", "message"),
    [
        (PIXELS.int(), torch.zeros(3, 2), "x: got dtype Int, expected Byte"),
        (PIXELS.float(), torch.zeros(3, 2), "x: got dtype Float, expected Byte"),
        (PIXELS.bool(), torch.zeros(3, 2), "x: got dtype Bool, expected Byte"),
        (PIXELS, torch.zeros(3, 2).half(), "h: got dtype Half, expected Float or Double"),
        (PIXELS, PIXELS, "h: got dtype Byte, expected Float or Double"),
        (PIXELS, torch.zeros(2, 3), r"h: got shape \(2, 3\), expected \(3, 2\)"),
        (PIXELS, torch.zeros(2), r"h: got shape \(2\), expected \(3, 2\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_dequantization_arguments(device: torch.device, x: Tensor, h: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"ald_ext::langevin_dequantize: {message}"):
        ops.langevin_dequantize(x.to(device), h.to(device))


@pytest.mark.parametrize("moved", ["x", "h"])
def test_dequantization_on_two_devices(device: torch.device, moved: str) -> None:
    tensors = {"x": PIXELS.to(device), "h": torch.zeros(3, 2, device=device)}
    tensors[moved] = tensors[moved].to(other_device(device))
    with pytest.raises(RuntimeError, match=r"langevin_dequantize.*got a tensor on .*expected"):
        ops.langevin_dequantize(**tensors)


@pytest.mark.parametrize("bits", [-1, 0, 9, 64])
def test_bits_out_of_range(device: torch.device, bits: int) -> None:
    h = torch.zeros(3, 2, device=device)
    with pytest.raises(RuntimeError, match=f"langevin_dequantize: bits: got {bits}, expected 1 to 8"):
        ops.langevin_dequantize(PIXELS.to(device), h, bits)
    with pytest.raises(RuntimeError, match=f"quantize: bits: got {bits}, expected 1 to 8"):
        ops.quantize(h, bits)


@pytest.mark.parametrize("bits", range(1, 8))
def test_pixels_beyond_the_bits(bits: int) -> None:
    """On the CPU; CUDA does not look (test_dequantization.py)."""
    x = torch.zeros(1000, dtype=torch.uint8)
    x[777] = 2**bits
    expected = f"x: got a pixel of {2**bits}, expected 0 to {2**bits - 1} for bits = {bits}"
    with pytest.raises(RuntimeError, match=f"ald_ext::langevin_dequantize: {expected}"):
        ops.langevin_dequantize(x, torch.zeros(1000), bits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.uint8])
def test_quantize_dtypes(device: torch.device, dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError, match=r"ald_ext::quantize: y: got dtype \w+, expected Float or Double"):
        ops.quantize(torch.zeros(3, device=device, dtype=dtype))


# --- The backward ops ---

BACKWARD = {
    "marginal_gaussian_log_prob": ("grad", "x", "mean", "squared_distance"),
    "langevin_dequantize": ("grad", "x", "h"),
    "dequantized_log_prob": ("grad", "x", "h", "mean", "y", "squared_distance"),
}


def backward_arguments(name: str, device: torch.device) -> dict[str, Any]:
    """Valid ones, by name."""
    arguments: dict[str, Any] = {argument: torch.zeros(3, 2, device=device) for argument in BACKWARD[name]}
    if "squared_distance" in arguments:
        arguments["squared_distance"] = torch.zeros(3, dtype=torch.float64, device=device)
        arguments |= {"grad": torch.zeros(3, device=device), "shape": 1.0, "rate": 0.0}
    if "h" in arguments:
        arguments["x"] = arguments["x"].to(torch.uint8)
    else:
        arguments |= {"need_x": True, "need_mean": True}
    return arguments


SPOILT = {
    "dtype": lambda t: t.to(torch.float32 if t.dtype == torch.float64 else torch.float64),
    "integers": lambda t: t.to(torch.int64),
    "shape": lambda t: torch.zeros((*t.shape, 2), dtype=t.dtype, device=t.device),
    "fewer": lambda t: t[1:],
    "device": lambda t: t.to(other_device(t.device)),
    "meta": lambda t: t.to("meta"),
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in BACKWARD for argument in BACKWARD[name]])
def test_backward_ops_check_as_their_forwards(device: torch.device, name: str, argument: str, kind: str) -> None:
    """Autograd gives them what was saved, whose memory may have been exchanged since: `h.data = h.data.double()`."""
    op = getattr(torch.ops.ald_ext, f"{name}_backward")
    arguments = backward_arguments(name, device)
    assert op(**arguments).isfinite().all()
    arguments[argument] = SPOILT[kind](arguments[argument])
    with pytest.raises(RuntimeError, match=rf"^ald_ext::{name}_backward: \w+: got .*, expected"):
        op(**arguments)


@pytest.mark.parametrize("argument", ["h", "mean"])
def test_saved_tensors_that_were_exchanged(device: torch.device, argument: str) -> None:
    """Large ones: a kernel that believed them would read beyond the end of what it was given."""
    x = torch.zeros(64, 2**16, dtype=torch.uint8, device=device)
    leaves = {name: torch.zeros(x.shape, device=device, requires_grad=True) for name in ("h", "mean")}
    log_prob = ops.dequantized_log_prob(x, **leaves)[1]
    leaves[argument].data = leaves[argument].data.double()
    with pytest.raises(RuntimeError, match=r"ald_ext::dequantized_log_prob_backward: \w+: got dtype .*, expected"):
        log_prob.sum().backward()


# --- What is no dense tensor, and views with bits ---

NO_TENSORS = {
    "none": (lambda t: None, "got None, expected a tensor"),
    "list": (lambda t: t.tolist(), "got a value of type list, expected a tensor"),
    "sparse": (lambda t: t.to_sparse(), "got a tensor of layout torch.sparse_coo, expected a dense tensor"),
    "rows": (
        lambda t: t.view(len(t), -1).to_sparse_csr(),
        "got a tensor of layout torch.sparse_csr, expected a dense tensor",
    ),
    "nested": (lambda t: torch.nested.nested_tensor([t, t]), "got a nested tensor, expected a dense tensor"),
}
FUNCTIONS: dict[str, dict[str, tuple[int, ...]]] = {
    "marginal_gaussian_log_prob": {"x": (3, 2), "mean": (3, 2)},
    "langevin_dequantize": {"x": (3, 2), "h": (3, 2)},
    "dequantized_log_prob": {"x": (3, 2), "h": (3, 2), "mean": (3, 2)},
    "quantize": {"y": (3, 2)},
    "latent_langevin_step_": {"z": (3, 2), "grad": (3, 2), "index": (3,)},
    "latent_underdamped_step_": {"z": (3, 2), "momenta": (3, 2), "grad": (3, 2), "index": (3,)},
}
KEY = {"seed": 1, "step": 1, "lr": 0.1}
OPTIONS = {"latent_langevin_step_": KEY, "latent_underdamped_step_": {**KEY, "momentum": 0.9}}


def arguments_of(name: str, device: torch.device) -> dict[str, Any]:
    arguments: dict[str, Any] = {key: torch.ones(shape, device=device) for key, shape in FUNCTIONS[name].items()}
    if "dequantize" in name:
        arguments["x"] = arguments["x"].to(torch.uint8)
    if "index" in arguments:
        arguments["index"] = arguments["index"].long()
    return {**arguments, **OPTIONS.get(name, {})}


@pytest.mark.parametrize("kind", NO_TENSORS)
@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in FUNCTIONS for argument in FUNCTIONS[name]])
def test_what_is_no_dense_tensor(device: torch.device, name: str, argument: str, kind: str) -> None:
    arguments = arguments_of(name, device)
    change, message = NO_TENSORS[kind]
    arguments[argument] = change(arguments[argument])
    with pytest.raises(RuntimeError, match=rf"^ald_ext::{name}: {argument}: {message}$"):
        getattr(ops, name)(**arguments)


@pytest.mark.parametrize("what", NO_TENSORS)
@EVERY_LIST
def test_steps_of_what_is_no_dense_tensor(device: torch.device, kind: str, argument: str, what: str) -> None:
    step, (change, message) = Step(device, kind), NO_TENSORS[what]
    step.named(argument)[1] = change(step.named(argument)[1])
    with pytest.raises(RuntimeError, match=rf"^ald_ext::{kind}_step_: {argument}\[1\]: {message}$"):
        step.call()


@EVERY_LIST
@pytest.mark.parametrize(("value", "got"), [(None, "None"), (torch.ones(2, 3), "a value of type Tensor")])
def test_what_is_no_list(device: torch.device, kind: str, argument: str, value: Any, got: str) -> None:
    step = Step(device, kind)
    step.replace(argument, value)
    with pytest.raises(
        RuntimeError, match=rf"^ald_ext::{kind}_step_: {argument}: got {got}, expected a list of tensors$"
    ):
        step.call()


@pytest.mark.parametrize(
    ("lr", "step_number", "message"),
    [
        (torch.tensor(0.1), [1], r"step: got \[1\], expected an integer or a tensor of one"),
        (torch.tensor(0.1), 1.5, "step: got 1.5, expected an integer or a tensor of one"),
        ([0.1], torch.tensor(1), r"lr: got \[0.1\], expected a number or a tensor of one"),
        ("0.1", torch.tensor(1), "lr: got '0.1', expected a number or a tensor of one"),
    ],
    ids=str,
)
def test_lists_beside_tensors_of_one_number(step: Step, lr: Any, step_number: Any, message: str) -> None:
    step.options |= {"lr": lr, "step": step_number}
    with pytest.raises(RuntimeError, match=rf"^ald_ext::{step.kind}_step_: {message}$"):
        step.call()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("lr", [0.1], r"\[0.1\], expected a number"),
        ("temperature", None, "None, expected a number"),
        ("step", [1], r"\[1\], expected an integer of 64 bits"),
        ("seed", 2**70, f"{2**70}, expected an integer of 64 bits"),
        ("noise_ids", [1.5], r"\[1.5\], expected a list of integers of 64 bits"),
    ],
    ids=str,
)
def test_options_of_another_type_are_told_in_one_line(step: Step, option: str, value: Any, expected: str) -> None:
    step.options[option] = value
    with pytest.raises(RuntimeError, match=rf"^ald_ext::{step.kind}_step_: {option}: got {expected}\Z"):
        step.call()


@pytest.mark.parametrize("name", ["langevin_dequantize", "dequantized_log_prob", "quantize"])
def test_bits_of_another_type_are_told_in_one_line(device: torch.device, name: str) -> None:
    arguments = arguments_of(name, device) | {"bits": [8]}
    with pytest.raises(RuntimeError, match=rf"^ald_ext::{name}: bits: got \[8\], expected an integer of 64 bits\Z"):
        getattr(ops, name)(**arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, "got None, expected a tensor"),
        (torch.zeros(()), "got a tensor without dimensions, expected"),
        (torch.zeros(2, 3).to_sparse(), "got a sparse or nested tensor, expected a dense one"),
    ],
    ids=["none", "scalar", "sparse"],
)
def test_what_has_no_index_by_content(x: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"index_by_content: x: {message}"):
        ops.index_by_content(x)


@pytest.mark.parametrize("name", ["z", "momenta"])
def test_negated_views_are_not_written_to(device: torch.device, name: str) -> None:
    """Torch's fallback would write one of the two, and raise for the other."""
    arguments = arguments_of("latent_underdamped_step_", device)
    arguments[name] = torch._neg_view(arguments[name])
    before = {key: (value.clone(), value._version) for key, value in arguments.items() if isinstance(value, Tensor)}
    with pytest.raises(RuntimeError, match=f"_step_: {name}: got a view with the negative or conjugate bit, expected"):
        ops.latent_underdamped_step_(**arguments)
    for key, (value, version) in before.items():
        assert torch.equal(arguments[key], value)
        assert arguments[key]._version == version


@EVERY_STATE
def test_negated_params_and_states_are_refused(device: torch.device, kind: str) -> None:
    for argument in ("params", STATES[kind]):
        step = Step(device, kind)
        step.named(argument)[1] = torch._neg_view(step.named(argument)[1])
        step.check_refused(f"{argument}: got a view with the negative or conjugate bit")


def test_negated_gradients_are_read_as_what_they_are(step: Step) -> None:
    plain = Step(step.device, step.kind)
    for ours, others in zip(plain.lists, step.lists, strict=True):
        ours[:] = [tensor.clone() for tensor in others]
    step.grads[1] = torch._neg_view(-step.grads[1])
    versions = [param._version for param in step.params]
    step.call()
    plain.call()
    assert all(map(torch.equal, step.params, plain.params))
    assert [param._version for param in step.params] == [version + 1 for version in versions]


# --- Devices, and sizes whose product overflows ---


@pytest.mark.parametrize("name", ["xpu", "mps"])
def test_devices_that_torch_lacks(name: str) -> None:
    if getattr(torch, name).is_available():
        pytest.skip(f"torch has {name} here")
    with pytest.raises(RuntimeError, match=rf"^ald_ext.ops.normal: device: got {name}, expected one of this torch: "):
        ops.normal(3, seed=1, step=1, device=name)


@pytest.mark.parametrize("n", [2.5, None, [3], "3"], ids=str)
def test_counts_that_are_none(n: Any) -> None:
    expected = rf"got {re.escape(repr(n))}, expected an integer >= 0$"
    with pytest.raises(RuntimeError, match=f"^ald_ext.ops.normal: n: {expected}"):
        ops.normal(n, seed=1, step=1)
    with pytest.raises(RuntimeError, match=f"^ald_ext.ops.latent_normal: count: {expected}"):
        ops.latent_normal(torch.arange(2), n, seed=1, step=1)


@pytest.mark.parametrize("shape", [(0, 2**40, 2**40), (2**31, 2**32, 0), (3, 2**62, 0)], ids=str)
def test_empty_tensors_of_huge_sizes(device: torch.device, shape: tuple[int, ...]) -> None:
    """Their other sizes are not multiplied as signed numbers, whose overflow UBSan would report."""
    empty, grad = (torch.empty(0, device=device).as_strided(shape, (1, 1, 1)) for _ in range(2))
    ops.sgld_step_([empty], [grad], lr=0.1, seed=1, step=1)
    if shape[0] < 100:
        index = torch.arange(shape[0], device=device)
        ops.latent_langevin_step_(empty, grad, index, lr=0.1, seed=1, step=1)
        assert ops.marginal_gaussian_log_prob(empty, empty).shape == shape[:1]
