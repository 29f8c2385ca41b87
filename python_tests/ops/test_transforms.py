"""Forward-mode AD, transforms of torch.func, and gradients of them: right, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ald_ext import ops

X = torch.tensor([[0, 7, 255, 3], [255, 0, 100, 9], [1, 2, 3, 254]], dtype=torch.uint8)
LOG_PROB, DEQUANTIZE = "marginal_gaussian_log_prob", "langevin_dequantize"


def function(name: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """One tensor from two, a row each for every row."""
    x = X.to(device)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "log_prob": lambda h, mean: ops.marginal_gaussian_log_prob(h, mean, (2.0, 0.5)),
        "dequantize": lambda h, mean: (ops.langevin_dequantize(x, h) * mean).sum(1),
        "dequantized_log_prob": lambda h, mean: ops.dequantized_log_prob(x, h, mean)[1],
        "dequantized": lambda h, mean: (ops.dequantized_log_prob(x, h, mean)[0] * mean).sum(1),
    }
    return functions[name]


EVERY_FUNCTION = pytest.mark.parametrize("name", ["log_prob", "dequantize", "dequantized_log_prob", "dequantized"])


@pytest.fixture
def pair(device: torch.device) -> tuple[Tensor, Tensor]:
    h, mean = (torch.randn(3, 4, dtype=torch.float64).to(device) for _ in range(2))
    return h, mean


@pytest.fixture
def tangents(device: torch.device) -> tuple[Tensor, Tensor]:
    h, mean = (torch.randn(3, 4, dtype=torch.float64).to(device) for _ in range(2))
    return h, mean


def differences(
    f: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Tensor:
    """The derivative by central differences, good to 1e-8."""
    ahead, behind = (f(*(a + e * t for a, t in zip(pair, tangents, strict=True))) for e in (1e-6, -1e-6))
    return (ahead - behind) / 2e-6


@EVERY_FUNCTION
def test_jvp(device: torch.device, name: str, pair: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor]) -> None:
    f = function(name, device)
    value, tangent = torch.func.jvp(f, pair, tangents)
    torch.testing.assert_close(value, f(*pair))
    torch.testing.assert_close(tangent, differences(f, pair, tangents), rtol=1e-6, atol=1e-6)


@EVERY_FUNCTION
def test_dual_tensors(
    device: torch.device, name: str, pair: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor]
) -> None:
    f = function(name, device)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*both) for both in zip(pair, tangents, strict=True)]
        tangent = forward_ad.unpack_dual(f(*duals)).tangent
    torch.testing.assert_close(tangent, differences(f, pair, tangents), rtol=1e-6, atol=1e-6)


@EVERY_FUNCTION
def test_tangents_of_gradients(
    device: torch.device, name: str, pair: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor]
) -> None:
    """Of a graph made outside, whose backward pass is linear in the gradient that has the tangent."""
    leaves = [tensor.clone().requires_grad_() for tensor in pair]
    value = function(name, device)(*leaves)
    grad, tangent = torch.ones_like(value), tangents[0][:, 0].contiguous()
    expected = torch.autograd.grad(value, leaves, tangent, retain_graph=True)
    with forward_ad.dual_level():
        gradients = torch.autograd.grad(value, leaves, forward_ad.make_dual(grad, tangent))
        got = [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]
    torch.testing.assert_close(got, list(expected))


@EVERY_FUNCTION
def test_jacobians(device: torch.device, name: str, pair: tuple[Tensor, Tensor]) -> None:
    """Forward, backward, by torch.autograd, and of many gradients at once: all the same."""
    f = function(name, device)
    expected = torch.autograd.functional.jacobian(f, pair)
    for derive in (torch.func.jacfwd, torch.func.jacrev):
        torch.testing.assert_close(derive(f, argnums=(0, 1))(*pair), expected)
    torch.testing.assert_close(torch.autograd.functional.jacobian(f, pair, vectorize=True), expected)


@EVERY_FUNCTION
def test_hessians(device: torch.device, name: str, pair: tuple[Tensor, Tensor]) -> None:
    h, mean = pair

    def summed(h: Tensor) -> Tensor:
        return function(name, device)(h, mean).sum()

    expected = torch.autograd.functional.hessian(summed, h)
    torch.testing.assert_close(torch.func.hessian(summed)(h), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(summed))(h), expected)


def test_vmap(device: torch.device) -> None:
    """Over the first dimension, and over others: what a loop gives; also of gradients of each."""
    x, h, mean = X.to(device), torch.randn(5, 3, 4, device=device), torch.randn(5, 3, 4, device=device)
    for name in ("log_prob", "dequantize", "dequantized_log_prob", "dequantized"):
        f = function(name, device)
        rows = torch.stack([f(a, b) for a, b in zip(h, mean, strict=True)])
        torch.testing.assert_close(torch.func.vmap(f)(h, mean), rows)
        moved = torch.func.vmap(f, in_dims=(2, None))(h.permute(1, 2, 0), mean[0])
        torch.testing.assert_close(moved, torch.stack([f(a, mean[0]) for a in h]))
        gradients = torch.func.vmap(torch.func.grad(lambda a, b, f=f: f(a, b).sum()))(h, mean)
        of_loop = [torch.func.grad(lambda a, b, f=f: f(a, b).sum())(a, b) for a, b in zip(h, mean, strict=True)]
        torch.testing.assert_close(gradients, torch.stack(of_loop))
    y = torch.func.vmap(lambda a: ops.langevin_dequantize(x, a))(h)
    assert torch.equal(torch.func.vmap(ops.quantize)(y), x.expand(5, 3, 4))


STEPS = {
    "sgld_step_": lambda z: ops.sgld_step_([z], [z], lr=0.1, seed=1, step=1),
    "latent_langevin_step_": lambda z: ops.latent_langevin_step_(
        z, z.clone(), torch.arange(len(z), device=z.device), lr=0.1, seed=1, step=1
    ),
    "latent_underdamped_step_": lambda z: ops.latent_underdamped_step_(
        z, z.clone(), z.clone(), torch.arange(len(z), device=z.device), lr=0.1, momentum=0.9, seed=1, step=1
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_in_place_are_refused(device: torch.device, name: str) -> None:
    """Their tangents would stay behind, silently."""
    z = torch.randn(3, 4, device=device)

    def stepped(z: Tensor) -> Tensor:
        z = z.clone()
        STEPS[name](z)
        return z

    for run in (
        lambda: torch.func.jvp(stepped, (z,), (z,)),
        lambda: torch.func.vmap(stepped)(z[None]),
        lambda: torch.func.grad(lambda z: stepped(z).sum())(z),
    ):
        with pytest.raises(RuntimeError, match=rf"ald_ext::{name}: \S+: got a call inside of torch.func or forward"):
            run()
