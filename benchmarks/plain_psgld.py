"""The pSGLD step as PyTorch users write it, from the shortest code to the fastest; noise by torch's own generators.

All compute what ald_ext.reference.psgld_step_ states.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import names


@dataclass(frozen=True)
class StepOptions:
    """lr, N, α and λ."""

    lr: float
    num_data: int
    alpha: float
    eps: float

    @property
    def noise_variance(self) -> float:
        """2·lr/N, the variance of the noise before it is multiplied by G."""
        return 2 * self.lr / self.num_data


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """That of v and of the noise: float32 for 16-bit parameters."""
    return torch.promote_types(dtype, torch.float32)


class ParameterGroup:
    """Parameters with the same options, their v, and buffers for the steps that allocate nothing."""

    def __init__(self, params: Sequence[Tensor], weight_decay: float, options: StepOptions) -> None:
        self.params, self.weight_decay, self.options = list(params), weight_decay, options
        dtype = state_dtype(self.params[0].dtype)
        self.square_avgs = [torch.zeros_like(param, dtype=dtype) for param in self.params]
        self.buffers = [torch.empty_like(param, dtype=dtype) for param in self.params]
        sizes = [param.numel() for param in self.params]
        # One draw for all tensors, as a careful user would make it: the strongest baseline.
        self.flat_noise = torch.empty(sum(sizes), dtype=dtype, device=self.params[0].device)
        self.noises = [
            flat.as_strided(param.shape, param.stride(), flat.storage_offset())
            for flat, param in zip(self.flat_noise.split(sizes), self.params, strict=True)
        ]

    @property
    def grads(self) -> list[Tensor]:
        return [param.grad for param in self.params if param.grad is not None]


Step = Callable[[ParameterGroup], None]


def plain_update(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    noises: Iterable[Tensor],
    weight_decay: float,
    options: StepOptions,
) -> None:
    """The step tensor by tensor, with temporaries. reference.psgld_step_ would compile to something much slower."""
    for param, grad, v, noise in zip(params, grads, square_avgs, noises, strict=True):
        g = grad + weight_decay * param if weight_decay else grad
        v.mul_(options.alpha).addcmul_(g, g, value=1 - options.alpha)
        preconditioner = 1 / (v.sqrt() + options.eps)
        param.add_(torch.sqrt(options.noise_variance * preconditioner) * noise - options.lr * preconditioner * g)


def plain_step(group: ParameterGroup) -> None:
    noises = map(torch.randn_like, group.params)
    plain_update(group.params, group.grads, group.square_avgs, noises, group.weight_decay, group.options)


def foreach_step(group: ParameterGroup) -> None:
    """The step by torch's multi-tensor functions, which allocate too."""
    options = group.options
    gradients: Any = group.grads
    if group.weight_decay:
        gradients = torch._foreach_add(gradients, group.params, alpha=group.weight_decay)
    torch._foreach_mul_(group.square_avgs, options.alpha)
    torch._foreach_addcmul_(group.square_avgs, gradients, gradients, value=1 - options.alpha)
    denominators = torch._foreach_sqrt(group.square_avgs)
    torch._foreach_add_(denominators, options.eps)
    torch._foreach_addcdiv_(group.params, gradients, denominators, value=-options.lr)
    torch._foreach_sqrt_(denominators)
    noises = [torch.randn_like(param) for param in group.params]
    torch._foreach_addcdiv_(group.params, noises, denominators, value=math.sqrt(options.noise_variance))


def in_place_step(group: ParameterGroup) -> None:
    """The step without an allocation, in which a tensor stays in the caches from one operation to the next."""
    options = group.options
    group.flat_noise.normal_()
    noise_scale = math.sqrt(options.noise_variance)
    for param, grad, v, noise, denominator in zip(
        group.params, group.grads, group.square_avgs, group.noises, group.buffers, strict=True
    ):
        if group.weight_decay:
            grad.add_(param, alpha=group.weight_decay)
        v.mul_(options.alpha).addcmul_(grad, grad, value=1 - options.alpha)
        torch.sqrt(v, out=denominator).add_(options.eps)
        param.addcdiv_(grad, denominator, value=-options.lr)
        param.addcdiv_(noise, denominator.sqrt_(), value=noise_scale)


def compiled_step() -> Step:
    """The plain step compiled, but for the noise: inductor's own is many times slower than normal_() on a CPU."""
    update = torch.compile(plain_update, dynamic=False)

    def step(group: ParameterGroup) -> None:
        group.flat_noise.normal_()
        update(group.params, group.grads, group.square_avgs, group.noises, group.weight_decay, group.options)

    return step


def step_of_variant(variant: str) -> Step:
    """The step of a variant of the update, or of a training loop."""
    if variant in (names.COMPILED, names.COMPILED_OUR_LAYERS):
        return compiled_step()
    if variant in (names.PLAIN, names.PLAIN_STEP):
        return plain_step
    return foreach_step if variant in (names.FOREACH, names.FOREACH_STEP) else in_place_step
