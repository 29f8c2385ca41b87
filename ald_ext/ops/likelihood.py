"""The marginalized Gaussian likelihood, with its gradients."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .library import KERNEL_DEVICES, LIBRARY, OPS, check_same_device, check_tensors, is_transformed, register_fake

#: ``"flat"``, ``"jeffreys"``, or (a, b) for Gamma(a, b).
PrecisionPrior = str | tuple[float, float]


def prior_shape_and_rate(prior: PrecisionPrior, op: str = "marginal_gaussian_log_prob") -> tuple[float, float]:
    """(a, b) of the precision's prior, an argument of ``op``; b = 0 for the improper ones.

    Raises:
        ValueError: neither "flat", "jeffreys" nor a pair of positive numbers.
    """
    if prior == "flat":
        return 1.0, 0.0
    if prior == "jeffreys":
        return 0.0, 0.0
    is_pair = isinstance(prior, tuple | list) and len(prior) == 2
    if is_pair and all(isinstance(value, numbers.Real) and 0 < value < math.inf for value in prior):
        return float(prior[0]), float(prior[1])
    raise ValueError(f"ald_ext.ops.{op}: prior: got {prior!r}, expected 'flat', 'jeffreys' or (a, b) with a, b > 0")


def marginal_gaussian_log_prob(x: Tensor, mean: Tensor, prior: PrecisionPrior = "flat") -> Tensor:
    """log p(x | mean) of a Gaussian whose precision is integrated out, one value a datum.

    With r² = ‖x - mean‖² and d the number of values of a datum (paper: Appendix B, Eqs. 19-22):

        flat, dλ:        log 2 + lgamma(d/2 + 1) - (d/2) log π - (d + 2) log r
        Jeffreys, dλ/λ:  lgamma(d/2) - (d/2) log π - d log r
        Gamma(a, b):     lgamma(a + d/2) - lgamma(a) + a log b - (d/2) log 2π - (a + d/2) log(b + r²/2)

    The first two are improper and grow without bound as r → 0: r² is held at 2⁻¹⁰⁰ or above, so x == mean gives the
    finite value at that distance, with gradient zero, never NaN. Differentiable in both arguments, twice. r² is summed
    in a fixed order, so the bits do not depend on the number of threads.

    Args:
        x: (N, ...) float32 or float64.
        mean: the same shape, dtype and device.
        prior: of the precision.

    Returns:
        (N,) tensor of x's dtype.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not match, or no first dimension.
        ValueError: another prior.
    """
    shape, rate = prior_shape_and_rate(prior)
    check_tensors("marginal_gaussian_log_prob", ("x", x), ("mean", mean))
    if x.device.type not in KERNEL_DEVICES or is_transformed():
        return reference.marginal_gaussian_log_prob(x, mean, shape, rate)
    log_prob: Tensor = OPS.marginal_gaussian_log_prob(x, mean, shape, rate)[0]
    return log_prob


@register_fake("marginal_gaussian_log_prob")
def _log_prob_fake(x: Tensor, mean: Tensor, shape: float, rate: float) -> tuple[Tensor, Tensor]:
    check_same_device("marginal_gaussian_log_prob", ("x", x), ("mean", mean))
    return x.new_empty(x.shape[0]), x.new_empty(x.shape[0], dtype=torch.float64)


@register_fake("marginal_gaussian_log_prob_backward")
def _log_prob_backward_fake(grad: Tensor, x: Tensor, *others: Any) -> Tensor:
    mean, squared_distance, *_, need_x, need_mean = others
    named = ("x", x), ("mean", mean), ("grad", grad), ("squared_distance", squared_distance)
    check_same_device("marginal_gaussian_log_prob_backward", *named)
    return x.new_empty((need_x + need_mean, *x.shape))


def differentiable_gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients for those of the arguments that need one, by a graph of their own."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that the gradient for one argument leaves out a path through the other.
        arguments = [tensor.view_as(tensor) for tensor in tensors]
        wanted = [argument for argument, is_needed in zip(arguments, needed, strict=True) if is_needed]
        gradients = iter(torch.autograd.grad(function(*arguments), wanted, grad, create_graph=create_graph))
    return [next(gradients) if is_needed else None for is_needed in needed]


def _log_prob_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, mean, ctx.shape, ctx.rate = inputs
    _, squared_distance = output
    ctx.mark_non_differentiable(squared_distance)
    ctx.save_for_backward(x, mean, squared_distance)


def _log_prob_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, mean, squared_distance = ctx.saved_tensors
    need_x, need_mean = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled() or is_transformed():
        log_prob = partial(reference.marginal_gaussian_log_prob, shape=ctx.shape, rate=ctx.rate)
        grad_x, grad_mean = differentiable_gradients(log_prob, (x, mean), (need_x, need_mean), grad)
        return grad_x, grad_mean, None, None
    # The gradients that are needed, stacked.
    gradients = OPS.marginal_gaussian_log_prob_backward(
        grad, x, mean, squared_distance, ctx.shape, ctx.rate, need_x, need_mean
    )
    return gradients[0] if need_x else None, gradients[-1] if need_mean else None, None, None


torch.library.register_autograd(
    "ald_ext::marginal_gaussian_log_prob", _log_prob_backward, setup_context=_log_prob_setup, lib=LIBRARY
)
