"""Whether a variant of the update computes what it should: its drift exactly, its noise by mean and variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from update_inputs import EPS, LR, NOISE_VARIANCE, PSGLD_OPTIONS, SGLD_OPTIONS, UpdateInputs, state_dtype
from variants import Run

from ald_ext import ops, reference

#: More than one, so that a variant that does not keep its state is found out.
CHECKED_STEPS = 3

#: Relative and absolute error of parameters after the steps, and of the noise's standard deviation: bfloat16 rounds
#: parameters of 0.02 by up to 6e-5, to the nearest or at random, which is as good as a little more noise.
TOLERANCES = {torch.bfloat16: (2e-2, 5e-4, 3e-2)}
USUAL_TOLERANCES = (1e-4, 1e-6, 1e-3)

#: Steps without noise of parameters with gradients, in place; those that leave out noise return its variances.
Steps = Callable[[list[Tensor], list[Tensor]], Any]


def reference_sgld_options(params: Sequence[Tensor]) -> dict[str, Any]:
    """With what the reference functions want to be told besides: they have no defaults."""
    usual = {"weight_decay": 0.0, "maximize": False, "noise_ids": range(len(params)), "offsets": [0] * len(params)}
    return {**SGLD_OPTIONS, **usual}


def reference_psgld_options(params: Sequence[Tensor]) -> dict[str, Any]:
    return {**PSGLD_OPTIONS, **reference_sgld_options(params), "freeze_after": ops.NEVER}


def psgld_drift(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Also the steps of RMSprop."""
    square_avgs = [torch.zeros_like(param) for param in params]
    variances = [torch.zeros_like(param) for param in params]
    options = reference_psgld_options(params)
    for step in range(CHECKED_STEPS):
        reference.psgld_step_(params, grads, square_avgs, **options, temperature=0.0, step=step)
        for variance, v in zip(variances, square_avgs, strict=True):
            variance += NOISE_VARIANCE / (v.sqrt() + EPS)
    return variances


def sgld_drift(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Also the steps of SGD."""
    options = reference_sgld_options(params)
    for step in range(CHECKED_STEPS):
        reference.sgld_step_(params, grads, **options, temperature=0.0, step=step)
    return [torch.full_like(param, CHECKED_STEPS * NOISE_VARIANCE) for param in params]


def adam_steps(params: list[Tensor], grads: list[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    adam = torch.optim.Adam(params, LR, foreach=False, fused=False)
    for _ in range(CHECKED_STEPS):
        adam.step()


def check_standard_normal(sample: Tensor, tolerance: float = USUAL_TOLERANCES[2]) -> None:
    """By mean and standard deviation, within six standard errors and a little rounding."""
    mean_error = 1 / math.sqrt(sample.numel())
    mean, std = sample.mean().item(), sample.std().item()
    assert abs(mean) < 6 * mean_error + tolerance, f"mean {mean}, expected 0"
    assert abs(std - 1) < 6 * mean_error / math.sqrt(2) + tolerance, f"std {std}, expected 1"


def check_normal(inputs: UpdateInputs, run: Run) -> None:
    """The run fills the buffer of noise."""
    inputs.flat_noise.zero_()
    run()
    check_standard_normal(inputs.flat_noise.double())


def expected_and_variances(inputs: UpdateInputs, steps: Steps) -> tuple[list[Tensor], Any]:
    """Parameters after the steps without noise, in the precision of the state, and what ``steps`` returns."""
    inputs.reset()
    dtype = state_dtype(inputs.params[0].dtype)
    params = [param.to(dtype, copy=True) for param in inputs.params]
    return params, steps(params, [grad.to(dtype) for grad in inputs.grads])


def run_checked_steps(inputs: UpdateInputs, run: Run) -> None:
    inputs.reset()
    for _ in range(CHECKED_STEPS):
        run()


def check_noisy(inputs: UpdateInputs, run: Run, *, drift: Steps) -> None:
    """What the steps add to those without noise, divided by the scale of the noise, is standard normal."""
    expected, variances = expected_and_variances(inputs, drift)
    run_checked_steps(inputs, run)
    residuals = [
        (param - without_noise).double() / variance.double().sqrt()
        for param, without_noise, variance in zip(inputs.params, expected, variances, strict=True)
    ]
    check_standard_normal(torch.cat(residuals), TOLERANCES.get(inputs.params[0].dtype, USUAL_TOLERANCES)[2])


def check_noise_free(inputs: UpdateInputs, run: Run, *, steps: Steps) -> None:
    """The parameters are those that ``steps`` gives."""
    expected, _ = expected_and_variances(inputs, steps)
    run_checked_steps(inputs, run)
    relative, absolute, _ = TOLERANCES.get(inputs.params[0].dtype, USUAL_TOLERANCES)
    torch.testing.assert_close(inputs.params, expected, rtol=relative, atol=absolute, check_dtype=False)
