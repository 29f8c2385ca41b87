"""The optimizers as torch.optim's: closures, gradients, strides, layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim.optimizers import EVERY_IMPLEMENTATION, EVERY_KIND, OPTIMIZERS
from torch import Tensor, nn

from ald_ext import PSGLD


def make(kind: str, device: torch.device, lr: float | Tensor = 0.1, **options: Any) -> tuple[Tensor, Any]:
    param = torch.linspace(-1, 1, 30, device=device, requires_grad=True)
    return param, OPTIMIZERS[kind]([param], lr, num_data=10, seed=1, **options)


def loss_of(param: Tensor) -> Tensor:
    return param.square().mean()


def run(param: Tensor, optimizer: Any, steps: int = 5, after: Callable[[], None] = lambda: None) -> Tensor:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(param).backward()
        optimizer.step()
        after()
    return param.detach().clone()


# --- step() ---


@EVERY_KIND
def test_closures(device: torch.device, kind: str) -> None:
    param, optimizer = make(kind, device)
    expected = run(param, optimizer)
    param, optimizer = make(kind, device)
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = loss_of(param)
        loss.backward()
        calls.append(loss)
        return loss

    for _ in range(5):
        with torch.no_grad():  # the closure gets gradients all the same
            assert optimizer.step(closure) is calls[-1]
    assert len(calls) == 5
    assert torch.equal(param.detach(), expected)
    assert optimizer.step() is None


@EVERY_KIND
@EVERY_IMPLEMENTATION
def test_gradients_are_not_changed(device: torch.device, kind: str, flags: dict[str, bool]) -> None:
    param, optimizer = make(kind, device, maximize=True, weight_decay=0.5, **flags)
    param.grad = torch.rand_like(param)
    before = param.grad.clone()
    optimizer.step()
    assert torch.equal(param.grad, before)


@EVERY_KIND
@EVERY_IMPLEMENTATION
def test_autograd_notices_a_step_between_forward_and_backward(
    device: torch.device, kind: str, flags: dict[str, bool]
) -> None:
    param, optimizer = make(kind, device, **flags)
    param.grad = torch.ones_like(param)
    loss = loss_of(param)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- Shapes and strides ---


def strided(layout: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    tensor = torch.arange(1.0, 1 + 4 * 3 * 5 * 6, device=device).reshape(shape) / 100
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.transpose(0, 3).contiguous().transpose(0, 3) if layout == "transposed" else tensor


LAYOUTS = ["contiguous", "channels_last", "transposed"]


@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@EVERY_KIND
@EVERY_IMPLEMENTATION
def test_gradients_of_other_strides(
    device: torch.device, kind: str, flags: dict[str, bool], dtype: torch.dtype, layout: str, grad_layout: str
) -> None:
    """Each element gets its own gradient (two steps, so that v counts), and the noise of its place in memory."""
    shape = (4, 3, 5, 6)
    param = strided(layout, shape, device).to(dtype)
    flat = param.as_strided((param.numel(),), (1,)).clone()
    optimizers = [OPTIMIZERS[kind]([p], 0.1, num_data=10, seed=1, **flags) for p in (param, flat)]
    for factor in (1, -3):
        gradient = factor * strided("contiguous", shape, device).cos()
        param.grad = torch.empty_like(strided(grad_layout, shape, device), dtype=dtype).copy_(gradient)
        # The same gradient in the parameter's memory order.
        flat.grad = torch.empty_like(param).copy_(gradient).as_strided((param.numel(),), (1,))
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(param.as_strided((param.numel(),), (1,)), flat)


@EVERY_KIND
@EVERY_IMPLEMENTATION
def test_gradients_that_repeat_their_memory(device: torch.device, kind: str, flags: dict[str, bool]) -> None:
    """An expanded gradient is one number in memory, whatever lies behind it."""
    buffer = torch.ones(100, device=device)
    params = [buffer[1:], torch.ones(99, device=device)]
    params[0].grad = buffer[:1].expand(99)
    params[1].grad = torch.ones(99, device=device)
    for param in params:
        optimizer = OPTIMIZERS[kind]([param], 0.1, num_data=10, seed=1, **flags)
        optimizer.step()
        param.grad = None
    assert torch.equal(params[0], params[1])
    assert buffer[0] == 1


@EVERY_KIND
@EVERY_IMPLEMENTATION
def test_strides_of_dimensions_of_size_one(device: torch.device, kind: str, flags: dict[str, bool]) -> None:
    """They say nothing: the parameter is dense, in the order of a 4 x 3 matrix."""
    param = torch.zeros(12, device=device).as_strided((3, 1, 4), (1, 7, 3))
    flat = torch.zeros(12, device=device)
    for p in (param, flat):
        p.grad = torch.ones_like(p)
        OPTIMIZERS[kind]([p], 0.1, num_data=10, seed=1, **flags).step()
    assert torch.equal(param[:, 0].t().flatten(), flat)


# --- Changes of a model ---


@pytest.mark.parametrize("kind", ["psgld", "sghmc"])
def test_a_model_that_changes_its_layout_keeps_its_state(device: torch.device, kind: str) -> None:
    """model.to(memory_format=...) after some steps: v and p belong to elements, not to places in memory."""
    torch.manual_seed(0)
    start, grad = torch.randn(2, 4, 3, 5, 5, device=device, dtype=torch.float64)
    results = []
    for moves in (False, True):
        param = nn.Parameter(start.clone())
        optimizer = OPTIMIZERS[kind]([param], 0.1, num_data=10, temperature=0.0)
        for _ in range(2):
            param.grad = grad.clone()
            optimizer.step()
            if moves:
                param.data = param.data.to(memory_format=torch.channels_last)
        results.append(param.detach().contiguous())
    torch.testing.assert_close(*results, rtol=1e-14, atol=0)


def test_a_16_bit_model_that_changes_its_layout_keeps_its_average(device: torch.device) -> None:
    """It stays float32, in the parameter's new strides."""
    start, grad = torch.randn(2, 4, 3, 5, 5, device=device).bfloat16()
    param = nn.Parameter(start)
    optimizer = PSGLD([param], 0.1, num_data=10, alpha=0.9)
    for _ in range(2):
        param.grad = grad.clone()
        optimizer.step()
        param.data = param.data.to(memory_format=torch.channels_last)
    average = optimizer.state[param]["square_avg"]
    assert average.dtype == torch.float32
    assert average.stride() == param.stride()
    # v after two equal gradients: alpha, 1 - alpha, and three roundings a step; three of what is expected.
    torch.testing.assert_close(average, (1 - 0.9**2) * grad.float() ** 2, rtol=11 * 2.0**-24, atol=0)


@pytest.mark.parametrize("same_group", [True, False])
@pytest.mark.parametrize(("kind", "state"), [("psgld", "square_avg"), ("sghmc", "momentum_buffer")])
def test_a_state_that_no_longer_fits_is_refused(device: torch.device, kind: str, state: str, same_group: bool) -> None:
    """Nothing has moved then, in no group."""
    params = [nn.Parameter(torch.ones(3, device=device)) for _ in range(2)]
    groups = [{"params": params}] if same_group else [{"params": [p]} for p in params]
    optimizer = OPTIMIZERS[kind](groups, 0.1, num_data=10)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    before = params[0].detach().clone()
    params[1].data = torch.ones(4, device=device)
    params[1].grad = torch.ones_like(params[1])
    with pytest.raises(RuntimeError, match=rf"parameter 1: state {state}: got shape \(3,\), expected \(4,\)"):
        optimizer.step()
    assert torch.equal(params[0], before)
    assert (params[1] == 1).all()
    assert [int(group["step"]) for group in optimizer.param_groups] == [1] * len(groups)
