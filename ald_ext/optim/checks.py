"""What the optimizers refuse, in the words of the optimizer: options, and tensors that a step cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..settings import require, shortened
from .layouts import is_dense, share_memory
from .shards import is_dtensor, local
from .step_lists import StepLists

Group = dict[str, Any]


class Requirement(NamedTuple):
    """What the value of an option has to be."""

    is_met: Callable[[Any], bool]
    expected: str

    def accepts(self, value: Any) -> bool:
        """Whether the value is what it has to be; a string, None or a tensor of several elements is not."""
        try:
            return self.is_met(value)
        except (TypeError, RuntimeError):
            return False


#: Below it, integers are floats, too.
BOUND = 2.0**1023
NOT_NEGATIVE = Requirement(lambda value: 0 <= value < BOUND, "a finite number >= 0")
POSITIVE = Requirement(lambda value: 0 < value < BOUND, "a finite number > 0")
SEED = Requirement(lambda value: isinstance(value, int) and 0 <= value < 2**63, "an integer, 0 <= seed < 2**63")
COUNT_OR_NONE = Requirement(
    lambda value: value is None or (isinstance(value, int) and value >= 0), "None or an integer >= 0"
)


def fraction(name: str) -> Requirement:
    return Requirement(lambda value: 0 <= value < 1, f"0 <= {name} < 1")


def check_lr(optimizer: str, lr: float | Tensor) -> None:
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"ald_ext.{optimizer}: lr: got a tensor of {lr.numel()} elements, expected one")
        if torch.compiler.is_compiling() or lr.device.type != "cpu":
            return  # its value is not at hand without waiting for the device
    if not NOT_NEGATIVE.accepts(lr):
        raise ValueError(f"ald_ext.{optimizer}: lr: got {lr!r}, expected {NOT_NEGATIVE.expected}")


def check_memory(optimizer: str, lists: StepLists) -> None:
    """The op looks too, at one call's tensors."""
    if torch.compiler.is_compiling():
        return
    params, grads = ([local(tensor) for tensor in tensors] for tensors in (lists.params, lists.grads))
    states = [local(state) for state in chain.from_iterable(lists.states)]
    pairs = zip(grads, params, strict=True)
    read = [grad for grad, param in pairs if grad.stride() == param.stride()]  # others are copied before the step
    if share_memory([*params, *states], read):
        raise RuntimeError(
            f"ald_ext.{optimizer}: params: got parameters, gradients or states that share memory, "
            "expected distinct tensors"
        )


def check_param(where: str, group: Group, param: Tensor, grad: Tensor) -> None:
    if grad.is_sparse:
        raise RuntimeError(f"{where}: got a sparse gradient, expected a dense one, as without sparse=True")
    if param.dtype not in ops.PARAMETER_DTYPES:
        expected = ", ".join(str(dtype) for dtype in ops.PARAMETER_DTYPES)
        raise RuntimeError(f"{where}: got dtype {param.dtype}, expected one of {expected}")
    if grad.dtype != param.dtype:
        raise RuntimeError(f"{where}: got a gradient of dtype {grad.dtype}, expected {param.dtype}")
    if grad.shape != param.shape or grad.device != param.device:
        raise RuntimeError(
            f"{where}: got a gradient of shape {tuple(grad.shape)} on {grad.device}, "
            f"expected {tuple(param.shape)} on {param.device}"
        )
    if is_dtensor(param) != is_dtensor(grad) or (is_dtensor(param) and not placed_alike(param, grad)):
        raise RuntimeError(
            f"{where}: got a gradient {placed(grad)}, expected it {placed(param)}, as the "
            "parameter is: param.grad = param.grad.redistribute(placements=param.placements)"
        )
    if not is_dense(local(param)):
        raise RuntimeError(
            f"{where}: got strides {tuple(param.stride())} for shape {tuple(param.shape)}, "
            "expected a tensor that fills its memory without gaps or overlaps"
        )
    if (group["fused"] or group["capturable"]) and not ops.has_kernel(param):
        raise RuntimeError(
            f"{where}: fused or capturable: got True, but device {param.device} has no kernel; "
            f"expected fused=False or None. {ops.cuda_failure}".rstrip()
        )
    if group["capturable"] and group["step"].device not in (param.device, torch.device("cpu")):
        raise RuntimeError(
            f"{where}: capturable: got a parameter on {param.device} in a group on {group['step'].device}, "
            "expected one device in a group"
        )


def check_state(where: str, param: Tensor, state: Group, names: Sequence[str]) -> None:
    for name in names:
        if name in state and state[name].shape != param.shape:
            raise RuntimeError(
                f"{where}: state {name}: got shape {tuple(state[name].shape)}, "
                f"expected {tuple(param.shape)} as of the parameter"
            )
        if name in state and is_dtensor(param) and not (is_dtensor(state[name]) and placed_alike(param, state[name])):
            raise RuntimeError(
                f"{where}: state {name}: got it {placed(state[name])}, expected {placed(param)}, as the parameter is"
            )


@dataclass
class GroupState:
    """What every group of an optimizer's state has, beside its options."""

    params: list[int | str]


@dataclass
class OptimizerState:
    """The form of a state of PyTorch's optimizers; torch.distributed.checkpoint names parameters."""

    state: dict[int | str, dict[str, Any]]
    param_groups: list[GroupState]


def check_loaded(owner: str, optimizer: torch.optim.Optimizer, state_dict: Any) -> None:
    """Raise a ValueError, which begins with ``owner``, if a state is not one that an optimizer could have.

    It has the form of :class:`OptimizerState`. Options are compared in kind with the optimizer's own, states with the
    parameters.
    """
    pairs = list(zip(optimizer.param_groups, state_dict["param_groups"], strict=False))  # torch compares the numbers
    for number, (own, saved) in enumerate(pairs):
        for option in (own.keys() & saved.keys()) - {"params", "param_names"}:
            alike = are_alike(own[option], saved[option])
            expected = f"something like {shortened(own[option])}"
            require(alike, f"{owner}: param_groups[{number}]: {option}", shortened(saved[option]), expected)
    names = getattr(optimizer, "state_names", ("exp_avg", "exp_avg_sq"))  # the latter are Adam's
    keyed = [pair for own, saved in pairs for pair in zip(own["params"], saved["params"], strict=False)]
    for param, key in keyed:
        states = state_dict["state"].get(key, {})
        required = names if states.keys() - {"anchor"} else ()  # anchors are there before the first step
        for name in (*required, *({"gradient_mean", "anchor"} & states.keys())):
            state = states.get(name)
            dense = isinstance(state, Tensor) and state.layout == torch.strided and state.is_floating_point()
            plain = dense and state.is_meta == param.is_meta and not state.requires_grad
            expected = f"a tensor of shape {list(param.shape)} as of the parameter"
            fits = plain and state.shape == param.shape
            require(fits, f"{owner}: state[{key!r}]: {name}", shortened(state, 100), expected)
        step = states.get("step", 0)
        require(is_number(step), f"{owner}: state[{key!r}]: step", shortened(step, 100), "a number")


def are_alike(own: Any, saved: Any) -> bool:
    """Whether a value may stand for an option's own; None, flags and numbers may stand for each other."""
    if isinstance(own, (list, tuple)):
        return isinstance(saved, (list, tuple)) and len(own) == len(saved) and all(map(are_alike, own, saved))
    return saved is None or is_number(saved)


def is_number(value: Any) -> bool:
    """Whether a value is a number that PyTorch can take."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_meta and value.layout == torch.strided
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)


def placed_alike(first: Any, second: Any) -> bool:
    """True if two DTensors of one shape have the same shards; a partial sum has none."""
    return first.device_mesh == second.device_mesh and first.placements == second.placements


def placed(tensor: Any) -> str:
    return f"placed {tensor.placements} on {tensor.device_mesh}" if is_dtensor(tensor) else "that is no DTensor"
