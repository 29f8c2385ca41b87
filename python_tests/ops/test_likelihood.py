"""ops.marginal_gaussian_log_prob: values, gradients, layouts, edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ald_ext import ops, reference

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
PRIORS: list[ops.PrecisionPrior] = ["flat", "jeffreys", (2.0, 0.5), (1e-3, 1e-3)]
EVERY_PRIOR = pytest.mark.parametrize("prior", PRIORS, ids=str)

#: From one value a datum to many rows, and to rows of several segments of 4096.
SHAPES = [(7,), (4, 1), (3, 2, 5), (2, 63), (2, 65), (2, 784), (3, 4096), (2, 4097), (1, 20001), (1500, 3)]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)

#: Roundings on the way to r^2 in the type: x - mean counts double as it is squared, 64 sums in a lane, 6 in the tree.
ROUNDINGS = 2 + 64 + 6


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    x, mean = torch.randn(2, *shape, dtype=dtype)
    return x.to(device), mean.to(device)


def in_float64(x: Tensor, mean: Tensor, prior: ops.PrecisionPrior) -> Tensor:
    return reference.marginal_gaussian_log_prob(x.cpu().double(), mean.cpu().double(), *ops.prior_shape_and_rate(prior))


def exponent(shape: tuple[int, ...], prior: ops.PrecisionPrior) -> float:
    """a + d/2, by which a relative error of r^2 is multiplied."""
    return ops.prior_shape_and_rate(prior)[0] + math.prod(shape[1:]) / 2


# --- Values ---


@DTYPES
@EVERY_PRIOR
@EVERY_SHAPE
def test_equals_the_reference(
    device: torch.device, dtype: torch.dtype, prior: ops.PrecisionPrior, shape: tuple[int, ...]
) -> None:
    x, mean = draw(shape, dtype, device)
    got = ops.marginal_gaussian_log_prob(x, mean, prior)
    assert got.shape == shape[:1]
    assert got.dtype == dtype
    unit = torch.finfo(dtype).eps / 2
    # The worst case of every rounding going the same way; in float64 the reference's own sum is no better.
    tolerance = 2 * ROUNDINGS * unit * exponent(shape, prior)
    torch.testing.assert_close(got.cpu().double(), in_float64(x, mean, prior), rtol=4 * unit, atol=tolerance)


@DTYPES
@EVERY_PRIOR
@EVERY_SHAPE
def test_gradients_equal_the_reference(
    device: torch.device, dtype: torch.dtype, prior: ops.PrecisionPrior, shape: tuple[int, ...]
) -> None:
    x, mean = (tensor.requires_grad_() for tensor in draw(shape, dtype, device))
    weights = torch.randn(shape[0], dtype=dtype)
    got = torch.autograd.grad(ops.marginal_gaussian_log_prob(x, mean, prior), (x, mean), weights.to(device))
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in (x, mean)]
    expected = torch.autograd.grad(in_float64_with_grad(*exact, prior), exact, weights.double())
    for gradient, wanted in zip(got, expected, strict=True):
        # Relative: the factor has the error of r^2; two roundings of the product, one each of x - mean and the factor.
        unit = torch.finfo(dtype).eps / 2
        torch.testing.assert_close(gradient.cpu().double(), wanted, rtol=2 * (ROUNDINGS + 4) * unit, atol=0)
    assert torch.equal(got[0], -got[1])


def in_float64_with_grad(x: Tensor, mean: Tensor, prior: ops.PrecisionPrior) -> Tensor:
    return reference.marginal_gaussian_log_prob(x, mean, *ops.prior_shape_and_rate(prior))


@DTYPES
@EVERY_SHAPE
def test_cuda_has_the_sums_of_the_cpu(cuda: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """r^2 bit for bit, and so log p and the gradients: the constant of log p comes from libm on the host."""
    x, mean = draw(shape, dtype, torch.device("cpu"))
    results = []
    for device in (torch.device("cpu"), cuda):
        a, b = (tensor.to(device).requires_grad_() for tensor in (x, mean))
        value, squared = torch.ops.ald_ext.marginal_gaussian_log_prob(a, b, 1.0, 0.0)
        gradients = torch.autograd.grad(value, (a, b), torch.linspace(-1, 2, shape[0], dtype=dtype, device=device))
        results.append([squared.cpu(), value.detach().cpu(), *(gradient.cpu() for gradient in gradients)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert torch.equal(on_gpu, on_cpu)


def test_formulas_of_the_docstring(device: torch.device) -> None:
    x, mean = draw((5, 3), torch.float64, device)
    r, d, pi = (x - mean).norm(dim=1), 3, math.pi
    flat = math.log(2) + math.lgamma(d / 2 + 1) - d / 2 * math.log(pi) - (d + 2) * r.log()
    jeffreys = math.lgamma(d / 2) - d / 2 * math.log(pi) - d * r.log()
    a, b = 2.0, 0.5
    gamma = math.lgamma(a + d / 2) - math.lgamma(a) + a * math.log(b) - d / 2 * math.log(2 * pi)
    gamma = gamma - (a + d / 2) * torch.log(b + r**2 / 2)
    for prior, expected in [("flat", flat), ("jeffreys", jeffreys), ((a, b), gamma), ([a, b], gamma)]:
        # Sums of about ten numbers below 10.
        torch.testing.assert_close(ops.marginal_gaussian_log_prob(x, mean, prior), expected, rtol=0, atol=1e-13)


# --- Derivatives ---


def arguments(device: torch.device, which: str) -> tuple[Tensor, Tensor]:
    x, mean = draw((3, 2, 2), torch.float64, device)
    return x.requires_grad_("x" in which), mean.requires_grad_("mean" in which)


@EVERY_PRIOR
@pytest.mark.parametrize("which", ["x", "mean", "x and mean"])
def test_gradcheck(device: torch.device, prior: ops.PrecisionPrior, which: str) -> None:
    def function(x: Tensor, mean: Tensor) -> Tensor:
        return ops.marginal_gaussian_log_prob(x, mean, prior)

    inputs = arguments(device, which)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@EVERY_PRIOR
@pytest.mark.parametrize("relation", ["mean from x", "x from mean", "both from one"])
def test_create_graph_where_one_argument_comes_from_the_other(
    device: torch.device, prior: ops.PrecisionPrior, relation: str
) -> None:
    """As in an autoencoder: mean = decoder(encoder(x)). Each path to the leaf must count once."""
    leaf = torch.randn(4, 3, dtype=torch.float64, device=device, requires_grad=True)

    def value() -> Tensor:
        other = torch.tanh(2 * leaf)
        x, mean = {"mean from x": (leaf, other), "x from mean": (other, leaf), "both from one": (other, other**2)}[
            relation
        ]
        return ops.marginal_gaussian_log_prob(x, mean, prior).sum()

    (expected,) = torch.autograd.grad(value(), leaf)
    (got,) = torch.autograd.grad(value(), leaf, create_graph=True)
    # Two orders of summation over 3 values, in float64.
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


def test_no_gradient_where_none_is_needed(device: torch.device) -> None:
    x, mean = arguments(device, "mean")
    ops.marginal_gaussian_log_prob(x, mean).sum().backward()
    assert x.grad is None
    assert mean.grad is not None
    with torch.no_grad():
        assert not ops.marginal_gaussian_log_prob(x, mean).requires_grad


# --- Edges ---


@DTYPES
@EVERY_PRIOR
def test_x_equal_to_the_mean(device: torch.device, dtype: torch.dtype, prior: ops.PrecisionPrior) -> None:
    """The finite value at r^2 = 2^-100, and gradient zero; other rows are as ever."""
    x, mean = draw((3, 4), dtype, device)
    mean[1] = x[1]
    x.requires_grad_()
    mean.requires_grad_()
    value = ops.marginal_gaussian_log_prob(x, mean, prior)
    shape, rate = ops.prior_shape_and_rate(prior)
    constant = math.lgamma(shape + 2) - 2 * math.log(2 * math.pi)
    constant += shape * math.log(rate) - math.lgamma(shape) if rate else 0.0
    held = constant - (shape + 2) * math.log(rate + 2.0**-101)
    # A difference of numbers below 250, each rounded.
    torch.testing.assert_close(value[1].item(), held, rtol=torch.finfo(dtype).eps, atol=250 * 2.0**-52)
    for create_graph in (False, True):
        for gradient in torch.autograd.grad(value.sum(), (x, mean), create_graph=create_graph, retain_graph=True):
            assert torch.isfinite(gradient).all()
            assert (gradient[1] == 0).all()
            assert (gradient[[0, 2]] != 0).all()


@DTYPES
def test_second_derivatives_at_the_mean_are_no_nan(device: torch.device, dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype, device=device, requires_grad=True)
    value = ops.marginal_gaussian_log_prob(x, x.detach().clone())
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.isfinite(second).all()


@DTYPES
def test_nan_stays_in_its_row(device: torch.device, dtype: torch.dtype) -> None:
    x, mean = draw((4, 100), dtype, device)
    clean = ops.marginal_gaussian_log_prob(x, mean)
    x[2, 57] = float("nan")
    x.requires_grad_()
    value = ops.marginal_gaussian_log_prob(x, mean)
    assert value.isnan().tolist() == [False, False, True, False]
    assert torch.equal(value[[0, 1, 3]], clean[[0, 1, 3]])
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.isnan().any(1).tolist() == [False, False, True, False]


@DTYPES
def test_an_overflowing_distance_is_infinite(device: torch.device, dtype: torch.dtype) -> None:
    x = torch.full((1, 200), torch.finfo(dtype).max / 4, dtype=dtype, device=device)
    assert ops.marginal_gaussian_log_prob(x, torch.zeros_like(x)).item() == -math.inf


def test_empty(device: torch.device) -> None:
    for shape in [(0,), (0, 5), (0, 2, 3)]:
        x, mean = (tensor.requires_grad_() for tensor in draw(shape, torch.float32, device))
        value = ops.marginal_gaussian_log_prob(x, mean)
        assert value.shape == (0,)
        value.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape


@pytest.mark.parametrize("prior", ["flat", (2.0, 0.5)], ids=str)
def test_data_without_values(device: torch.device, prior: ops.PrecisionPrior) -> None:
    """d = 0: the integral of the prior, held at the smallest distance where that is infinite."""
    x, mean = (tensor.requires_grad_() for tensor in draw((3, 0), torch.float64, device))
    value = ops.marginal_gaussian_log_prob(x, mean, prior)
    torch.testing.assert_close(value.cpu(), in_float64(x, mean, prior), rtol=1e-15, atol=1e-15)
    value.sum().backward()
    assert mean.grad is not None
    assert mean.grad.shape == (3, 0)


# --- Layouts and independence of the division ---

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "every_second": lambda t: torch.stack([t, t], dim=-1).flatten(-2)[..., ::2],
    "expanded": lambda t: t[:1].expand_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device: torch.device, layout: str) -> None:
    x, mean = draw((3, 2, 4, 5), torch.float32, device)
    strided = LAYOUTS[layout](mean)
    for a, b in [(x, strided), (strided, x)]:
        a_leaf, b_leaf = (t.clone(memory_format=torch.contiguous_format).requires_grad_() for t in (a, b))
        expected = ops.marginal_gaussian_log_prob(a_leaf, b_leaf)
        got = ops.marginal_gaussian_log_prob(a.requires_grad_(), b.requires_grad_())
        assert torch.equal(got, expected)
        wanted = torch.autograd.grad(expected.sum(), (a_leaf, b_leaf))
        for gradient, want in zip(torch.autograd.grad(got.sum(), (a, b)), wanted, strict=True):
            assert torch.equal(gradient, want)
        a.requires_grad_(False)
        b.requires_grad_(False)


@DTYPES
def test_a_row_does_not_depend_on_its_batch(device: torch.device, dtype: torch.dtype) -> None:
    x, mean = draw((50, 5000), dtype, device)
    together = ops.marginal_gaussian_log_prob(x, mean)
    for row in (0, 17, 49):
        alone = ops.marginal_gaussian_log_prob(x[row : row + 1], mean[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)


@given(
    rows=st.integers(0, 40),
    width=st.sampled_from([1, 2, 5, 17, 64, 65, 300, 4097]),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_pieces_have_the_bits_of_the_whole(
    device: torch.device, rows: int, width: int, cuts: list[int], dtype: torch.dtype
) -> None:
    """Rows in any pieces: value, sum and gradients."""

    def run(first: int, last: int) -> list[Tensor]:
        a, b = (tensor[first:last].clone().requires_grad_() for tensor in (x, mean))
        value, squared = torch.ops.ald_ext.marginal_gaussian_log_prob(a, b, 1.0, 0.0)
        gradients = torch.autograd.grad(value, (a, b), torch.ones_like(value))
        return [value.detach(), squared, *gradients]

    x, mean = draw((rows, width), dtype, device)
    bounds = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    pieces = [run(first, last) for first, last in pairwise(bounds)]
    for whole, parts in zip(run(0, rows), zip(*pieces, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_the_sum_keeps_small_terms(device: torch.device) -> None:
    """2^20 equal terms in float32: 64 lanes and segments of 4096 lose nothing, a running sum would stand still."""
    n = 2**20
    x = torch.full((1, n), 0.1, device=device)
    squared = torch.ops.ald_ext.marginal_gaussian_log_prob(x, torch.zeros_like(x), 1.0, 0.0)[1]
    exact = n * float(x[0, 0]) ** 2
    assert abs(float(squared) - exact) <= ROUNDINGS * 2.0**-24 * exact
