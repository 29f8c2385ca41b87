"""What SGLD, PSGLD and SGHMC have in common: options, noise keys, choice of implementation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import ops, reference

Group = dict[str, Any]

#: Functions of one signature, by the name of the implementation.
Steps = Mapping[str, Callable[..., None]]


@dataclass
class StepLists:
    """The tensors of one group, device and dtype, with the index of each one's noise."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: dict[str, list[Tensor]] = field(default_factory=dict)
    noise_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SeenTensors:
    """What a step found out about the tensors of a group: a later one of the same answers need not ask more."""

    layouts: list[tuple[Any, ...]]  # of the parameters, then of the states
    addresses: list[int]  # likewise
    sizes: list[int]  # of the parameters, in bytes
    written: list[tuple[int, int]]  # the memory of both, in order; no two overlap

    @classmethod
    def of(cls, params: Sequence[Tensor], states: Iterable[Sequence[Tensor]]) -> SeenTensors:
        tensors = [*params, *chain.from_iterable(states)]
        addresses = addresses_of(tensors)
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        return cls(
            layouts=layouts_of(tensors),
            addresses=addresses,
            sizes=sizes[: len(params)],
            written=sorted((begin, begin + size) for begin, size in zip(addresses, sizes, strict=True) if size > 0),
        )

    def are_still(self, params: Sequence[Tensor], states: Iterable[Sequence[Tensor]], grads: Sequence[Tensor]) -> bool:
        """True of the same memory and layouts, and gradients of the parameters' layouts in memory of their own."""
        tensors = [*params, *chain.from_iterable(states)]
        return (
            layouts_of(tensors) == self.layouts
            and addresses_of(tensors) == self.addresses
            and layouts_of(grads) == self.layouts[: len(params)]
            and not any(map(self._is_written, addresses_of(grads), self.sizes))
        )

    def _is_written(self, begin: int, size: int) -> bool:
        """True if a step writes to any of the ``size`` bytes from ``begin`` on."""
        number = bisect_left(self.written, (begin + size,)) - 1  # the last range that begins before their end
        return size > 0 and number >= 0 and self.written[number][1] > begin


@dataclass(frozen=True)
class GroupPlan:
    """One group's part of a StepPlan: a call of the op, and the counter. Without gradients it is the counter alone."""

    group: Group
    options: list[Any]
    settings: dict[str, Any]
    group_params: list[Tensor]
    idle: list[Tensor]
    params: list[Tensor]
    state_entries: list[dict[str, Any]]
    states: list[list[Tensor]]
    counted: list[Tensor]
    noise_ids: list[int]
    offsets: list[int]
    seen: SeenTensors | None  # None: the op looks, before anything of the step is written


@dataclass(frozen=True)
class StepPlan:
    """A step whose every check passed, to be repeated without them for as long as nothing has changed.

    Note [Repeated steps]
        With many small tensors the checks in Python cost more than the step. The compiled op looks at every tensor
        again, so what is compared for the first group is only that the op is called with the right lists: the same
        group, options, parameters and states, and no gradient missing. If it refuses them, nothing was written, and
        the checks will tell more, or mend what is amiss.

        When the op of a later group looks, those before it have been written, and there is no way back. So, before
        anything is written, all that the checks of a later group ask (_check_group, _gather) is asked of it again:

            options              are equal, and are no tensors; lr is a finite float >= 0
            counter              is an int64 tensor on the CPU, and in its range
            parameters, states   are the same tensors, and no more, of the same dtypes, devices, shapes, strides and
                                 addresses as after a step that the checks and the op let pass
            gradients            are there for the same parameters, of their dtypes, devices, shapes and strides (so
                                 that none is copied); no memory of theirs is written by the group's step

        Hence the checks would have let the step pass, and have made the same calls of the op in the same order; memory
        that two groups share is seen by both ways at the same point of the step. The op's own checks ask no more. What
        can still fail in a later group is the device; that error is the one after the checks, and there too leaves
        the groups before it stepped. It is not caught, as a second try would step those again.
    """

    groups: list[Group]
    parts: list[GroupPlan]
    params: list[Tensor]
    state_entries: list[dict[str, Any]]


def check_not_negative(optimizer: str, name: str, value: float | Tensor) -> None:
    if torch.compiler.is_compiling():
        return  # a number may be a variable of the graph; the op looks at its value
    if not (math.isfinite(float(value)) and float(value) >= 0):
        raise ValueError(f"ald_ext.{optimizer}: {name}: got {value}, expected a finite number >= 0")


class LangevinOptimizer(Optimizer, ABC):
    """Base of the Langevin optimizers. A subclass names its op, its state and its options."""

    #: The step by implementation: "fused", "foreach", "reference".
    steps: ClassVar[Steps]
    #: Names of the state tensors, in the order in which the op takes them.
    state_names: ClassVar[tuple[str, ...]]

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        defaults = dict(defaults)
        if defaults["seed"] is None:
            defaults["seed"] = ops.draw_seed()
        defaults["step"] = 0
        self._plan: StepPlan | None = None
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """As torch's; options are checked for every group."""
        self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        place_step(self.param_groups[-1])

    def _check_options(self, group: Group) -> None:
        name = type(self).__name__
        check_lr(name, group["lr"])
        for option in ("temperature", "weight_decay"):
            check_not_negative(name, option, group[option])
        num_data = float(group["num_data"])
        if not torch.compiler.is_compiling() and not (math.isfinite(num_data) and num_data > 0):
            raise ValueError(f"ald_ext.{name}: num_data: got {group['num_data']}, expected a finite number > 0")
        seed = group["seed"]
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"ald_ext.{name}: seed: got {seed!r}, expected an integer, 0 <= seed < 2**63")
        if group["fused"] and group["foreach"]:
            raise ValueError(f"ald_ext.{name}: fused, foreach: got True for both, expected one of them at most")
        # While it is traced, torch.compile shows every group as capturable.
        plain = group["foreach"] or group["fused"] is False
        if group["capturable"] and plain and not torch.compiler.is_compiling():
            raise ValueError(
                f"ald_ext.{name}: capturable: got True with fused={group['fused']}, foreach={group['foreach']}; "
                "only the compiled op can be captured, expected fused=True or None and foreach=None or False"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None
        for group in self.param_groups:
            for option, value in self.defaults.items():
                if option != "differentiable":  # which torch adds to the defaults here
                    group.setdefault(option, value)
            place_step(group)
        loaded = self.__dict__.pop("_loaded", None)
        if loaded is not None:
            self._restore_wide_states(loaded)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which however casts states to their parameter's dtype: of 16-bit parameters they stay wide."""
        # The last of the pre-hooks sees what torch is going to load; __setstate__ comes before the post-hooks.
        handle = self.register_load_state_dict_pre_hook(remember_loaded)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self.__dict__.pop("_loaded", None)

    def _restore_wide_states(self, state_dict: dict[str, Any]) -> None:
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id, {})
            for name in self.state_names:
                if name in saved and param.dtype != compute_dtype(param.dtype):
                    self.state[param][name] = saved[name].to(param.device, compute_dtype(param.dtype), copy=True)

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
        if not self._repeat_step():
            with torch.no_grad():
                self._step_with_checks()
        return loss

    def _repeat_step(self) -> bool:
        """Note [Repeated steps]. False if nothing was done."""
        plan = self._plan
        if torch.compiler.is_compiling() or plan is None or not self._holds(plan):
            return False
        op = self._op()
        for part in plan.parts:
            group = part.group
            lr, counter = group["lr"], group["step"]
            step = counter.item() + (lr != 0)  # Note [Steps that count]
            if part.params:
                try:
                    ops.write(
                        op,
                        part.counted,
                        part.params,
                        [param.grad for param in part.params],
                        *part.states,
                        **part.settings,
                        lr=lr,
                        step=step,
                        noise_ids=part.noise_ids,
                        offsets=part.offsets,
                    )
                except RuntimeError:
                    if part is not plan.parts[0]:
                        raise
                    return False
            counter.fill_(step)
        return True

    def _holds(self, plan: StepPlan) -> bool:
        return (
            same_objects(self.param_groups, plan.groups)
            and all(map(self._group_holds, plan.parts))
            and self._has_states(plan)
            and all(
                same_objects([entry.get(name) for entry in part.state_entries], tensors)
                for part in plan.parts
                for name, tensors in zip(self.state_names, part.states, strict=True)
            )
            and all(part.seen is None or self._tensors_hold(part, part.seen) for part in plan.parts)
        )

    def _group_holds(self, part: GroupPlan) -> bool:
        group = part.group
        return (
            isinstance(group["step"], Tensor)
            and (not group["step"].is_inference() or torch.is_inference_mode_enabled())  # else it cannot be advanced
            and type(group["lr"]) is float
            and self._options(group) == part.options
            and same_objects(group["params"], part.group_params)
            and all(param.grad is None for param in part.idle)
        )

    def _has_states(self, plan: StepPlan) -> bool:
        # The second way is the general one; the first takes a tenth of its time, as tensors are slow to hash.
        return same_objects(self.state.values(), plan.state_entries) or (
            bool(self.state_names)
            and same_objects([self.state.get(param) for param in plan.params], plan.state_entries)
        )

    def _tensors_hold(self, part: GroupPlan, seen: SeenTensors) -> bool:
        """What the op would ask of lr, the counter and the tensors, or the checks mend."""
        counter = part.group["step"]
        grads = [param.grad for param in part.params if param.grad is not None]
        try:
            return (
                0 <= part.group["lr"] < math.inf
                and counter.dtype == torch.int64
                and counter.device.type == "cpu"
                and 0 <= counter.item() < reference.MAX_STEP
                and all(len(entry) == len(self.state_names) for entry in part.state_entries)
                and seen.are_still(part.params, part.states, grads)
            )
        except RuntimeError:  # a tensor without strides or address, a counter of several elements
            return False

    def _options(self, group: Group) -> list[Any]:
        """All that a step depends on beside lr, step and tensors."""
        return [value for name, value in group.items() if name not in ("params", "lr", "step")]

    def _step_with_checks(self) -> None:
        # Everything is looked at before anything is written.
        groups = self._groups_with_first_index()
        for group, first_index in groups:
            self._check_group(group, first_index)
        compiling = torch.compiler.is_compiling()
        if not compiling:  # torch 2.11's compiler cannot set attributes of an optimizer; plans are checked before use
            self._plan = None
        parts: list[GroupPlan | None] = []
        for group, first_index in groups:
            lists = self._gather(group, first_index)
            if not is_known_zero(group["lr"]):  # Note [Steps that count]
                group["step"] += 1
            for tensors in lists:
                self._update(group, tensors)
            if not compiling:
                parts.append(self._plan_group(group, lists, is_first=not parts))
        if not compiling:
            self._plan = make_plan(parts)

    def _plan_group(self, group: Group, lists: list[StepLists], is_first: bool) -> GroupPlan | None:
        options = self._options(group)
        repeatable = (
            len(lists) <= 1
            and not group["capturable"]
            and not any(isinstance(option, Tensor) for option in options)  # it could change in place
            and all(self._implementation(group, tensors) == "fused" for tensors in lists)
        )
        tensors = lists[0] if lists else StepLists()
        if not repeatable or not same_objects(tensors.grads, [param.grad for param in tensors.params]):
            return None
        entries = [self.state[param] for param in tensors.params] if self.state_names else []
        states = [[entry[name] for entry in entries] for name in self.state_names]
        return GroupPlan(
            group=group,
            options=options,
            settings=self._settings(group),
            group_params=list(group["params"]),
            idle=[param for param in group["params"] if param.grad is None],
            params=tensors.params,
            state_entries=entries,
            states=states,
            counted=ops.with_version_counter([*tensors.params, *chain.from_iterable(states)]),
            noise_ids=tensors.noise_ids,
            offsets=[0] * len(tensors.params),
            seen=None if is_first and lists else SeenTensors.of(tensors.params, states),
        )

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
            tensors.noise_ids.append(index)
            for name in self.state_names:
                tensors.states.setdefault(name, []).append(self._state_of(param, name))
        return list(lists.values())

    def _state_of(self, param: Tensor, name: str) -> Tensor:
        """Created, of zeros, at a parameter's first step."""
        state, dtype = self.state[param], compute_dtype(param.dtype)
        if name not in state:
            state[name] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        elif state[name].dtype != dtype or state[name].device != param.device:  # the model was moved or cast
            state[name] = state[name].to(param.device, dtype)
        state[name] = in_layout_of(state[name], param)
        return state[name]

    def _check_group(self, group: Group, first_index: int) -> None:
        self._check_options(group)  # again: schedulers and users write to groups
        place_step(group)
        self._check_step(group["step"])
        for index, param in enumerate(group["params"], start=first_index):
            if param.grad is not None:
                self._check_param(group, param, index)
        self._check_memory(group)

    def _check_step(self, step: Tensor) -> None:
        if not torch.compiler.is_compiling() and step.device.type == "cpu" and not 0 <= step < reference.MAX_STEP:
            raise RuntimeError(
                f"ald_ext.{type(self).__name__}: step: got {int(step) + 1}, expected 0 to {reference.MAX_STEP}"
            )

    def _check_memory(self, group: Group) -> None:
        """What a step writes must overlap neither itself nor what it reads. The op looks too, one list at a time."""
        if torch.compiler.is_compiling():
            return
        params = [param for param in group["params"] if param.grad is not None]
        states = [
            state for param in params for state in self.state.get(param, {}).values() if isinstance(state, Tensor)
        ]
        ranges = [(*memory_range(tensor), True) for tensor in (*params, *states)]
        # A gradient of other strides is copied before the step.
        grads = [param.grad for param in params if param.grad.stride() == param.stride()]
        ranges += [(*memory_range(grad), False) for grad in grads]
        written_end = read_end = 0
        for begin, end, is_written in sorted(ranges):
            if begin < end and (begin < written_end or (is_written and begin < read_end)):
                raise RuntimeError(
                    f"ald_ext.{type(self).__name__}: params: got parameters, gradients or states that share memory, "
                    "expected distinct tensors"
                )
            if is_written:
                written_end = max(written_end, end)
            else:
                read_end = max(read_end, end)

    def _check_param(self, group: Group, param: Tensor, index: int) -> None:
        where = f"ald_ext.{type(self).__name__}: parameter {index}"
        grad = param.grad
        assert grad is not None
        if grad.is_sparse:
            raise RuntimeError(f"{where}: got a sparse gradient, expected a dense one")
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
        if not is_dense(param):
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
        state = self.state.get(param, {})
        for name in self.state_names:
            if name in state and state[name].shape != param.shape:
                raise RuntimeError(
                    f"{where}: state {name}: got shape {tuple(state[name].shape)}, "
                    f"expected {tuple(param.shape)} as of the parameter"
                )

    @abstractmethod
    def _op(self) -> Callable[..., None]:
        """The compiled op that takes lr and step as numbers."""

    def _settings(self, group: Group) -> dict[str, Any]:
        """What the op takes beside tensors, lr and step."""
        return {
            "num_data": float(group["num_data"]),
            "temperature": float(group["temperature"]),
            "weight_decay": float(group["weight_decay"]),
            "maximize": group["maximize"],
            "seed": group["seed"],
        }

    def _update(self, group: Group, tensors: StepLists) -> None:
        """One step of the tensors, whose noise has step group["step"]."""
        in_place = group["capturable"] or torch.compiler.is_compiling()
        lr, step = group["lr"], group["step"]
        self.steps[self._implementation(group, tensors)](
            tensors.params,
            tensors.grads,
            *(tensors.states[name] for name in self.state_names),
            lr=lr if in_place or isinstance(lr, float) else float(lr),
            step=step if in_place else int(step),
            noise_ids=tensors.noise_ids,
            offsets=[0] * len(tensors.params),
            **self._settings(group),
        )

    def _implementation(self, group: Group, tensors: StepLists) -> str:
        """ "fused", "foreach" or "reference", by the group's flags and what the device has."""
        if group["foreach"]:
            return "foreach"
        fused = ops.has_kernel(tensors.params[0]) if group["fused"] is None else group["fused"]
        return "fused" if fused else "reference"


def make_plan(parts: list[GroupPlan | None]) -> StepPlan | None:
    """None if any group is not to be repeated."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return StepPlan(
        groups=[part.group for part in known],
        parts=known,
        params=[param for part in known for param in part.params],
        state_entries=[entry for part in known for entry in part.state_entries],
    )


def remember_loaded(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    optimizer.__dict__["_loaded"] = state_dict


def is_known_zero(lr: float | Tensor) -> bool:
    """True for a lr of 0 whose value is at hand without waiting for a device.

    Note [Steps that count]
        With lr = 0 a step moves no parameter, and is not counted: torch.distributed.checkpoint takes such a step to
        create states, and must not shift the noise of the run it saves. A lr that only the device or a compiled graph
        knows counts whatever it is.
    """
    if isinstance(lr, Tensor) and (torch.compiler.is_compiling() or lr.device.type != "cpu"):
        return False
    return float(lr) == 0


def memory_range(tensor: Tensor) -> tuple[int, int]:
    """Addresses of a tensor that fills its memory; empty where it has none."""
    begin = tensor.data_ptr() if tensor.device.type != "meta" else 0
    return begin, begin + tensor.numel() * tensor.element_size() if begin else 0


def layouts_of(tensors: Iterable[Tensor]) -> list[tuple[Any, ...]]:
    return [(tensor.dtype, tensor.device, tensor.shape, tensor.stride()) for tensor in tensors]


def addresses_of(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def same_objects(first: Iterable[Any], second: Sequence[Any]) -> bool:
    """True if both hold the very same objects, in order."""
    items = list(first)
    return len(items) == len(second) and all(map(is_, items, second))


def check_lr(optimizer: str, lr: float | Tensor) -> None:
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"ald_ext.{optimizer}: lr: got a tensor of {lr.numel()} elements, expected one")
        if torch.compiler.is_compiling() or lr.device.type != "cpu":
            return  # its value is not at hand without waiting for the device
    check_not_negative(optimizer, "lr", lr)


def place_step(group: Group) -> None:
    """The step counter as an int64 tensor: on the CPU, or where the parameters are if a device is to advance it."""
    step = group["step"]
    device = group["params"][0].device if group["capturable"] and group["params"] else torch.device("cpu")
    if not isinstance(step, Tensor):
        group["step"] = torch.tensor(step, dtype=torch.int64, device=device)
    elif step.device != device:
        group["step"] = step.to(device)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the state: float32 for 16-bit parameters, else the parameter's own."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def is_dense(tensor: Tensor) -> bool:
    """True if the elements fill one range of memory: only then does a new tensor like it get its strides."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def in_layout_of(tensor: Tensor, param: Tensor) -> Tensor:
    """A gradient or state with the parameter's strides; a copy where they differ: one pass needs one order."""
    if tensor.stride() == param.stride():
        return tensor
    return torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)
