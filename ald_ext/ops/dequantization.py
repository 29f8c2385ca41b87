"""Dequantization of pixels, by itself and in one pass with the likelihood, with their gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .library import KERNEL_DEVICES, LIBRARY, OPS, call, check_same_device, check_tensors, is_transformed, register_fake
from .likelihood import PrecisionPrior, differentiable_gradients, prior_shape_and_rate


def langevin_dequantize(x: Tensor, h: Tensor, bits: int = 8) -> Tensor:
    """logit((x + σ(h)) / 2^bits): pixels to the real line, at the place in their bin that h chooses (paper: Eq. 25).

    Computed as log(x + σ(h)) - log(2^bits - 1 - x + σ(-h)), stable in both tails (x = 0 with h → -∞ and x = 2^bits - 1
    with h → +∞ follow h linearly). Where another bin begins, σ(h) stops 2⁻¹² (float64: 2⁻⁴⁰) of a bin before it, with
    gradient zero beyond, so that ``quantize(langevin_dequantize(x, h)) == x`` for every x and finite h.
    Differentiable in h, twice.

    Args:
        x: uint8 pixels, any shape; values below 2^bits (others: RuntimeError on a CPU, NaN on CUDA).
        h: the same shape and device, float32 or float64.
        bits: 1 to 8.

    Returns:
        Tensor of h's shape and dtype.

    Raises:
        RuntimeError: x not uint8, or shapes, devices or bits that do not fit.
    """
    check_tensors("langevin_dequantize", ("x", x), ("h", h))
    if x.device.type not in KERNEL_DEVICES or is_transformed():
        return reference.langevin_dequantize(x, h, bits)
    y: Tensor = call(OPS.langevin_dequantize, x, h, bits)
    return y


def dequantized_log_prob(
    x: Tensor, h: Tensor, mean: Tensor, prior: PrecisionPrior = "flat", bits: int = 8
) -> tuple[Tensor, Tensor]:
    """y = langevin_dequantize(x, h) and marginal_gaussian_log_prob(y, mean) in one pass, with the very same bits.

    The gradients for h and for the mean take one pass too, in which none for y is written. Differentiable in h and
    mean, twice, and through y.

    Args:
        x, h, bits: as in :func:`langevin_dequantize`, with N data in the first dimension.
        mean, prior: as in :func:`marginal_gaussian_log_prob`, with h's shape, dtype and device.

    Returns:
        y of h's shape, and the (N,) log densities.

    Raises:
        RuntimeError: as :func:`langevin_dequantize` and :func:`marginal_gaussian_log_prob`.
        ValueError: another prior.
    """
    shape, rate = prior_shape_and_rate(prior, "dequantized_log_prob")
    check_tensors("dequantized_log_prob", ("x", x), ("h", h), ("mean", mean))
    if x.device.type not in KERNEL_DEVICES or is_transformed():
        y = reference.langevin_dequantize(x, h, bits)
        return y, reference.marginal_gaussian_log_prob(y, mean, shape, rate)
    y, log_prob, _ = call(OPS.dequantized_log_prob, x, h, mean, shape, rate, bits)
    return y, log_prob


def quantize(y: Tensor, bits: int = 8) -> Tensor:
    """The inverse of :func:`langevin_dequantize`: min(⌊2^bits σ(y)⌋, 2^bits - 1); NaN gives 0 (paper: Eq. 24).

    Args:
        y: any shape, float32 or float64.
        bits: 1 to 8.

    Returns:
        uint8 tensor of y's shape.

    Raises:
        RuntimeError: another dtype, or bits out of range.
    """
    check_tensors("quantize", ("y", y))
    if y.device.type not in KERNEL_DEVICES or is_transformed():
        return reference.quantize(y, bits)
    x: Tensor = call(OPS.quantize, y, bits)
    return x


@register_fake("langevin_dequantize")
def _dequantize_fake(x: Tensor, h: Tensor, bits: int = 8) -> Tensor:
    check_same_device("langevin_dequantize", ("x", x), ("h", h))
    return h.new_empty(h.shape)


@register_fake("langevin_dequantize_backward")
def _dequantize_backward_fake(grad: Tensor, x: Tensor, h: Tensor, *_: Any) -> Tensor:
    check_same_device("langevin_dequantize_backward", ("x", x), ("h", h), ("grad", grad))
    return h.new_empty(h.shape)


@register_fake("dequantized_log_prob")
def _dequantized_log_prob_fake(x: Tensor, h: Tensor, mean: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_same_device("dequantized_log_prob", ("x", x), ("h", h), ("mean", mean))
    return h.new_empty(h.shape), h.new_empty(h.shape[0]), h.new_empty(h.shape[0], dtype=torch.float64)


@register_fake("dequantized_log_prob_backward")
def _dequantized_log_prob_backward_fake(grad: Tensor, x: Tensor, h: Tensor, *others: Any) -> Tensor:
    named = zip(("mean", "y", "squared_distance"), others, strict=False)
    check_same_device("dequantized_log_prob_backward", ("x", x), ("h", h), ("grad", grad), *named)
    return h.new_empty((2, *h.shape))


@register_fake("quantize")
def _quantize_fake(y: Tensor, bits: int = 8) -> Tensor:
    return y.new_empty(y.shape, dtype=torch.uint8)


def _dequantize_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, h, ctx.bits = inputs
    ctx.save_for_backward(x, h)


def _dequantize_backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, None]:
    x, h = ctx.saved_tensors
    return None, _dequantization_gradient(x, h, grad, ctx.bits) if ctx.needs_input_grad[1] else None, None


def _dequantization_gradient(x: Tensor, h: Tensor, grad: Tensor, bits: int) -> Tensor:
    if torch.is_grad_enabled() or is_transformed():
        dequantize = partial(reference.langevin_dequantize, x, bits=bits)
        gradient: Any = differentiable_gradients(dequantize, (h,), (True,), grad)[0]
    else:
        gradient = OPS.langevin_dequantize_backward(grad, x, h, bits)
    return gradient


torch.library.register_autograd(
    "ald_ext::langevin_dequantize", _dequantize_backward, setup_context=_dequantize_setup, lib=LIBRARY
)


def _dequantized_log_prob_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, h, mean, ctx.shape, ctx.rate, ctx.bits = inputs
    y, _, squared_distance = output
    ctx.mark_non_differentiable(squared_distance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h, mean, y, squared_distance)


def _dequantized_log_prob_backward(
    ctx: Any, grad_y: Tensor | None, grad: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, h, mean, y, squared_distance = ctx.saved_tensors
    grad_h = grad_mean = None
    if grad is not None:
        if torch.is_grad_enabled() or is_transformed():

            def log_prob(h: Tensor, mean: Tensor) -> Tensor:
                y = reference.langevin_dequantize(x, h, ctx.bits)
                return reference.marginal_gaussian_log_prob(y, mean, ctx.shape, ctx.rate)

            grad_h, grad_mean = differentiable_gradients(log_prob, (h, mean), ctx.needs_input_grad[1:3], grad)
        else:
            grad_h, grad_mean = OPS.dequantized_log_prob_backward(
                grad, x, h, mean, y, squared_distance, ctx.shape, ctx.rate, ctx.bits
            )
    if grad_y is not None and ctx.needs_input_grad[1]:
        through_y = _dequantization_gradient(x, h, grad_y, ctx.bits)
        grad_h = through_y if grad_h is None else grad_h + through_y
    return None, grad_h, grad_mean, None, None, None


torch.library.register_autograd(
    "ald_ext::dequantized_log_prob",
    _dequantized_log_prob_backward,
    setup_context=_dequantized_log_prob_setup,
    lib=LIBRARY,
)
