"""The steps of :mod:`ald_ext.reference` by torch's multi-tensor functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..reference import NormalFunction, anchored, noise_keys, noise_like, normal, rounding_16_bit_parameters


@rounding_16_bit_parameters
def sgld_step_foreach_(
    params: list[Tensor],
    grads: list[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """:func:`sgld_step_` by torch's multi-tensor functions."""
    gradients = _decayed_gradients(params, grads, weight_decay, maximize)
    updates = list(torch._foreach_mul(gradients, -lr))
    if temperature > 0:
        keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
        noises = [noise_like(param, normal, key) for param, key in zip(params, keys, strict=True)]
        torch._foreach_add_(updates, noises, alpha=math.sqrt(2 * lr * temperature / num_data))
    torch._foreach_add_(params, updates)


@rounding_16_bit_parameters
def psgld_step_foreach_(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    alpha: float,
    eps: float,
    freeze_after: int,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """:func:`psgld_step_` by torch's multi-tensor functions."""
    gradients = _decayed_gradients(params, grads, weight_decay, maximize)
    if step <= freeze_after:
        torch._foreach_mul_(square_avgs, alpha)
        torch._foreach_addcmul_(square_avgs, gradients, gradients, value=1 - alpha)
    denominators = list(torch._foreach_sqrt(square_avgs))
    torch._foreach_add_(denominators, eps)
    updates = list(torch._foreach_div(gradients, denominators))
    torch._foreach_mul_(updates, -lr)
    if temperature > 0:
        keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
        noises = [noise_like(param, normal, key) for param, key in zip(params, keys, strict=True)]
        torch._foreach_sqrt_(denominators)
        torch._foreach_div_(noises, denominators)
        torch._foreach_add_(updates, noises, alpha=math.sqrt(2 * lr * temperature / num_data))
    torch._foreach_add_(params, updates)


@rounding_16_bit_parameters
def sghmc_step_foreach_(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    momentum: float,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """:func:`sghmc_step_` by torch's multi-tensor functions."""
    if lr == 0:
        return
    h = math.sqrt(lr)
    torch._foreach_add_(momenta, _decayed_gradients(params, grads, weight_decay, maximize), alpha=-h)
    torch._foreach_add_(params, momenta, alpha=h / 2)
    torch._foreach_mul_(momenta, momentum)
    if temperature > 0:
        keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
        noises = [noise_like(param, normal, key) for param, key in zip(params, keys, strict=True)]
        torch._foreach_add_(momenta, noises, alpha=math.sqrt((1 - momentum**2) * temperature / num_data))
    torch._foreach_add_(params, momenta, alpha=h / 2)


def _decayed_gradients(params: list[Tensor], grads: list[Tensor], weight_decay: float, maximize: bool) -> list[Tensor]:
    gradients = list(torch._foreach_neg(grads)) if maximize else grads
    return list(torch._foreach_add(gradients, params, alpha=weight_decay)) if weight_decay else gradients


#: By the name of the step. A step that is not here runs tensor by tensor.
FOREACH_STEPS: dict[str, Callable[..., None]] = {
    "sgld_step_": sgld_step_foreach_,
    "psgld_step_": psgld_step_foreach_,
    "sghmc_step_": sghmc_step_foreach_,
    "sgld_anchored_step_": anchored(sgld_step_foreach_),
    "psgld_anchored_step_": anchored(psgld_step_foreach_),
    "sghmc_anchored_step_": anchored(sghmc_step_foreach_),
}
