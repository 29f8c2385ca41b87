"""The pSGLD step (ald_ext.ops, Note [The update equation]) and its neighbours in torch.optim."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ald_ext
from ald_ext import ops, reference

from .. import names
from ..measurement import Run
from ..plain_psgld import ParameterGroup, StepOptions, state_dtype, step_of_variant
from .cases import SpeedCase, Variant, copy_variant

OPTIONS = StepOptions(lr=1e-3, num_data=50_000, alpha=0.99, eps=0.1)
LR = OPTIONS.lr
SGLD_OPTIONS: dict[str, Any] = {"lr": LR, "num_data": OPTIONS.num_data, "seed": 0}
PSGLD_OPTIONS: dict[str, Any] = {**SGLD_OPTIONS, "alpha": OPTIONS.alpha, "eps": OPTIONS.eps}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    names.PSGLD: partial(ald_ext.PSGLD, **PSGLD_OPTIONS, fused=True),
    names.SGLD: partial(ald_ext.SGLD, **SGLD_OPTIONS, fused=True),
    names.ADAM: partial(torch.optim.Adam, lr=LR, fused=True),
    names.SGD: partial(torch.optim.SGD, lr=LR, fused=True),
    names.RMSPROP: partial(torch.optim.RMSprop, lr=LR, alpha=OPTIONS.alpha, eps=OPTIONS.eps, foreach=True),
}

#: Like the tensors of a small network.
IN_TENSORS_NUMELS = (*[312] * 31, 328)


class UpdateInputs(ParameterGroup):
    """Parameters with gradients, v, and buffers for the variants that allocate nothing."""

    def __init__(self, numels: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        super().__init__([torch.empty(numel, dtype=dtype, device=device) for numel in numels], 0.0, OPTIONS)
        for param in self.params:
            param.grad = torch.empty_like(param)
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first step."""
        generator = torch.Generator(self.flat_noise.device).manual_seed(0)
        for param, grad, v in zip(self.params, self.grads, self.square_avgs, strict=True):
            param.normal_(std=0.02, generator=generator)
            grad.normal_(generator=generator)
            v.zero_()


# Checks: the drift exactly, the noise by its mean and variance.

#: More than one, so that a variant that does not keep its state is found out.
CHECKED_STEPS = 3

#: Relative and absolute error of parameters after the steps, and of the noise's standard deviation: bfloat16 rounds
#: parameters of 0.02 by up to 6e-5, to the nearest or at random, which is as good as a little more noise.
TOLERANCES = {torch.bfloat16: (2e-2, 5e-4, 3e-2)}
USUAL_TOLERANCES = (1e-4, 1e-6, 1e-3)

#: Steps without noise of parameters with gradients, in place; those that leave out noise return its variances.
Steps = Callable[[list[Tensor], list[Tensor]], Any]


def reference_options(count: int) -> dict[str, Any]:
    """What the reference's steps of so many tensors want to be told besides: they have no defaults."""
    return {"weight_decay": 0.0, "maximize": False, "noise_ids": range(count), "offsets": [0] * count}


def psgld_drift(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The steps of pSGLD without noise, which are RMSprop's."""
    square_avgs, variances = ([torch.zeros_like(param) for param in params] for _ in range(2))
    options = {**PSGLD_OPTIONS, **reference_options(len(params)), "freeze_after": ops.NEVER}
    for step in range(CHECKED_STEPS):
        reference.psgld_step_(params, grads, square_avgs, **options, temperature=0.0, step=step)
        for variance, v in zip(variances, square_avgs, strict=True):
            variance += OPTIONS.noise_variance / (v.sqrt() + OPTIONS.eps)
    return variances


def sgld_drift(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The steps of SGLD without noise, which are SGD's."""
    options = {**SGLD_OPTIONS, **reference_options(len(params))}
    for step in range(CHECKED_STEPS):
        reference.sgld_step_(params, grads, **options, temperature=0.0, step=step)
    return [torch.full_like(param, CHECKED_STEPS * OPTIONS.noise_variance) for param in params]


def adam_steps(params: list[Tensor], grads: list[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    adam = torch.optim.Adam(params, LR, foreach=False, fused=False)
    for _ in range(CHECKED_STEPS):
        adam.step()


def check_standard_normal(sample: Tensor, tolerance: float = USUAL_TOLERANCES[2]) -> None:
    """Mean and standard deviation are those of N(0, 1), within six standard errors and a little rounding."""
    mean_error = 1 / math.sqrt(sample.numel())
    mean, std = sample.mean().item(), sample.std().item()
    assert abs(mean) < 6 * mean_error + tolerance, f"mean {mean}, expected 0"
    assert abs(std - 1) < 6 * mean_error / math.sqrt(2) + tolerance, f"std {std}, expected 1"


def check_normal(inputs: UpdateInputs, run: Run) -> None:
    """The run fills the buffer of noise."""
    inputs.flat_noise.zero_()
    run()
    check_standard_normal(inputs.flat_noise.double())


def check_steps(steps: Steps, noisy: bool, inputs: UpdateInputs, run: Run) -> None:
    """The parameters are those that ``steps`` gives; or what is added to them, over its scale, is standard normal."""
    inputs.reset()
    dtype = state_dtype(inputs.params[0].dtype)
    expected = [param.to(dtype, copy=True) for param in inputs.params]
    variances = steps(expected, [grad.to(dtype) for grad in inputs.grads])
    inputs.reset()
    for _ in range(CHECKED_STEPS):
        run()
    relative, absolute, of_deviation = TOLERANCES.get(inputs.params[0].dtype, USUAL_TOLERANCES)
    if not noisy:
        torch.testing.assert_close(inputs.params, expected, rtol=relative, atol=absolute, check_dtype=False)
        return
    residuals = [
        (param - without_noise).double() / variance.double().sqrt()
        for param, without_noise, variance in zip(inputs.params, expected, variances, strict=True)
    ]
    check_standard_normal(torch.cat(residuals), of_deviation)


# Variants.


def prepare_our_normal(inputs: UpdateInputs) -> Run:
    """The op behind ops.normal, which would allocate: on a CPU, page faults would take longer than the noise."""
    steps = itertools.count(1)

    def run() -> None:
        # As ops.normal does it: below the dispatcher's Python kernel that counts writes.
        with torch._C._AutoDispatchBelowADInplaceOrView():
            torch.ops.ald_ext.normal_(inputs.flat_noise, seed=0, step=next(steps))

    return run


def prepare_op(inputs: UpdateInputs, **options: Any) -> Run:
    steps = itertools.count(1)
    all_options = {**PSGLD_OPTIONS, **options}
    params, grads, square_avgs = inputs.params, inputs.grads, inputs.square_avgs
    return lambda: ops.psgld_step_(params, grads, square_avgs, **all_options, step=next(steps))


def update_variants(dtype: torch.dtype) -> tuple[Variant, ...]:
    """All that makes sense for parameters of this dtype."""
    item, state = dtype.itemsize, state_dtype(dtype).itemsize
    # pSGLD and RMSprop read θ, g, v and write θ, v; Adam has one state more, of θ's dtype; SGD and SGLD have none.
    psgld_bytes, adam_bytes, sgd_bytes = 3 * item + 2 * state, 7 * item, 3 * item
    check_psgld, check_sgld = (partial(check_steps, drift, True) for drift in (psgld_drift, sgld_drift))
    quiet = (psgld_drift, sgld_drift, adam_steps)
    check_rmsprop, check_sgd, check_adam = (partial(check_steps, steps, False) for steps in quiet)

    def in_pytorch(name: str) -> Variant:
        return Variant(
            name, psgld_bytes, lambda inputs: partial(step_of_variant(name), inputs), check_psgld, (names.OURS,)
        )

    def optimizer(name: str, count: int, check: Callable[..., None], *over: str) -> Variant:
        return Variant(name, count, lambda inputs: OPTIMIZERS[name](inputs.params).step, check, over)

    over_normal = (names.OURS, names.NOISE_ALONE)
    return (
        *map(in_pytorch, (names.PLAIN, names.IN_PLACE, names.FOREACH, names.COMPILED)),
        optimizer(names.ADAM, adam_bytes, check_adam),
        optimizer(names.SGD, sgd_bytes, check_sgd),
        optimizer(names.RMSPROP, psgld_bytes, check_rmsprop),
        Variant(names.NORMAL, state, lambda inputs: inputs.flat_noise.normal_, check_normal, over_normal),
        Variant(names.NOISE_ALONE, state, prepare_our_normal, check_normal),
        Variant(names.OURS, psgld_bytes, prepare_op, check_psgld, (names.ADAM,)),
        Variant(names.NO_NOISE, psgld_bytes, partial(prepare_op, temperature=0.0), check_rmsprop),
        optimizer(names.PSGLD, psgld_bytes, check_psgld, names.ADAM, names.SGD, names.OURS),
        optimizer(names.SGLD, sgd_bytes, check_sgld, names.SGD),
        copy_variant(lambda inputs: inputs.square_avgs, state),
    )


#: For dtypes other than float32: the strongest of PyTorch's, ours, and the memory.
OTHER_DTYPE_VARIANTS = {names.IN_PLACE, names.COMPILED, names.ADAM, names.OURS, names.NO_NOISE, names.COPY}


def large_sizes(device: torch.device) -> dict[str, Sequence[int]]:
    return {"1e7": (10**7,), **({"1e8": (10**8,)} if device.type == "cuda" else {})}


def update_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    sizes: dict[str, Sequence[int]] = {"1e4": (10**4,), names.IN_TENSORS: IN_TENSORS_NUMELS, "1e5": (10**5,)}
    sizes |= {"1e6": (10**6,), **({} if quick else large_sizes(device))}
    variants = update_variants(torch.float32)
    return [
        SpeedCase(names.UPDATE, size, sum(numels), partial(UpdateInputs, numels, device), variants)
        for size, numels in sizes.items()
    ]


def update_dtype_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    """Cases of large lists only, as the fixed cost is that of float32."""
    sizes: dict[str, Sequence[int]] = {"1e6": (10**6,)} if quick else large_sizes(device)
    return [
        SpeedCase(
            f"{names.UPDATE}, {str(dtype).removeprefix('torch.')}",
            size,
            sum(numels),
            partial(UpdateInputs, numels, device, dtype),
            [variant for variant in update_variants(dtype) if variant.name in OTHER_DTYPE_VARIANTS],
        )
        for dtype in (torch.float64, torch.bfloat16)
        for size, numels in sizes.items()
    ]
