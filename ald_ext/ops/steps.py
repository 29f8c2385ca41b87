"""The steps of the optimizers on lists of parameters."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..settings import shortened
from .library import KERNEL_DEVICES, OPS, check_not_recorded, check_tensors, describe, named_tensors, write

#: As ``freeze_after``: the preconditioner adapts for ever.
NEVER = 2**63 - 1

#: Arguments that say which elements of which parameters the tensors of a step are.
_INDEX_LISTS = ("noise_ids", "offsets", "row_lengths", "row_strides")


def sgld_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    lr: float | Tensor,
    num_data: float = 1.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    seed: int,
    step: int | Tensor,
    noise_ids: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    row_lengths: Sequence[int] | None = None,
    row_strides: Sequence[int] | None = None,
) -> None:
    """One SGLD step of all ``params`` in place, in one pass: θ ← θ - lr·g + √(2·lr·T/N) ξ (Note [The update equation]).

    Note [Shards]
        The noise belongs to the elements of whole parameters. A tensor of ``params`` that is a shard of a parameter
        gets the bits that its elements get in the step of the whole parameter if the op is told which elements they
        are: in the order of its memory, element i of tensor j is element

            offsets[j] + (i // row_lengths[j])·row_strides[j] + i % row_lengths[j]

        of parameter noise_ids[j], or offsets[j] + i if row_lengths[j] and row_strides[j] are 0. So the columns a to b
        of a matrix of n columns have offset a, row length b - a and row stride n.

    Args:
        params: dense tensors of one dtype (float32, float64, bfloat16 or float16) on one device; any shapes, empty ones
            too. 16-bit ones are computed in float32 and rounded stochastically, so that their mean moves as it should;
            the bits for that are a function of the noise key too.
        grads: one for each of ``params``, of the same shape, strides, dtype and device.
        lr, temperature, weight_decay: see the note; each ≥ 0. As a tensor (one element, float32 or float64, on the CPU
            or the params' device) lr is read when the step runs.
        num_data: N > 0.
        maximize: ascend.
        seed, step: the noise key, as in :func:`normal`; step also as a tensor (one element, int64).
        noise_ids: the index k of each tensor's noise; 0, 1, 2, … if None or empty.
        offsets: the element of its parameter at which each tensor begins; 0 if None or empty.
        row_lengths, row_strides: the number of neighbouring elements in each tensor's rows, ≥ 1, and how far apart rows
            begin in the parameter, ≥ the row length; 0 for both, or None or empty lists: each tensor is one range.

    Raises:
        RuntimeError: mismatched lists, devices, dtypes, shapes or strides, values out of range, the same tensor twice,
            or tensors that autograd is recording.
    """
    _run_unrecorded_step(
        "sgld_step_",
        {"params": params, "grads": grads},
        lr=lr,
        num_data=num_data,
        temperature=temperature,
        weight_decay=weight_decay,
        maximize=maximize,
        seed=seed,
        step=step,
        noise_ids=noise_ids,
        offsets=offsets,
        row_lengths=row_lengths,
        row_strides=row_strides,
    )


def psgld_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    *,
    lr: float | Tensor,
    num_data: float = 1.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    alpha: float = 0.99,
    eps: float = 0.1,
    freeze_after: int = NEVER,
    seed: int,
    step: int | Tensor,
    noise_ids: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    row_lengths: Sequence[int] | None = None,
    row_strides: Sequence[int] | None = None,
) -> None:
    """One pSGLD step of all ``params`` and ``square_avgs`` in place, in one pass (Note [The update equation]).

    Args:
        params, grads, lr, num_data, temperature, weight_decay, maximize, seed, step, noise_ids, offsets, row_lengths,
            row_strides: as in :func:`sgld_step_`.
        square_avgs: v, one for each of ``params``, of the same shape, strides and device; of the same dtype, or float32
            for 16-bit params.
        alpha: decay of v, 0 ≤ alpha < 1.
        eps: λ ≥ 0.
        freeze_after: v adapts while step ≤ freeze_after; -1: it stays as it is, a frozen preconditioner.

    Raises:
        RuntimeError: as :func:`sgld_step_`.
    """
    _run_unrecorded_step(
        "psgld_step_",
        {"params": params, "grads": grads, "square_avgs": square_avgs},
        lr=lr,
        num_data=num_data,
        temperature=temperature,
        weight_decay=weight_decay,
        maximize=maximize,
        alpha=alpha,
        eps=eps,
        freeze_after=freeze_after,
        seed=seed,
        step=step,
        noise_ids=noise_ids,
        offsets=offsets,
        row_lengths=row_lengths,
        row_strides=row_strides,
    )


def sghmc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    lr: float | Tensor,
    num_data: float = 1.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    momentum: float = 0.9,
    seed: int,
    step: int | Tensor,
    noise_ids: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    row_lengths: Sequence[int] | None = None,
    row_strides: Sequence[int] | None = None,
) -> None:
    """One SGHMC step of all ``params`` and ``momenta`` in place, in one pass (Note [The underdamped update]).

    Args:
        params, grads, lr, num_data, temperature, weight_decay, maximize, seed, step, noise_ids, offsets, row_lengths,
            row_strides: as in :func:`sgld_step_`; lr = h².
        momenta: p, one for each of ``params``, of the same shape, strides and device; of the same dtype, or float32
            for 16-bit params.
        momentum: μ, 0 ≤ momentum < 1.

    Raises:
        RuntimeError: as :func:`sgld_step_`.
    """
    _run_unrecorded_step(
        "sghmc_step_",
        {"params": params, "grads": grads, "momenta": momenta},
        lr=lr,
        num_data=num_data,
        temperature=temperature,
        weight_decay=weight_decay,
        maximize=maximize,
        momentum=momentum,
        seed=seed,
        step=step,
        noise_ids=noise_ids,
        offsets=offsets,
        row_lengths=row_lengths,
        row_strides=row_strides,
    )


def _run_unrecorded_step(name: str, lists: dict[str, Sequence[Tensor]], **settings: Any) -> None:
    for argument, tensors in lists.items():
        if not isinstance(tensors, list | tuple):
            raise RuntimeError(f"ald_ext::{name}: {argument}: got {describe(tensors)}, expected a list of tensors")
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            check_tensors(name, *named_tensors(argument, tensors))
    check_not_recorded(name, *named_tensors("params", lists["params"]))
    for argument in _INDEX_LISTS:
        settings[argument] = settings[argument] or ()
    run_step(name, [*lists.values()], settings)


def run_step(name: str, lists: Sequence[Sequence[Tensor]], settings: dict[str, Any]) -> None:
    """Run the step op called ``name`` on lists of tensors, each parameter's in the same place of every list.

    Unlike the functions above, it does not look whether autograd is recording: optimizers write to leaves.

    Args:
        name: of the op, as in ``"sgld_step_"``.
        lists: params, grads, and the states in the order in which the op takes them.
        settings: all that the op takes besides, as in :func:`sgld_step_`, but for lists that are empty.

    Raises:
        RuntimeError: as :func:`sgld_step_`.
    """
    params, _, *states = lists
    op = getattr(OPS, name)
    if not params:  # the dispatcher finds no device in empty lists
        for argument, tensors in zip(op.default._schema.arguments, lists, strict=False):
            if tensors:
                raise RuntimeError(
                    f"ald_ext::{name}: {argument.name}: got {len(tensors)} items, expected 0, as of params"
                )
        return
    lr, step = settings["lr"], settings["step"]
    if params[0].device.type not in KERNEL_DEVICES:
        noise_ids = settings.get("noise_ids") or range(len(params))
        offsets = settings.get("offsets") or [0] * len(params)
        settings = {**settings, "lr": float(lr), "step": int(step), "noise_ids": noise_ids, "offsets": offsets}
        getattr(reference, name)(*lists, **settings)
        return
    if isinstance(lr, Tensor) or isinstance(step, Tensor):
        lr, step = _scalar(name, "lr", lr, torch.float64), _scalar(name, "step", step, torch.int64)
        op, settings = op.tensor, {**settings, "lr": lr, "step": step}
    else:
        op = op.default
    if torch.compiler.is_compiling():
        op(*lists, **{"noise_ids": (), "offsets": (), **settings})
        return
    if "localization" in settings:
        states.pop()  # anchors are only read
    if tuple(settings) != _setting_names(name):
        settings = in_order(name, settings)
    write(op, [*params, *chain(*states)] if states else params, *lists, *settings.values())


def _scalar(name: str, argument: str, value: Any, dtype: torch.dtype) -> Tensor:
    """A number as a tensor: on the CPU, where it is read at once. RuntimeError for what is none, such as a list."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, numbers.Real if dtype.is_floating_point else numbers.Integral):
        kind = "a number" if dtype.is_floating_point else "an integer"
        raise RuntimeError(f"ald_ext::{name}: {argument}: got {shortened(value)}, expected {kind} or a tensor of one")
    return torch.tensor(value, dtype=dtype, device="cpu")


#: As the step of an op: it checks its arguments and writes nothing (csrc/ops/registration.h).
ONLY_LOOK = -(2**63)


def accepts_step(name: str, lists: Sequence[Sequence[Tensor]], settings: dict[str, Any]) -> bool:
    """Return whether the step op called ``name`` would take the arguments of :func:`run_step`; nothing is written."""
    arguments = in_order(name, {**settings, "step": ONLY_LOOK}).values()
    try:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            getattr(OPS, name).default(*lists, *arguments)
    except RuntimeError:
        return False
    return True


def in_order(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a step op in the order of its arguments, with empty lists, or None, for those that are missing.

    An op takes its arguments by their places sooner than by their names, by 0.25 µs each.
    """
    return {
        argument: settings.get(argument, () if argument in _INDEX_LISTS else None) for argument in _setting_names(name)
    }


@cache
def _setting_names(name: str) -> tuple[str, ...]:
    names = [argument.name for argument in getattr(OPS, name).default._schema.arguments]
    return tuple(names[names.index("lr") :])
