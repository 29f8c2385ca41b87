"""What SGLD and PSGLD have in common: options, noise keys, choice of implementation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import ops

Group = dict[str, Any]


@dataclass
class StepLists:
    """The tensors of one group, device and dtype, with the index of each one's noise."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    square_avgs: list[Tensor] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)


def check_not_negative(optimizer: str, name: str, value: float | Tensor) -> None:
    if not (math.isfinite(float(value)) and float(value) >= 0):
        raise ValueError(f"ald_ext.{optimizer}: {name}: got {value}, expected a finite number >= 0")


class LangevinOptimizer(Optimizer, ABC):
    """Base of the Langevin optimizers. A subclass updates the tensors of one :class:`StepLists` at a time."""

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        defaults = dict(defaults)
        if defaults["seed"] is None:
            # From torch's default generator, so that torch.manual_seed governs the noise.
            defaults["seed"] = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device="cpu").item())
        defaults["step"] = 0
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """As torch's; options are checked for every group."""
        self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check_options(self, group: Group) -> None:
        name = type(self).__name__
        if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
            raise ValueError(f"ald_ext.{name}: lr: got a tensor of {group['lr'].numel()} elements, expected one")
        for option in ("lr", "temperature", "weight_decay"):
            check_not_negative(name, option, group[option])
        num_data = float(group["num_data"])
        if not (math.isfinite(num_data) and num_data > 0):
            raise ValueError(f"ald_ext.{name}: num_data: got {group['num_data']}, expected a finite number > 0")
        seed = group["seed"]
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"ald_ext.{name}: seed: got {seed!r}, expected an integer, 0 <= seed < 2**63")
        if group["fused"] and group["foreach"]:
            raise ValueError(f"ald_ext.{name}: fused, foreach: got True for both, expected one of them at most")
        if group["capturable"]:
            raise ValueError(
                f"ald_ext.{name}: capturable: got True, expected False: this version cannot be captured in a CUDA graph"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for option, value in self.defaults.items():
                group.setdefault(option, value)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient. ``closure`` evaluates the loss again and returns it.

        Nothing has been changed when it raises.

        Raises:
            RuntimeError: a sparse or complex gradient, or a parameter whose dtype or layout the implementation lacks.
            ValueError: an option of a group that has become bad since.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            # Everything is looked at before anything is written.
            groups = self._groups_with_first_index()
            for group, first_index in groups:
                self._check_group(group, first_index)
            for group, first_index in groups:
                lists = self._gather(group, first_index)
                group["step"] += 1
                for tensors in lists:
                    self._update(group, tensors)
        return loss

    def _groups_with_first_index(self) -> list[tuple[Group, int]]:
        result, first = [], 0
        for group in self.param_groups:
            result.append((group, first))
            first += len(group["params"])
        return result

    def _gather(self, group: Group, first_index: int) -> list[StepLists]:
        lists: dict[tuple[torch.device, torch.dtype], StepLists] = {}
        for index, param in enumerate(group["params"], start=first_index):
            if param.grad is None:
                continue
            tensors = lists.setdefault((param.device, param.dtype), StepLists())
            tensors.params.append(param)
            tensors.grads.append(in_layout_of(param.grad, param))
            tensors.parameters.append(index)
            self._gather_state(param, tensors)
        return list(lists.values())

    def _check_group(self, group: Group, first_index: int) -> None:
        self._check_options(group)  # again: schedulers and users write to groups
        for index, param in enumerate(group["params"], start=first_index):
            if param.grad is not None:
                self._check_param(group, param, index)

    def _check_param(self, group: Group, param: Tensor, index: int) -> None:
        name = type(self).__name__
        assert param.grad is not None
        if param.grad.is_sparse:
            raise RuntimeError(f"ald_ext.{name}: parameter {index}: got a sparse gradient, expected a dense one")
        if param.dtype not in (torch.float32, torch.float64):
            raise RuntimeError(
                f"ald_ext.{name}: parameter {index}: got dtype {param.dtype}, expected torch.float32 or torch.float64"
            )
        if not is_dense(param):
            raise RuntimeError(
                f"ald_ext.{name}: parameter {index}: got strides {tuple(param.stride())} for shape "
                f"{tuple(param.shape)}, expected a tensor that fills its memory without gaps or overlaps"
            )
        if group["fused"] and not ops.has_kernel(param):
            raise RuntimeError(
                f"ald_ext.{name}: parameter {index}: fused: got True, but device {param.device} has no kernel; "
                f"expected fused=False or None. {ops.cuda_failure}".rstrip()
            )

    def _gather_state(self, param: Tensor, tensors: StepLists) -> None:
        """Adds the state of a parameter to the lists, creating it at its first step."""

    @abstractmethod
    def _update(self, group: Group, tensors: StepLists) -> None:
        """One step of the tensors, whose noise has step group["step"]."""

    def _implementation(self, group: Group, tensors: StepLists) -> str:
        """ "fused", "foreach" or "reference", by the group's flags and what the device has."""
        if group["foreach"]:
            return "foreach"
        fused = ops.has_kernel(tensors.params[0]) if group["fused"] is None else group["fused"]
        return "fused" if fused else "reference"


def is_dense(tensor: Tensor) -> bool:
    """True if the elements fill one range of memory: only then does a new tensor like it get its strides."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def in_layout_of(tensor: Tensor, param: Tensor) -> Tensor:
    """A gradient or state with the parameter's strides; a copy where they differ: one pass needs one order."""
    if tensor.stride() == param.stride():
        return tensor
    return torch.empty_like(param).copy_(tensor)


def step_options(group: Group, tensors: StepLists) -> dict[str, Any]:
    """The arguments that the SGLD and the pSGLD step share."""
    return {
        "lr": float(group["lr"]),
        "num_data": float(group["num_data"]),
        "temperature": float(group["temperature"]),
        "weight_decay": float(group["weight_decay"]),
        "maximize": group["maximize"],
        "seed": group["seed"],
        "step": group["step"],
        "parameters": tensors.parameters,
        "offsets": [0] * len(tensors.parameters),
    }
