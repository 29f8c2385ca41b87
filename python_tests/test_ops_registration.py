"""How the ops stand in torch: schemas, fake kernels, autograd, torch.compile, version counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import ops

_OPS = torch.ops.ald_ext


# --- opcheck ---


def step_arguments(device: torch.device, lists: int) -> tuple[tuple[list[Tensor], ...], dict[str, Any]]:
    shapes = [(3, 4), (0,), (), (70,)]
    tensors = tuple([torch.rand(shape, device=device) for shape in shapes] for _ in range(lists))
    options = {"lr": 0.1, "num_data": 10.0, "temperature": 1.0, "weight_decay": 0.1, "maximize": False}
    return tensors, {**options, "seed": 1, "step": 2, "parameters": [0, 1, 2, 3], "offsets": [0, 0, 0, 0]}


def likelihood_arguments(device: torch.device, requires_grad: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, mean = (torch.randn(3, 5, dtype=dtype, device=device, requires_grad=requires_grad) for _ in range(2))
    return x, mean


def pixel_arguments(device: torch.device, requires_grad: bool) -> tuple[Tensor, Tensor]:
    pixels = torch.randint(0, 16, (4, 5)).to(torch.uint8).to(device)
    return pixels, torch.randn(4, 5, device=device, requires_grad=requires_grad)


def opcheck_cases(device: torch.device) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """name: (op, args, kwargs)."""
    sgld, sgld_options = step_arguments(device, 2)
    psgld, psgld_options = step_arguments(device, 3)
    psgld_options |= {"alpha": 0.9, "eps": 0.1, "freeze_after": ops.NEVER}
    x, mean = likelihood_arguments(device, False, torch.float32)
    rows = torch.rand(3, device=device)
    pixels, h = pixel_arguments(device, False)
    return {
        "normal_": (_OPS.normal_, (torch.empty(100, device=device),), {"seed": 1, "step": 2}),
        "sgld_step_": (_OPS.sgld_step_, sgld, sgld_options),
        "psgld_step_": (_OPS.psgld_step_, psgld, psgld_options),
        "psgld_step_frozen": (_OPS.psgld_step_, psgld, {**psgld_options, "freeze_after": -1}),
        "log_prob": (_OPS.marginal_gaussian_log_prob, (x, mean, 1.0, 0.0), {}),
        "log_prob_with_grad": (
            _OPS.marginal_gaussian_log_prob,
            (*likelihood_arguments(device, True, torch.float64), 2.0, 0.5),
            {},
        ),
        "log_prob_with_grad_of_one": (
            _OPS.marginal_gaussian_log_prob,
            (x, likelihood_arguments(device, True, torch.float32)[1], 0.0, 0.0),
            {},
        ),
        "log_prob_backward": (
            _OPS.marginal_gaussian_log_prob_backward,
            (rows, x, mean, rows.double(), 1.0, 0.0, True, True),
            {},
        ),
        "log_prob_backward_of_one": (
            _OPS.marginal_gaussian_log_prob_backward,
            (rows, x, mean, rows.double(), 1.0, 0.0, False, True),
            {},
        ),
        "dequantize": (_OPS.langevin_dequantize, (pixels, h, 4), {}),
        "dequantize_with_grad": (_OPS.langevin_dequantize, pixel_arguments(device, True), {}),
        "dequantize_backward": (_OPS.langevin_dequantize_backward, (torch.rand_like(h), pixels, h, 4), {}),
        "quantize": (_OPS.quantize, (h, 4), {}),
    }


#: Every utility of opcheck applies to every op.
UTILITIES = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("name", opcheck_cases(torch.device("cpu")))
def test_opcheck(device: torch.device, name: str, utility: str) -> None:
    op, args, kwargs = opcheck_cases(device)[name]
    torch.library.opcheck(op.default, args, kwargs, test_utils=utility)


def test_opcheck_sees_every_op() -> None:
    checked = {op.default.name() for op, _, _ in opcheck_cases(torch.device("cpu")).values()}
    registered = {s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith("ald_ext::")}
    assert checked == registered


def test_meta_tensors_get_shapes_and_dtypes() -> None:
    meta = torch.device("meta")
    x = torch.empty(3, 5, dtype=torch.float64, device=meta)
    value = ops.marginal_gaussian_log_prob(x, x)
    assert (value.shape, value.dtype, value.device) == ((3,), torch.float64, meta)
    y = ops.langevin_dequantize(torch.empty(3, 5, dtype=torch.uint8, device=meta), x)
    assert (y.shape, y.dtype, y.device) == ((3, 5), torch.float64, meta)
    assert ops.quantize(y).dtype == torch.uint8
    assert ops.sgld_step_([x], [x.clone()], lr=0.1, seed=1, step=1) is None


# --- torch.compile, without graph breaks ---


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True)


def test_compiled_normal(device: torch.device) -> None:
    def function(x: Tensor, step: int) -> Tensor:
        return 2 * x + ops.normal(x.numel(), seed=3, step=step, device=x.device).view_as(x)

    run = compiled(function)
    x = torch.randn(20, 7, device=device)
    for step in (1, 2, 3):  # the second step makes dynamo take the step as a variable
        assert torch.equal(run(x, step), function(x, step))


@pytest.mark.parametrize("preconditioned", [False, True], ids=["sgld", "psgld"])
def test_compiled_step(device: torch.device, preconditioned: bool) -> None:
    """In place, with reads before and after: the compiler must neither drop nor move the update."""

    def function(params: list[Tensor], grads: list[Tensor], averages: list[Tensor], step: int) -> Tensor:
        before = params[0].sum()
        key = {"seed": 1, "step": step}
        if preconditioned:
            ops.psgld_step_(params, grads, averages, lr=0.1, num_data=10, weight_decay=0.1, **key)
        else:
            ops.sgld_step_(params, grads, lr=0.1, num_data=10, weight_decay=0.1, **key)
        return before + 2 * params[0] + params[1].sum()

    def run(call: Callable[..., Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        lists = [[torch.rand(70, device=device), torch.rand(3, 2, device=device)] for _ in range(3)]
        with torch.no_grad():
            results = [call(*lists, step) for step in (1, 2, 3)]
        return results + [tensor for tensors in lists for tensor in tensors]

    for got, expected in zip(run(compiled(function)), run(function), strict=True):
        # The states have the kernel's own bits; the sums around it are the compiler's.
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    for got, expected in zip(run(compiled(function))[3:], run(function)[3:], strict=True):
        assert torch.equal(got, expected)


def test_compiled_likelihood(device: torch.device) -> None:
    def function(x: Tensor, scale: Tensor) -> Tensor:
        return ops.marginal_gaussian_log_prob(x, scale * x.tanh(), (2.0, 0.5)).mean()

    gradients = []
    for call in (function, compiled(function)):
        x = torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(4, 15).to(device).requires_grad_()
        scale = torch.tensor(0.7, dtype=torch.float64, device=device, requires_grad=True)
        value = call(x, scale)
        gradients.append((value, *torch.autograd.grad(value, (x, scale))))
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        # Only the order of 60 float64 additions differs.
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


def test_compiled_dequantization(device: torch.device) -> None:
    def function(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = ops.langevin_dequantize(x, 3 * h, bits=5)
        return y, ops.quantize(y, bits=5)

    x = torch.randint(0, 32, (6, 7)).to(torch.uint8).to(device)
    results = []
    for call in (function, compiled(function)):
        h = torch.linspace(-2, 2, 42, device=device).reshape(6, 7).requires_grad_()
        y, back = call(x, h)
        results.append((y, back, torch.autograd.grad(y.sum(), h)[0]))
    for got, expected in zip(results[1], results[0], strict=True):
        # 3 * h and the factor 3 of its gradient are one rounding, compiled or not.
        assert torch.equal(got, expected)
    assert torch.equal(results[0][1], x)


def test_compiled_with_dynamic_shapes(device: torch.device) -> None:
    def function(x: Tensor, mean: Tensor) -> Tensor:
        return ops.marginal_gaussian_log_prob(x, mean)

    torch._dynamo.reset()
    run = torch.compile(function, fullgraph=True, dynamic=True)
    for rows, width in [(3, 5), (8, 11), (2, 4099)]:
        x, mean = torch.randn(2, rows, width, device=device)
        assert torch.equal(run(x, mean), function(x, mean))


# --- Version counters: autograd must not use what an op overwrote ---


STEP = {"lr": 0.1, "seed": 1, "step": 1}

#: The options of the registered ops, which have no defaults.
RAW_STEP = {**STEP, "num_data": 1.0, "temperature": 1.0, "weight_decay": 0.0, "maximize": False}
RAW_STEP |= {"parameters": [0], "offsets": [0]}
RAW_PRECONDITIONER = {"alpha": 0.9, "eps": 0.1, "freeze_after": ops.NEVER}

#: Every way to overwrite a tensor x: by the functions of ops, which count by themselves, and by the registered ops.
OVERWRITES: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {
    "sgld param": lambda x, zeros, ones: ops.sgld_step_([zeros, x], [ones, ones], **STEP),
    "psgld param": lambda x, zeros, ones: ops.psgld_step_([x], [zeros], [ones], **STEP),
    "psgld square_avg": lambda x, zeros, ones: ops.psgld_step_([zeros], [ones], [x], **STEP),
    "raw normal": lambda x, zeros, ones: _OPS.normal_(x, seed=1, step=1),
    "raw sgld param": lambda x, zeros, ones: _OPS.sgld_step_([x], [ones], **RAW_STEP),
    "raw psgld param": lambda x, zeros, ones: _OPS.psgld_step_([x], [zeros], [ones], **RAW_STEP, **RAW_PRECONDITIONER),
    "raw psgld square_avg": lambda x, zeros, ones: _OPS.psgld_step_(
        [zeros], [ones], [x], **RAW_STEP, **RAW_PRECONDITIONER
    ),
}


@pytest.mark.parametrize("overwrite", OVERWRITES.values(), ids=OVERWRITES)
def test_autograd_notices_what_was_overwritten(
    device: torch.device, overwrite: Callable[[Tensor, Tensor, Tensor], None]
) -> None:
    leaf = torch.rand(5, device=device, requires_grad=True)
    saved = leaf * 2
    value = saved.square().sum()  # keeps `saved` for its backward
    version, before = saved._version, saved.detach().clone()
    with torch.no_grad():
        overwrite(saved, torch.zeros_like(saved), torch.ones_like(saved))
    assert not torch.equal(saved, before), "the op did nothing"
    assert saved._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_what_is_only_read_keeps_its_version(device: torch.device) -> None:
    param, grad, square_avg = (torch.rand(5, device=device) for _ in range(3))
    ops.psgld_step_([param], [grad], [square_avg], **STEP)
    ops.sgld_step_([param], [grad], **STEP)
    assert grad._version == 0


@pytest.mark.parametrize("inference_params", [False, True])
def test_steps_under_inference_mode(device: torch.device, inference_params: bool) -> None:
    """Tensors made there have no version counter; others keep theirs."""
    expected = torch.rand(5, device=device)
    param, square_avg = expected.clone(), torch.ones_like(expected)
    grad = torch.ones_like(expected)
    ops.psgld_step_([expected], [grad], [square_avg.clone()], **STEP)
    with torch.inference_mode():
        if inference_params:
            param, square_avg, grad = param.clone(), square_avg.clone(), grad.clone()
        ops.psgld_step_([param], [grad], [square_avg], **STEP)
        assert torch.equal(param, expected)
    if not inference_params:
        assert param._version > 0


def test_steps_refuse_what_autograd_records(device: torch.device) -> None:
    param = torch.zeros(3, device=device, requires_grad=True)
    others = [torch.zeros(3, device=device)]
    with pytest.raises(RuntimeError, match=r"sgld_step_: params\[1\]: got a tensor that requires grad.*no_grad"):
        ops.sgld_step_([torch.zeros(3, device=device), param], others * 2, **STEP)
    with pytest.raises(RuntimeError, match=r"psgld_step_: params\[0\]: got a tensor that requires grad.*no_grad"):
        ops.psgld_step_([param], others, [torch.zeros(3, device=device)], **STEP)
    assert (param == 0).all()
