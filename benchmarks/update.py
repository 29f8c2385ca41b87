"""The pSGLD step (ald_ext.ops, Note [The update equation]) and its neighbours in torch.optim."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from variants import Case, Run, Variant

import ald_ext
from ald_ext import ops, reference

LR, NUM_DATA, ALPHA, EPS = 1e-3, 50_000, 0.99, 0.1
NOISE_VARIANCE = 2 * LR / NUM_DATA  # times the preconditioner
SGLD_OPTIONS: dict[str, Any] = {"lr": LR, "num_data": NUM_DATA, "weight_decay": 0.0, "maximize": False, "seed": 0}
PSGLD_OPTIONS: dict[str, Any] = {**SGLD_OPTIONS, "alpha": ALPHA, "eps": EPS, "adapt": True}

#: More than one, so that a variant that does not keep its state is found out.
CHECKED_STEPS = 3


class UpdateInputs:
    """Parameters, gradients and v, and buffers for the variants that allocate nothing."""

    def __init__(self, numels: Sequence[int], device: torch.device) -> None:
        self.params = [torch.empty(numel, device=device) for numel in numels]
        self.grads = [torch.empty(numel, device=device) for numel in numels]
        self.square_avgs = [torch.empty(numel, device=device) for numel in numels]
        self.buffers = [torch.empty(numel, device=device) for numel in numels]
        # One draw for all tensors, as a careful user would make it: the strongest baseline.
        self.flat_noise = torch.empty(sum(numels), device=device)
        self.noises = self.flat_noise.split(list(numels))
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first step."""
        generator = torch.Generator(self.flat_noise.device).manual_seed(0)
        for param, grad, v in zip(self.params, self.grads, self.square_avgs, strict=True):
            param.normal_(std=0.02, generator=generator)
            grad.normal_(generator=generator)
            v.zero_()

    def leaves(self) -> list[Tensor]:
        """The parameters with their gradients, for an optimizer."""
        leaves = [param.detach() for param in self.params]
        for leaf, grad in zip(leaves, self.grads, strict=True):
            leaf.grad = grad
        return leaves


def psgld_update(
    params: Sequence[Tensor], grads: Sequence[Tensor], square_avgs: Sequence[Tensor], noises: Sequence[Tensor]
) -> None:
    """The step as a user would write it. reference.psgld_step_ would compile to something much slower."""
    for param, grad, v, noise in zip(params, grads, square_avgs, noises, strict=True):
        v.mul_(ALPHA).addcmul_(grad, grad, value=1 - ALPHA)
        preconditioner = 1 / (v.sqrt() + EPS)
        param.add_(torch.sqrt(NOISE_VARIANCE * preconditioner) * noise - LR * preconditioner * grad)


def prepare_plain(inputs: UpdateInputs) -> Run:
    def run() -> None:
        noises = [torch.randn_like(param) for param in inputs.params]
        psgld_update(inputs.params, inputs.grads, inputs.square_avgs, noises)

    return run


def prepare_in_place(inputs: UpdateInputs) -> Run:
    noise_scale = math.sqrt(NOISE_VARIANCE)

    def run() -> None:
        inputs.flat_noise.normal_()
        for param, grad, v, noise, denominator in zip(
            inputs.params, inputs.grads, inputs.square_avgs, inputs.noises, inputs.buffers, strict=True
        ):
            v.mul_(ALPHA).addcmul_(grad, grad, value=1 - ALPHA)
            torch.sqrt(v, out=denominator).add_(EPS)
            param.addcdiv_(grad, denominator, value=-LR)
            param.addcdiv_(noise, denominator.sqrt_(), value=noise_scale)

    return run


def torch_normal(n: int, *, dtype: torch.dtype, device: torch.device, **key: int) -> Tensor:
    """Torch's own normals in the place of the reference's slow ones; the noise key goes unused."""
    return torch.randn(n, dtype=dtype, device=device)


def noise_indices(params: Sequence[Tensor]) -> dict[str, Any]:
    """What the reference functions want to be told, the usual values."""
    return {"parameters": range(len(params)), "offsets": [0] * len(params)}


def prepare_foreach(inputs: UpdateInputs) -> Run:
    return partial(
        reference.psgld_step_foreach_,
        inputs.params,
        inputs.grads,
        inputs.square_avgs,
        **PSGLD_OPTIONS,
        temperature=1.0,
        step=1,
        **noise_indices(inputs.params),
        normal=torch_normal,
    )


def prepare_compiled(inputs: UpdateInputs) -> Run:
    # normal_() is left outside: inductor's own random numbers are many times slower on a CPU.
    update = torch.compile(psgld_update, dynamic=False)

    def run() -> None:
        inputs.flat_noise.normal_()
        update(inputs.params, inputs.grads, inputs.square_avgs, inputs.noises)

    return run


def prepare_adam(inputs: UpdateInputs) -> Run:
    return torch.optim.Adam(inputs.leaves(), LR, fused=True).step


def prepare_sgd(inputs: UpdateInputs) -> Run:
    return torch.optim.SGD(inputs.leaves(), LR, fused=True).step


def prepare_rmsprop(inputs: UpdateInputs) -> Run:
    return torch.optim.RMSprop(inputs.leaves(), LR, alpha=ALPHA, eps=EPS, foreach=True).step


def prepare_normal(inputs: UpdateInputs) -> Run:
    return inputs.flat_noise.normal_


def prepare_op(inputs: UpdateInputs) -> Run:
    steps = itertools.count(1)

    def run() -> None:
        ops.psgld_step_(inputs.params, inputs.grads, inputs.square_avgs, **PSGLD_OPTIONS, step=next(steps))

    return run


def prepare_optimizer(inputs: UpdateInputs) -> Run:
    return ald_ext.PSGLD(inputs.leaves(), LR, num_data=NUM_DATA, alpha=ALPHA, eps=EPS, seed=0, fused=True).step


def psgld_drift(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Steps without noise, in place; returns the variance of the noise left out."""
    square_avgs = [torch.zeros_like(param) for param in params]
    variances = [torch.zeros_like(param) for param in params]
    options = {**PSGLD_OPTIONS, "temperature": 0.0, **noise_indices(params)}
    for step in range(CHECKED_STEPS):
        reference.psgld_step_(params, grads, square_avgs, **options, step=step)
        for variance, v in zip(variances, square_avgs, strict=True):
            variance += NOISE_VARIANCE / (v.sqrt() + EPS)
    return variances


def sgd_steps(params: list[Tensor], grads: list[Tensor]) -> None:
    options = {**SGLD_OPTIONS, "temperature": 0.0, **noise_indices(params)}
    for step in range(CHECKED_STEPS):
        reference.sgld_step_(params, grads, **options, step=step)


def adam_steps(params: list[Tensor], grads: list[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    adam = torch.optim.Adam(params, LR, foreach=False, fused=False)
    for _ in range(CHECKED_STEPS):
        adam.step()


def check_standard_normal(sample: Tensor) -> None:
    """By mean and standard deviation, within six standard errors and a little rounding."""
    mean_error = 1 / math.sqrt(sample.numel())
    assert abs(sample.mean().item()) < 6 * mean_error + 1e-3, f"mean {sample.mean().item()}, expected 0"
    assert abs(sample.std().item() - 1) < 6 * mean_error / math.sqrt(2) + 1e-3, f"std {sample.std().item()}, expected 1"


def check_normal(inputs: UpdateInputs, run: Run) -> None:
    inputs.flat_noise.zero_()
    run()
    check_standard_normal(inputs.flat_noise.double())


def run_checked_steps(inputs: UpdateInputs, run: Run) -> None:
    inputs.reset()
    for _ in range(CHECKED_STEPS):
        run()


def check_psgld(inputs: UpdateInputs, run: Run) -> None:
    """What the steps add to those without noise, divided by the scale of the noise, is standard normal."""
    inputs.reset()
    expected = [param.clone() for param in inputs.params]
    variances = psgld_drift(expected, inputs.grads)
    run_checked_steps(inputs, run)
    residuals = [
        (param - without_noise).double() / variance.double().sqrt()
        for param, without_noise, variance in zip(inputs.params, expected, variances, strict=True)
    ]
    check_standard_normal(torch.cat(residuals))


def check_noise_free(inputs: UpdateInputs, run: Run, *, steps: Callable[[list[Tensor], list[Tensor]], Any]) -> None:
    """The parameters are those that ``steps`` gives."""
    inputs.reset()
    expected = [param.clone() for param in inputs.params]
    steps(expected, inputs.grads)
    run_checked_steps(inputs, run)
    torch.testing.assert_close(inputs.params, expected, rtol=1e-4, atol=1e-6)


# Bytes: pSGLD and RMSprop read θ, g, v and write θ, v; Adam has one state more; SGD has none; normal_ only writes.
UPDATE_VARIANTS = (
    Variant("plain PyTorch", 20, prepare_plain, check_psgld),
    Variant("in-place PyTorch", 20, prepare_in_place, check_psgld),
    Variant("torch._foreach", 20, prepare_foreach, check_psgld),
    Variant("torch.compile", 20, prepare_compiled, check_psgld),
    Variant("Adam(fused=True)", 28, prepare_adam, partial(check_noise_free, steps=adam_steps)),
    Variant("SGD(fused=True)", 12, prepare_sgd, partial(check_noise_free, steps=sgd_steps)),
    Variant("RMSprop(foreach=True)", 20, prepare_rmsprop, partial(check_noise_free, steps=psgld_drift)),
    Variant("normal_ alone", 4, prepare_normal, check_normal),
    Variant("ald_ext op", 20, prepare_op, check_psgld),
    Variant("ald_ext.PSGLD", 20, prepare_optimizer, check_psgld),
)


def update_cases(device: torch.device, quick: bool) -> list[Case]:
    sizes = {"1e4": [10_000], "1e4 in 32 tensors": [312] * 31 + [328], "1e6": [10**6]}
    if not quick:
        sizes["1e7"] = [10**7]
        if device.type == "cuda":
            sizes["1e8"] = [10**8]
    return [
        Case("update", size, sum(numels), partial(UpdateInputs, numels, device), UPDATE_VARIANTS)
        for size, numels in sizes.items()
    ]
