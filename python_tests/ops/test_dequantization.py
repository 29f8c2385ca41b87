"""ops.langevin_dequantize and ops.quantize: values, gradients, tails, and that they invert each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from ald_ext import ops, reference

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
EVERY_BITS = pytest.mark.parametrize("bits", range(1, 9))

#: |h| at which σ(h) comes within the margin of the next bin, see csrc/math/dequantization.h, Note [Margin].
MARGIN = {torch.float32: 12 * math.log(2), torch.float64: 40 * math.log(2)}


def every_pixel_and_place(bits: int, dtype: torch.dtype, device: torch.device, reach: float) -> tuple[Tensor, Tensor]:
    """All pixel values against places h in [-reach, reach]."""
    places = torch.linspace(-reach, reach, 97, dtype=dtype)
    x = torch.arange(2**bits).repeat_interleave(len(places)).to(torch.uint8)
    return x.to(device), places.repeat(2**bits).to(device)


# --- Values and gradients ---


@DTYPES
@EVERY_BITS
def test_equals_the_reference(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    """Inside the margins, where the two types agree on the function."""
    x, h = every_pixel_and_place(bits, dtype, device, reach=8.0)
    got = ops.langevin_dequantize(x, h, bits)
    exact_h = h.cpu().double()
    expected = reference.langevin_dequantize(x.cpu(), exact_h, bits)
    # csrc/tests/test_math.cpp: 8 rounding units of max(|y|, 1), and 16 of the gradient; and the oracle's own few.
    unit = torch.finfo(dtype).eps / 2
    assert got.dtype == dtype
    assert ((got.cpu().double() - expected).abs() <= 12 * unit * expected.abs().clamp_min(1.0)).all()
    (gradient,) = torch.autograd.grad(ops.langevin_dequantize(x, h.requires_grad_(), bits).sum(), h)
    # Autograd through the reference takes 1 - σ(h), which loses digits: the derivative in its stable form instead.
    up, down, pixel = torch.sigmoid(exact_h), torch.sigmoid(-exact_h), x.cpu().double()
    slope = 2**bits * up * down / ((pixel + up) * (2**bits - 1 - pixel + down))
    torch.testing.assert_close(gradient.cpu().double(), slope, rtol=24 * unit, atol=0)


@DTYPES
@EVERY_BITS
def test_equals_the_reference_beyond_the_margins(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    """There each type holds σ(h) at its own margin; values are large, so the reference's rounding counts as well."""
    x, h = every_pixel_and_place(bits, dtype, device, reach=80.0)
    h = h[h.abs() > MARGIN[dtype] + 1e-3].requires_grad_()
    x = torch.arange(2**bits, device=device).to(torch.uint8).repeat_interleave(len(h) // 2**bits)
    got = ops.langevin_dequantize(x, h, bits)
    expected = reference.langevin_dequantize(x, h, bits)
    unit = torch.finfo(dtype).eps / 2
    assert ((got - expected).abs() <= 24 * unit * expected.abs().clamp_min(1.0)).all()
    got_gradient, expected_gradient = (torch.autograd.grad(y.sum(), h)[0] for y in (got, expected))
    torch.testing.assert_close(got_gradient, expected_gradient, rtol=0, atol=24 * unit)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_gradcheck(device: torch.device, bits: int) -> None:
    x = torch.tensor([[0, 1, 2**bits - 1], [0, 2**bits // 2, 2**bits - 1]], dtype=torch.uint8, device=device)
    h = torch.tensor([[-2.0, 0.3, 1.5], [1.0, -0.7, -3.0]], dtype=torch.float64, device=device, requires_grad=True)

    def function(h: Tensor) -> Tensor:
        return ops.langevin_dequantize(x, h, bits)

    assert torch.autograd.gradcheck(function, (h,))
    assert torch.autograd.gradgradcheck(function, (h,))


@DTYPES
@pytest.mark.parametrize("bits", [1, 5, 8])
def test_cuda_has_the_bits_of_the_cpu(cuda: torch.device, dtype: torch.dtype, bits: int) -> None:
    n = 40_003
    x = (torch.arange(n) % 2**bits).to(torch.uint8)
    h = (20 * torch.randn(n, dtype=dtype)).requires_grad_()
    h_gpu = h.detach().to(cuda).requires_grad_()
    y, y_gpu = ops.langevin_dequantize(x, h, bits), ops.langevin_dequantize(x.to(cuda), h_gpu, bits)
    assert torch.equal(y_gpu.cpu(), y)
    weights = torch.randn(n, dtype=dtype)
    (gradient,) = torch.autograd.grad(y, h, weights)
    (gradient_gpu,) = torch.autograd.grad(y_gpu, h_gpu, weights.to(cuda))
    assert torch.equal(gradient_gpu.cpu(), gradient)
    assert torch.equal(ops.quantize(h_gpu, bits).cpu(), ops.quantize(h, bits))


@given(n=st.integers(0, 400), cut=st.integers(0, 400), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_pieces_have_the_bits_of_the_whole(device: torch.device, n: int, cut: int, dtype: torch.dtype) -> None:
    """At any place of memory, so with any alignment."""

    def run(x: Tensor, h: Tensor) -> list[Tensor]:
        h = h.detach().requires_grad_()
        y = ops.langevin_dequantize(x, h)
        return [y.detach(), ops.quantize(y.detach()), torch.autograd.grad(y.sum(), h)[0]]

    cut = min(cut, n)
    x, h = (torch.arange(n) % 256).to(device, torch.uint8), (20 * torch.randn(n, dtype=dtype)).to(device)
    pieces = [run(x[:cut], h[:cut]), run(x[cut:], h[cut:])]
    for whole, parts in zip(run(x, h), zip(*pieces, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)


# --- With the likelihood, in one pass ---


@DTYPES
@pytest.mark.parametrize("prior", ["flat", "jeffreys", (2.0, 0.5)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (7, 3, 33), (2, 40_001), (0, 5), (4, 0)], ids=str)
def test_dequantized_log_prob_is_the_two_ops(
    device: torch.device, dtype: torch.dtype, prior: Any, shape: tuple[int, ...]
) -> None:
    x = torch.randint(0, 32, shape).to(torch.uint8).to(device)
    tensors = [torch.randn(shape, dtype=dtype).to(device) for _ in range(2)]
    weights = torch.rand(shape[0], dtype=dtype).to(device)
    results = []
    for fused in (True, False):
        h, mean = (tensor.clone().requires_grad_() for tensor in tensors)
        if fused:
            y, log_prob = ops.dequantized_log_prob(x, h, mean, prior, 5)
        else:
            y = ops.langevin_dequantize(x, h, 5)
            log_prob = ops.marginal_gaussian_log_prob(y, mean, prior)
        gradients = torch.autograd.grad((log_prob * weights).sum(), (h, mean))
        results.append((y, log_prob, gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    # Each gradient is a product of three factors, in one order or another.
    torch.testing.assert_close(results[0][2], results[1][2], rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_dequantized_log_prob_gradcheck(device: torch.device) -> None:
    x = torch.tensor([[0, 1, 31], [0, 17, 31]], dtype=torch.uint8, device=device)
    h = torch.tensor([[-2.0, 0.3, 1.5], [1.0, -0.7, -3.0]], dtype=torch.float64, device=device, requires_grad=True)
    mean = torch.randn(2, 3, dtype=torch.float64).to(device).requires_grad_()

    def function(h: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        return ops.dequantized_log_prob(x, h, mean, (2.0, 0.5), 5)

    assert torch.autograd.gradcheck(function, (h, mean))
    assert torch.autograd.gradgradcheck(function, (h, mean))


@DTYPES
def test_dequantized_log_prob_of_any_number_of_threads(restore_threads: None, dtype: torch.dtype) -> None:
    """Few long rows and many short ones."""
    for shape in ((3, 50_021), (20_011, 5)):
        x = torch.randint(0, 256, shape).to(torch.uint8)
        h, mean = (torch.randn(shape, dtype=dtype).requires_grad_() for _ in range(2))
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, log_prob = ops.dequantized_log_prob(x, h, mean)
            results.append((y, log_prob, *torch.autograd.grad(log_prob.sum(), (h, mean))))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@DTYPES
def test_dequantized_log_prob_on_cuda_has_the_bits_of_the_cpu(cuda: torch.device, dtype: torch.dtype) -> None:
    for shape in ((3, 40_003), (1001, 7)):
        x = torch.randint(0, 256, shape).to(torch.uint8)
        h, mean = (torch.randn(shape, dtype=dtype) for _ in range(2))
        results = []
        for device in (torch.device("cpu"), cuda):
            leaves = [tensor.to(device).requires_grad_() for tensor in (h, mean)]
            y, log_prob = ops.dequantized_log_prob(x.to(device), *leaves)
            results.append((y, log_prob, *torch.autograd.grad(log_prob.sum(), leaves)))
        assert all(torch.equal(a, b.cpu()) for a, b in zip(*results, strict=True))


# --- Tails ---


@DTYPES
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_far_tails_are_finite(device: torch.device, dtype: torch.dtype, size: float) -> None:
    """x = 0 with h → -∞ and x = 255 with h → +∞ follow h; all else stops at the margin of its bin, with slope zero."""
    x = torch.tensor([0, 0, 7, 7, 255, 255], dtype=torch.uint8, device=device)
    h = torch.tensor([size, -size] * 3, dtype=dtype, device=device, requires_grad=True)
    y = ops.langevin_dequantize(x, h)
    assert torch.isfinite(y).all()
    (slope,) = torch.autograd.grad(y.sum(), h)
    assert slope.tolist() == [0, 1, 0, 0, 1, 0]
    # In the tails y = h ± log 256.
    expected = h.detach()[[1, 4]].double() + math.log(256) * torch.tensor(
        [-1.0, 1.0], dtype=torch.float64, device=device
    )
    torch.testing.assert_close(y[[1, 4]].double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
    assert (y[[0, 2, 3, 5]].abs() < 7).all()


@DTYPES
def test_dequantize_rises_with_h_and_x(device: torch.device, dtype: torch.dtype) -> None:
    x, h = every_pixel_and_place(8, dtype, device, reach=30.0)
    y = ops.langevin_dequantize(x, h).reshape(256, 97)
    assert (y.diff(dim=1) >= 0).all()
    assert (y.diff(dim=0) > 0).all()


@DTYPES
def test_nan_stays_in_its_pixel(device: torch.device, dtype: torch.dtype) -> None:
    x = torch.arange(100, device=device).to(torch.uint8)
    h = torch.randn(100, dtype=dtype, device=device)
    h[31] = float("nan")
    h.requires_grad_()
    y = ops.langevin_dequantize(x, h)
    assert y.isnan().nonzero().tolist() == [[31]]
    (gradient,) = torch.autograd.grad(y.sum(), h)
    assert gradient.isnan().nonzero().tolist() == [[31]]


@DTYPES
@EVERY_BITS
def test_quantize_of_nothing_finite(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    y = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38], dtype=dtype, device=device)
    largest = 2**bits - 1
    assert ops.quantize(y, bits).tolist() == [0, largest, 0, largest, 0]


# --- Inversion ---


def assert_inverts(h: float, bits: int, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.arange(2**bits, device=device).to(torch.uint8)
    y = ops.langevin_dequantize(x, torch.full((2**bits,), h, dtype=dtype, device=device), bits)
    assert torch.isfinite(y).all()
    assert torch.equal(ops.quantize(y, bits), x)


@given(h=st.floats(width=32, allow_nan=False, allow_infinity=False), bits=st.integers(1, 8))
@example(h=3.4028234663852886e38, bits=8)
@example(h=-3.4028234663852886e38, bits=8)
@example(h=12 * math.log(2), bits=8)
@example(h=87.0, bits=8)
def test_quantize_inverts_in_float32(device: torch.device, h: float, bits: int) -> None:
    assert_inverts(h, bits, torch.float32, device)


@given(h=st.floats(allow_nan=False, allow_infinity=False), bits=st.integers(1, 8))
@example(h=1.7976931348623157e308, bits=8)
@example(h=-1.7976931348623157e308, bits=8)
@example(h=40 * math.log(2), bits=8)
@example(h=708.0, bits=8)
def test_quantize_inverts_in_float64(device: torch.device, h: float, bits: int) -> None:
    assert_inverts(h, bits, torch.float64, device)


@DTYPES
@EVERY_BITS
def test_quantize_inverts_at_random_places(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    for scale in (0.1, 1.0, 5.0, 20.0, 1e3):
        x = torch.randint(0, 2**bits, (20_000,)).to(torch.uint8).to(device)
        h = scale * torch.randn(20_000, dtype=dtype).to(device)
        assert torch.equal(ops.quantize(ops.langevin_dequantize(x, h, bits), bits), x)


@DTYPES
@EVERY_BITS
def test_quantize_equals_the_reference(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    y = 6 * torch.randn(50_000, dtype=dtype)
    scaled = 2**bits * torch.sigmoid(y.double())
    # Beside a border between two bins, rounding decides: σ is good to 4 units, times 2^bits.
    clear = (scaled - scaled.round()).abs() > 4 * torch.finfo(dtype).eps * 2**bits
    assert clear.sum() > 40_000
    got = ops.quantize(y.to(device), bits).cpu()
    assert got.dtype == torch.uint8
    assert torch.equal(got[clear], reference.quantize(y.double(), bits)[clear])


# --- Shapes, layouts, threads ---


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7), (2, 3, 4, 5), (1001,)], ids=str)
def test_shapes(device: torch.device, shape: tuple[int, ...]) -> None:
    x = torch.randint(0, 256, shape).to(torch.uint8).to(device)
    h = torch.randn(shape, device=device, requires_grad=True)
    y = ops.langevin_dequantize(x, h)
    assert y.shape == shape
    y.sum().backward()
    assert h.grad is not None
    assert h.grad.shape == shape
    assert torch.equal(ops.quantize(y), x)


def test_layouts(device: torch.device) -> None:
    x = torch.randint(0, 256, (3, 4, 6)).to(torch.uint8).to(device)
    h = torch.randn(3, 4, 6, device=device)
    expected = ops.langevin_dequantize(x, h)
    for permutation in [(2, 1, 0), (1, 0, 2)]:
        x_strided = x.permute(permutation).contiguous().permute(torch.tensor(permutation).argsort().tolist())
        h_strided = h.permute(permutation).contiguous().permute(torch.tensor(permutation).argsort().tolist())
        assert not h_strided.is_contiguous()
        for a, b in [(x_strided, h), (x, h_strided), (x_strided, h_strided)]:
            assert torch.equal(ops.langevin_dequantize(a, b), expected)
        assert torch.equal(ops.quantize(expected[:, ::2]), x[:, ::2])
    weights = torch.randn(6, 4, 3, device=device).permute(2, 1, 0)
    gradients = []
    for h_leaf in (h.clone().requires_grad_(), h.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()):
        gradients += torch.autograd.grad(ops.langevin_dequantize(x, h_leaf), h_leaf, weights)
    assert torch.equal(gradients[0], gradients[1])


def test_too_large_pixels_are_nan_on_cuda(cuda: torch.device) -> None:
    """Looking at the values would make CUDA wait; the CPU raises (test_errors.py)."""
    x = torch.tensor([3, 4, 255, 0], dtype=torch.uint8, device=cuda)
    y = ops.langevin_dequantize(x, torch.zeros(4, device=cuda), bits=2)
    assert y.isnan().tolist() == [False, True, True, False]
