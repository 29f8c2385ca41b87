"""Devices without a kernel get the reference: here the CPU, as if it were one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ald_ext import PSGLD, ops, reference
from ald_ext.optim.foreach import FOREACH_STEPS


@pytest.fixture(autouse=True)
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a compiled op was called")

    class NoOps:
        def __getattr__(self, name: str) -> Any:
            return fail

    monkeypatch.setattr(ops, "has_kernel", lambda tensor: False)
    for module in (ops.dequantization, ops.latent, ops.likelihood, ops.noise, ops.steps):
        monkeypatch.setattr(module, "KERNEL_DEVICES", set())
        monkeypatch.setattr(module, "OPS", NoOps())


KEY = {"seed": 5, "step": 2}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_normal(dtype: torch.dtype, bound: float) -> None:
    """To the error that ops.normal promises."""
    got = ops.normal(1000, **KEY, parameter=3, offset=17, dtype=dtype)
    kernel = torch.empty(1000, dtype=dtype)
    torch.ops.ald_ext.normal_(kernel, **KEY, parameter=3, offset=17)
    assert (got - kernel).abs().max() <= bound


def test_steps() -> None:
    options: dict[str, Any] = {"lr": 0.1, "num_data": 10.0, "temperature": 1.0, "weight_decay": 0.1, "maximize": True}
    own = {"alpha": 0.9, "eps": 0.1, "freeze_after": ops.NEVER}
    keys = {**KEY, "noise_ids": [0, 1], "offsets": [0, 0]}

    def lists() -> list[list[torch.Tensor]]:
        torch.manual_seed(1)
        return [[torch.rand(5, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)] for _ in range(3)]

    got, expected = lists(), lists()
    ops.sgld_step_(*got[:2], **options, **KEY)
    ops.psgld_step_(*got, **options, **own, **KEY)
    ops.sghmc_step_(*got, **options, momentum=0.9, **KEY)
    torch.ops.ald_ext.sgld_step_(*expected[:2], **options, **keys)
    torch.ops.ald_ext.psgld_step_(*expected, **options, **own, **keys)
    torch.ops.ald_ext.sghmc_step_(*expected, **options, momentum=0.9, **keys)
    # The noise is the reference's: 1e-14 from the kernel's.
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FOREACH_STEPS)
def test_shards_of_rows(name: str, dtype: torch.dtype) -> None:
    """By ops where there is a function, by the reference, and by torch's multi-tensor functions."""
    own = {"psgld_step_": {"alpha": 0.9, "eps": 0.1, "freeze_after": ops.NEVER}, "sghmc_step_": {"momentum": 0.9}}
    is_anchored, plain_name = "anchored" in name, name.replace("_anchored", "")
    options = {"lr": 0.1, "num_data": 10.0, "temperature": 1.0, "weight_decay": 0.1, "maximize": False}
    options |= {**own.get(plain_name, {}), **({"localization": 5.0} if is_anchored else {})}
    shards = {"noise_ids": [3, 5], "offsets": [2, 0], "row_lengths": [3, 0], "row_strides": [7, 0]}
    results = []
    functions = [] if is_anchored else [getattr(ops, name)]
    for step in (getattr(torch.ops.ald_ext, name), *functions, getattr(reference, name), FOREACH_STEPS[name]):
        torch.manual_seed(1)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        dtypes = [dtype, dtype] + [wide] * ((plain_name in own) + is_anchored)
        lists = [[torch.rand(8).to(d), torch.rand(2, 3).to(d)] for d in dtypes]
        step(*lists, **options, **KEY, **shards)
        results.append(lists)
    # The noise is 1e-14 from the kernel's; in float32 1e-6, which rounds to another bfloat16 now and then.
    bound = 1e-14 if dtype == torch.float64 else 2.0**-7
    for got in results[1:]:
        torch.testing.assert_close(got, results[0], rtol=bound, atol=bound)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float64, 2e-14)])
def test_latent_variables(dtype: torch.dtype, bound: float) -> None:
    """To the error of normals; two of them."""
    data = torch.tensor([5, 2**40, 0, 5])
    noise = ops.latent_normal(data, 6, **KEY, dtype=dtype)
    z, momentum, grad = torch.rand(3, 4, 2, 3, dtype=dtype)
    got, expected = [z.clone(), momentum.clone()], [z.clone(), momentum.clone()]
    ops.latent_langevin_step_(got[0], grad, data, lr=0.1, **KEY)
    ops.latent_underdamped_step_(*got, grad, data, lr=0.1, momentum=0.9, **KEY)
    kernel, options = torch.empty_like(noise), {"lr": 0.1, "temperature": 1.0, **KEY}
    torch.ops.ald_ext.latent_normal_(kernel, data, **KEY)
    torch.ops.ald_ext.latent_langevin_step_(expected[0], grad, data, **options)
    torch.ops.ald_ext.latent_underdamped_step_(*expected, grad, data, momentum=0.9, **options)
    torch.testing.assert_close([noise, *got], [kernel, *expected], rtol=0, atol=bound)
    each = ops.latent_normal(data, 6, seed=5, step=range(1, 3), dtype=dtype)
    assert torch.equal(each[1], noise)
    assert ops.latent_normal(data, 6, seed=5, step=range(0), dtype=dtype).shape == (0, 4, 6)


@pytest.mark.parametrize("dtype", ops.PARAMETER_DTYPES, ids=str)
def test_lr_and_step_as_tensors(dtype: torch.dtype) -> None:
    results = []
    for lr, step in [(0.1, 3), (torch.tensor(0.1, dtype=torch.float64), torch.tensor(3))]:
        param = torch.linspace(-1, 1, 100).to(dtype)
        square_avg = torch.ones(100, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        ops.sgld_step_([param], [param.clone()], lr=lr, seed=1, step=step)
        ops.psgld_step_([param], [param.clone()], [square_avg], lr=lr, seed=1, step=step, freeze_after=3)
        ops.sghmc_step_([param], [param.clone()], [square_avg], lr=lr, seed=1, step=step)
        results.append((param, square_avg))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_parameters(dtype: torch.dtype) -> None:
    """To the bit where the float32 value is known exactly: no noise, powers of two."""
    lists = [[torch.randn(1000).to(dtype)] for _ in range(2)]
    expected = [[tensor.clone() for tensor in tensors] for tensors in lists]
    ops.sgld_step_(*lists, lr=2.0**-6, temperature=0.0, **KEY)
    options = {"lr": 2.0**-6, "num_data": 1.0, "temperature": 0.0, "weight_decay": 0.0, "maximize": False}
    torch.ops.ald_ext.sgld_step_(*expected, **options, **KEY, noise_ids=[0], offsets=[0])
    assert torch.equal(lists[0][0], expected[0][0])


@pytest.mark.parametrize("prior", ["flat", "jeffreys", (2.0, 0.5)], ids=str)
def test_likelihood_with_gradients(prior: Any) -> None:
    x, mean = (tensor.requires_grad_() for tensor in torch.randn(2, 4, 3, dtype=torch.float64))
    value = ops.marginal_gaussian_log_prob(x, mean, prior)
    gradients = torch.autograd.grad(value.sum(), (x, mean))
    shape, rate = ops.prior_shape_and_rate(prior)
    with torch.no_grad():
        kernel, squared = torch.ops.ald_ext.marginal_gaussian_log_prob(x, mean, shape, rate)
        expected_x, expected_mean = torch.ops.ald_ext.marginal_gaussian_log_prob_backward(
            torch.ones_like(kernel), x, mean, squared, shape, rate, True, True
        )
    # Sums of a few numbers below 20 in float64.
    torch.testing.assert_close(value.detach(), kernel, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradients, (expected_x, expected_mean), rtol=1e-13, atol=1e-13)


def test_dequantization() -> None:
    x = torch.arange(256).to(torch.uint8)
    h = torch.linspace(-5, 5, 256, dtype=torch.float64, requires_grad=True)
    y = ops.langevin_dequantize(x, h)
    torch.testing.assert_close(y, torch.ops.ald_ext.langevin_dequantize(x, h), rtol=1e-14, atol=1e-14)
    assert torch.equal(ops.quantize(y), x)
    y.sum().backward()
    assert h.grad is not None
    assert (h.grad > 0).all()


def test_optimizers() -> None:
    param = torch.zeros(3)
    param.grad = torch.ones_like(param)
    PSGLD([param], 0.1, num_data=10).step()
    assert (param != 0).all()
    with pytest.raises(RuntimeError, match=r"fused or capturable: got True.*expected fused=False or None"):
        PSGLD([param], 0.1, num_data=10, fused=True).step()
