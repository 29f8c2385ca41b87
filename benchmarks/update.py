"""The pSGLD step (ald_ext.ops, Note [The update equation]) and its neighbours in torch.optim."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from names import COPY, IN_TENSORS, NO_NOISE, NOISE_ALONE, OURS
from torch import Tensor
from update_checks import (
    adam_steps,
    check_noise_free,
    check_noisy,
    check_normal,
    psgld_drift,
    reference_psgld_options,
    sgld_drift,
)
from update_inputs import (
    ALPHA,
    EPS,
    LR,
    NOISE_VARIANCE,
    NUM_DATA,
    PSGLD_OPTIONS,
    SGLD_OPTIONS,
    UpdateInputs,
    state_dtype,
)
from variants import Case, Run, Variant, copy_variant

import ald_ext
from ald_ext import ops
from ald_ext.optim.foreach import psgld_step_foreach_

#: As the tensors of a small network.
IN_TENSORS_NUMELS = (*[312] * 31, 328)


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


def prepare_foreach(inputs: UpdateInputs) -> Run:
    return partial(
        psgld_step_foreach_,
        inputs.params,
        inputs.grads,
        inputs.square_avgs,
        **reference_psgld_options(inputs.params),
        temperature=1.0,
        step=1,
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
    return lambda: ops.psgld_step_(inputs.params, inputs.grads, inputs.square_avgs, **all_options, step=next(steps))


def psgld(leaves: list[Tensor], **options: Any) -> ald_ext.PSGLD:
    return ald_ext.PSGLD(leaves, LR, num_data=NUM_DATA, alpha=ALPHA, eps=EPS, seed=0, fused=True, **options)


def sgld(leaves: list[Tensor], **options: Any) -> ald_ext.SGLD:
    return ald_ext.SGLD(leaves, LR, num_data=NUM_DATA, seed=SGLD_OPTIONS["seed"], fused=True, **options)


def prepare_psgld(inputs: UpdateInputs) -> Run:
    return psgld(inputs.leaves()).step


def prepare_sgld(inputs: UpdateInputs) -> Run:
    return sgld(inputs.leaves()).step


def update_variants(dtype: torch.dtype) -> tuple[Variant, ...]:
    """All that makes sense for parameters of this dtype."""
    item, state = dtype.itemsize, state_dtype(dtype).itemsize
    # pSGLD and RMSprop read θ, g, v and write θ, v; Adam has one state more, of θ's dtype; SGD and SGLD have none.
    psgld_bytes, adam_bytes, sgd_bytes = 3 * item + 2 * state, 7 * item, 3 * item
    check_psgld, check_sgld = partial(check_noisy, drift=psgld_drift), partial(check_noisy, drift=sgld_drift)
    check_rmsprop = partial(check_noise_free, steps=psgld_drift)
    return (
        Variant("plain PyTorch", psgld_bytes, prepare_plain, check_psgld),
        Variant("in-place PyTorch", psgld_bytes, prepare_in_place, check_psgld),
        Variant("torch._foreach", psgld_bytes, prepare_foreach, check_psgld),
        Variant("torch.compile", psgld_bytes, prepare_compiled, check_psgld),
        Variant("Adam(fused=True)", adam_bytes, prepare_adam, partial(check_noise_free, steps=adam_steps)),
        Variant("SGD(fused=True)", sgd_bytes, prepare_sgd, partial(check_noise_free, steps=sgld_drift)),
        Variant("RMSprop(foreach=True)", psgld_bytes, prepare_rmsprop, check_rmsprop),
        Variant("normal_ alone", state, prepare_normal, check_normal),
        Variant(NOISE_ALONE, state, prepare_our_normal, check_normal),
        Variant(OURS, psgld_bytes, prepare_op, check_psgld),
        Variant(NO_NOISE, psgld_bytes, partial(prepare_op, temperature=0.0), check_rmsprop),
        Variant("ald_ext.PSGLD", psgld_bytes, prepare_psgld, check_psgld),
        Variant("ald_ext.SGLD", sgd_bytes, prepare_sgld, check_sgld),
        copy_variant(lambda inputs: inputs.square_avgs, state),
    )


#: For dtypes other than float32: the strongest of PyTorch's, ours, and the memory.
OTHER_DTYPE_VARIANTS = {"in-place PyTorch", "torch.compile", "Adam(fused=True)", OURS, NO_NOISE, COPY}


def update_cases(device: torch.device, quick: bool) -> list[Case]:
    sizes: dict[str, Sequence[int]] = {
        "1e4": (10_000,),
        IN_TENSORS: IN_TENSORS_NUMELS,
        "1e5": (10**5,),
        "1e6": (10**6,),
        **({} if quick else large_sizes(device)),
    }
    variants = update_variants(torch.float32)
    return [
        Case("update", size, sum(numels), partial(UpdateInputs, numels, device), variants)
        for size, numels in sizes.items()
    ]


def large_sizes(device: torch.device) -> dict[str, Sequence[int]]:
    return {"1e7": (10**7,), **({"1e8": (10**8,)} if device.type == "cuda" else {})}


def update_dtype_cases(device: torch.device, quick: bool) -> list[Case]:
    """Of large lists only, as their fixed cost is that of float32."""
    sizes: dict[str, Sequence[int]] = {"1e6": (10**6,)} if quick else large_sizes(device)
    return [
        Case(
            f"update, {str(dtype).removeprefix('torch.')}",
            size,
            sum(numels),
            partial(UpdateInputs, numels, device, dtype),
            [variant for variant in update_variants(dtype) if variant.name in OTHER_DTYPE_VARIANTS],
        )
        for dtype in (torch.float64, torch.bfloat16)
        for size, numels in sizes.items()
    ]
