"""How the ops stand in torch: schemas, fake kernels, autograd, torch.compile, version counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import ops

_OPS = torch.ops.ald_ext

#: One of every width that has overloads of its own or code of its own.
SOME_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# --- opcheck ---


#: The number of lists of each step (params, grads and its states), and the options of its own.
STEPS: dict[str, tuple[int, dict[str, Any]]] = {
    "sgld_step_": (2, {}),
    "psgld_step_": (3, {"alpha": 0.9, "eps": 0.1, "freeze_after": ops.NEVER}),
    "sghmc_step_": (3, {"momentum": 0.9}),
    "sgnht_step_": (4, {"diffusion": 0.1}),
    "sgld_anchored_step_": (3, {"localization": 5.0}),
    "psgld_anchored_step_": (4, {"alpha": 0.9, "eps": 0.1, "freeze_after": ops.NEVER, "localization": 5.0}),
    "sghmc_anchored_step_": (4, {"momentum": 0.9, "localization": 5.0}),
    "sgnht_anchored_step_": (5, {"diffusion": 0.1, "localization": 5.0}),
}


def step_arguments(
    device: torch.device, step: str, dtype: torch.dtype = torch.float32
) -> tuple[tuple[list[Tensor], ...], dict[str, Any]]:
    shapes = [(3, 4), (0,), (), (70,)]
    lists, own = STEPS[step]
    dtypes = (dtype, dtype, *[torch.float32] * (lists - 2))
    tensors = tuple([torch.rand(shape, device=device).to(dtype) for shape in shapes] for dtype in dtypes)
    options = {"lr": 0.1, "num_data": 10.0, "temperature": 1.0, "weight_decay": 0.1, "maximize": False}
    return tensors, {**options, **own, "seed": 1, "step": 2, "noise_ids": [0, 1, 2, 3], "offsets": [0, 0, 0, 0]}


def step_cases(device: torch.device) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Every one, in both overloads, of parameters of 32 and of 16 bits."""
    cases = {}
    clock = {"lr": torch.tensor(0.1, device=device), "step": torch.tensor(2, device=device)}
    for step in STEPS:
        op = getattr(_OPS, step)
        for dtype in SOME_DTYPES:
            tensors, options = step_arguments(device, step, dtype)
            name = f"{step}{str(dtype).removeprefix('torch.')}"
            cases[name] = (op.default, tensors, options)
            cases[f"{name}_tensor"] = (op.tensor, tensors, {**options, **clock})
        tensors, options = step_arguments(device, step)
        options |= {"row_lengths": [2, 0, 0, 7], "row_strides": [5, 3, 0, 9]}
        cases[f"{step}rows"] = (op.default, tensors, options)
        cases[f"{step}rows_tensor"] = (op.tensor, tensors, {**options, **clock})
    tensors, options = step_arguments(device, "psgld_step_")
    cases["psgld_step_frozen"] = (_OPS.psgld_step_.default, tensors, {**options, "freeze_after": -1})
    return cases


def latent_cases(device: torch.device) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    z, momentum, grad = torch.rand(3, 5, 2, 3, device=device)
    data = torch.tensor([7, 0, 7, 2**44 - 1, 1], device=device)
    key, options = {"seed": 1, "step": 2}, {"lr": 0.1, "temperature": 1.0}
    return {
        "latent_normal_": (_OPS.latent_normal_.default, (z, data), key),
        "latent_langevin_step_": (_OPS.latent_langevin_step_.default, (z, grad, data), {**options, **key}),
        "latent_underdamped_step_": (
            _OPS.latent_underdamped_step_.default,
            (z, momentum, grad, data),
            {**options, "momentum": 0.9, **key},
        ),
    }


def likelihood_arguments(device: torch.device, requires_grad: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, mean = (torch.randn(3, 5, dtype=dtype, device=device, requires_grad=requires_grad) for _ in range(2))
    return x, mean


def pixel_arguments(device: torch.device, requires_grad: bool) -> tuple[Tensor, Tensor]:
    pixels = torch.randint(0, 16, (4, 5)).to(torch.uint8).to(device)
    return pixels, torch.randn(4, 5, device=device, requires_grad=requires_grad)


def dequantized_log_prob_cases(device: torch.device) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    op, backward = _OPS.dequantized_log_prob.default, _OPS.dequantized_log_prob_backward.default
    pixels, h = pixel_arguments(device, False)
    mean, rows = torch.randn_like(h), torch.rand(len(h), device=device)
    h_with_grad, mean_with_grad = (tensor.clone().requires_grad_() for tensor in (h, mean))
    return {
        "dequantized_log_prob": (op, (pixels, h, mean, 2.0, 0.5, 4), {}),
        "dequantized_log_prob_with_grad": (op, (pixels, h_with_grad, mean_with_grad, 1.0, 0.0), {}),
        "dequantized_log_prob_with_grad_of_one": (op, (pixels, h, mean_with_grad, 1.0, 0.0), {}),
        "dequantized_log_prob_backward": (backward, (rows, pixels, h, mean, h, rows.double(), 2.0, 0.5, 4), {}),
    }


def opcheck_cases(device: torch.device) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """name: (op, args, kwargs)."""
    x, mean = likelihood_arguments(device, False, torch.float32)
    rows = torch.rand(3, device=device)
    pixels, h = pixel_arguments(device, False)
    return {
        **step_cases(device),
        **latent_cases(device),
        "normal_": (_OPS.normal_.default, (torch.empty(100, device=device),), {"seed": 1, "step": 2}),
        "log_prob": (_OPS.marginal_gaussian_log_prob.default, (x, mean, 1.0, 0.0), {}),
        "log_prob_with_grad": (
            _OPS.marginal_gaussian_log_prob.default,
            (*likelihood_arguments(device, True, torch.float64), 2.0, 0.5),
            {},
        ),
        "log_prob_with_grad_of_one": (
            _OPS.marginal_gaussian_log_prob.default,
            (x, likelihood_arguments(device, True, torch.float32)[1], 0.0, 0.0),
            {},
        ),
        "log_prob_backward": (
            _OPS.marginal_gaussian_log_prob_backward.default,
            (rows, x, mean, rows.double(), 1.0, 0.0, True, True),
            {},
        ),
        "log_prob_backward_of_one": (
            _OPS.marginal_gaussian_log_prob_backward.default,
            (rows, x, mean, rows.double(), 1.0, 0.0, False, True),
            {},
        ),
        "dequantize": (_OPS.langevin_dequantize.default, (pixels, h, 4), {}),
        "dequantize_with_grad": (_OPS.langevin_dequantize.default, pixel_arguments(device, True), {}),
        "dequantize_backward": (_OPS.langevin_dequantize_backward.default, (torch.rand_like(h), pixels, h, 4), {}),
        **dequantized_log_prob_cases(device),
        "quantize": (_OPS.quantize.default, (h, 4), {}),
    }


#: Every utility of opcheck applies to every op.
UTILITIES = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("name", opcheck_cases(torch.device("cpu")))
def test_opcheck(device: torch.device, name: str, utility: str) -> None:
    op, args, kwargs = opcheck_cases(device)[name]
    torch.library.opcheck(op, args, kwargs, test_utils=utility)


def test_opcheck_sees_every_op() -> None:
    """Every overload of every one."""
    checked = {(op._schema.name, op._schema.overload_name) for op, _, _ in opcheck_cases(torch.device("cpu")).values()}
    schemas = torch._C._jit_get_all_schemas()
    assert checked == {(s.name, s.overload_name) for s in schemas if s.name.startswith("ald_ext::")}


def test_meta_tensors_get_shapes_and_dtypes() -> None:
    meta = torch.device("meta")
    x = torch.empty(3, 5, dtype=torch.float64, device=meta)
    value = ops.marginal_gaussian_log_prob(x, x)
    assert (value.shape, value.dtype, value.device) == ((3,), torch.float64, meta)
    y = ops.langevin_dequantize(torch.empty(3, 5, dtype=torch.uint8, device=meta), x)
    assert (y.shape, y.dtype, y.device) == ((3, 5), torch.float64, meta)
    assert ops.quantize(y).dtype == torch.uint8
    assert ops.sgld_step_([x], [x.clone()], lr=0.1, seed=1, step=1) is None
    assert ops.sgld_step_([x], [x.clone()], lr=0.1, seed=1, step=1, row_lengths=[5], row_strides=[9]) is None
    lr, step = torch.empty((), device=meta), torch.empty((), dtype=torch.int64, device=meta)
    assert ops.psgld_step_([x], [x.clone()], [x.clone()], lr=lr, seed=1, step=step) is None
    assert ops.sghmc_step_([x], [x.clone()], [x.clone()], lr=lr, seed=1, step=step) is None
    data = torch.empty(3, dtype=torch.int64, device=meta)
    noise = ops.latent_normal(data, 5, seed=1, step=1, dtype=torch.float64)
    assert (noise.shape, noise.dtype, noise.device) == ((3, 5), torch.float64, meta)
    assert ops.latent_langevin_step_(x, x.clone(), data, lr=0.1, seed=1, step=1) is None


# --- torch.compile, without graph breaks ---


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True)


@pytest.mark.processes
def test_compiled_normal(device: torch.device) -> None:
    def function(x: Tensor, step: int) -> Tensor:
        return 2 * x + ops.normal(x.numel(), seed=3, step=step, device=x.device).view_as(x)

    run = compiled(function)
    x = torch.randn(20, 7, device=device)
    for step in (1, 2, 3):  # the second step makes dynamo take the step as a variable
        assert torch.equal(run(x, step), function(x, step))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("dtype", "clock", "rows"),
    [
        (torch.float32, "numbers", False),
        (torch.float32, "tensors", True),
        (torch.bfloat16, "numbers", True),
        (torch.float16, "tensors", False),
    ],
    ids=["float32-numbers", "float32-tensors-rows", "bfloat16-numbers-rows", "float16-tensors"],
)
@pytest.mark.parametrize("step_", [step for step in STEPS if hasattr(ops, step)])
def test_compiled_step(device: torch.device, step_: str, dtype: torch.dtype, clock: str, rows: bool) -> None:
    """In place, with reads before and after: the compiler must neither drop nor move the update."""

    def function(
        params: list[Tensor], grads: list[Tensor], states: list[Tensor], lr: float | Tensor, step: int | Tensor
    ) -> Tensor:
        before = params[0].float().sum()
        options: dict[str, Any] = {"lr": lr, "num_data": 10, "weight_decay": 0.1, "seed": 1, "step": step}
        if rows:
            options |= {"row_lengths": [3, 2], "row_strides": [5, 7]}
        lists = [params, grads, states][: STEPS[step_][0]]
        getattr(ops, step_)(*lists, **options)
        return before + 2 * params[0].float() + params[1].float().sum()

    def run(call: Callable[..., Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        dtypes = (dtype, dtype, torch.float32)
        lists = [[torch.rand(70, device=device).to(d), torch.rand(3, 2, device=device).to(d)] for d in dtypes]
        cast: Callable[[Any], Any] = torch.tensor if clock == "tensors" else lambda value: value
        with torch.no_grad():
            results = [call(*lists, cast(0.1 * step), cast(step)) for step in (1, 2, 3)]
        return results + [tensor for tensors in lists for tensor in tensors]

    for got, expected in zip(run(compiled(function)), run(function), strict=True):
        # The states have the kernel's own bits; the sums around it are the compiler's.
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    for got, expected in zip(run(compiled(function))[3:], run(function)[3:], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.processes
def test_compiled_latent_steps(device: torch.device) -> None:
    def function(z: Tensor, momentum: Tensor, data: Tensor, step: int) -> Tensor:
        before = z.sum()
        key = {"seed": 1, "step": step}
        ops.latent_langevin_step_(z, z.sin(), data, lr=0.1, **key)
        ops.latent_underdamped_step_(z, momentum, z.sin(), data, lr=0.1, momentum=0.9, **key)
        return before + (z + ops.latent_normal(data, z.shape[1], **key)).sum()

    def run(call: Callable[..., Tensor]) -> list[Tensor]:
        tensors = [torch.linspace(-1, 1, 35, device=device).reshape(7, 5) for _ in range(2)]
        data = torch.tensor([3, 1, 2**40, 3, 0, 5, 9], device=device)
        return [*(call(*tensors, data, step) for step in (1, 2, 3)), *tensors]

    for got, expected in zip(run(compiled(function)), run(function), strict=True):
        # The compiler's sine, and the order of 35 additions.
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
def test_compiled_with_dynamic_shapes(device: torch.device) -> None:
    def function(x: Tensor, mean: Tensor) -> Tensor:
        return ops.marginal_gaussian_log_prob(x, mean)

    torch._dynamo.reset()
    run = torch.compile(function, fullgraph=True, dynamic=True)
    for rows, width in [(3, 5), (8, 11), (2, 4099)]:
        x, mean = torch.randn(2, rows, width, device=device)
        assert torch.equal(run(x, mean), function(x, mean))


# --- Version counters: autograd must not use what an op overwrote ---


STEP: dict[str, Any] = {"lr": 0.1, "seed": 1, "step": 1}

#: The options of the registered ops, which have no defaults.
RAW_STEP = {**STEP, "num_data": 1.0, "temperature": 1.0, "weight_decay": 0.0, "maximize": False}
RAW_STEP |= {"noise_ids": [0], "offsets": [0]}

#: lr and step as tensors.
CLOCK: dict[str, Any] = {"lr": torch.tensor(0.1), "step": torch.tensor(1)}

#: Of latent variables: five rows of one element.
INDEX = torch.arange(5)
LATENT: dict[str, Any] = {**STEP, "momentum": 0.5}
RAW_LATENT: dict[str, Any] = {**STEP, "temperature": 1.0}

#: A way to overwrite a tensor x; `ones` is of the type of a state, `like` of the type of x.
Overwrite = Callable[[Tensor, Tensor, Tensor], None]


def step_overwrite(step: str, position: int, raw: bool, clock: dict[str, Any]) -> Overwrite:
    """By the function of ops, which counts by itself, or by the registered op; x in one of the lists."""
    count, own = STEPS[step]
    registered = getattr(_OPS, step).tensor if clock else getattr(_OPS, step).default
    options = {**RAW_STEP, **own, **clock} if raw else {**STEP, **clock}

    def overwrite(x: Tensor, like: Tensor, ones: Tensor) -> None:
        lists = [[like.clone()], [like], *([ones.clone()] for _ in range(count - 2))]
        lists[position] = [x]
        (registered if raw else getattr(ops, step))(*lists, **options)

    return overwrite


def step_overwrites(position: int) -> dict[str, Overwrite]:
    return {
        f"{'raw ' if raw else ''}{step} {position}{' at' if clock else ''}": step_overwrite(step, position, raw, clock)
        for step, (count, _) in STEPS.items()
        for raw in ((False, True) if hasattr(ops, step) else (True,))
        for clock in ({}, CLOCK)
        if position < count - ("anchored" in step)  # anchors, the last list, are only read
    }


OVERWRITES = step_overwrites(0)

#: Of tensors that are never of 16 bits.
WIDE_OVERWRITES: dict[str, Overwrite] = {
    **step_overwrites(2),
    "raw normal": lambda x, like, ones: _OPS.normal_(x, seed=1, step=1),
    "latent": lambda x, like, ones: ops.latent_langevin_step_(x, ones, INDEX.to(x.device), **STEP),
    "raw latent": lambda x, like, ones: _OPS.latent_langevin_step_(x, ones, INDEX.to(x.device), **RAW_LATENT),
    "raw latent normal": lambda x, like, ones: _OPS.latent_normal_(x, INDEX.to(x.device), seed=1, step=1),
    "underdamped": lambda x, like, ones: ops.latent_underdamped_step_(x, like, ones, INDEX.to(x.device), **LATENT),
    "underdamped momenta": lambda x, like, ones: ops.latent_underdamped_step_(
        like, x, ones, INDEX.to(x.device), **LATENT
    ),
    "raw underdamped": lambda x, like, ones: _OPS.latent_underdamped_step_(
        x, like, ones, INDEX.to(x.device), **RAW_LATENT, momentum=0.5
    ),
    "raw underdamped momenta": lambda x, like, ones: _OPS.latent_underdamped_step_(
        like, x, ones, INDEX.to(x.device), **RAW_LATENT, momentum=0.5
    ),
}


@pytest.mark.parametrize(
    ("overwrite", "dtype"),
    [
        *(pytest.param(o, d, id=f"{name} {str(d)[6:]}") for name, o in OVERWRITES.items() for d in SOME_DTYPES),
        *(pytest.param(o, torch.float32, id=name) for name, o in WIDE_OVERWRITES.items()),
    ],
)
def test_autograd_notices_what_was_overwritten(device: torch.device, overwrite: Overwrite, dtype: torch.dtype) -> None:
    leaf = torch.rand(5, device=device).to(dtype).requires_grad_()
    saved = leaf * 2
    value = saved.square().sum()  # keeps `saved` for its backward
    version, before = saved._version, saved.detach().clone()
    with torch.no_grad():
        overwrite(saved, torch.ones_like(saved), torch.ones(5, device=device))
    assert not torch.equal(saved, before), "the op did nothing"
    assert saved._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_what_is_only_read_keeps_its_version(device: torch.device) -> None:
    param, grad, square_avg = (torch.rand(5, device=device) for _ in range(3))
    lr, step = torch.tensor(0.1, device=device), torch.tensor(1, device=device)
    for options in (STEP, {**STEP, "lr": lr, "step": step}):
        ops.psgld_step_([param], [grad], [square_avg], **options)
        ops.sgld_step_([param], [grad], **options)
    assert [tensor._version for tensor in (grad, lr, step)] == [0, 0, 0]
    assert [tensor._version for tensor in (param, square_avg)] == [4, 2]


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
