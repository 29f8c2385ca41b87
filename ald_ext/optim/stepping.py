"""A step of every group: gather the tensors, look at them, call the op or what stands for it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from itertools import chain, repeat
from operator import is_, itemgetter
from types import NoneType
from typing import Any, ClassVar, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import ops, reference
from .checks import Group, check_memory, check_param, check_state, placed_alike
from .foreach import FOREACH_STEPS
from .layouts import in_layout_of
from .names import IDENTITIES
from .seeds import in_process_group
from .shards import is_dtensor, is_shard
from .step_lists import StepLists, of_this_process

#: Hooks of all optimizers; None in a torch that keeps them elsewhere.
GLOBAL_HOOKS = [
    getattr(sys.modules[Optimizer.__module__], f"_global_optimizer_{when}_hooks", None) for when in ("pre", "post")
]

#: As options of a group that was not looked at.
NOTHING: tuple[list[Any], dict[str, Any]] = ([], {})

#: Parameters with the name and the tensor of a state that was made or mended for them.
NewStates = list[tuple[Tensor, str, Tensor]]


class Planned(NamedTuple):
    """A step of a group that nothing refuses any more."""

    group: Group
    calls: list[tuple[str, StepLists]]  #: implementation and tensors
    settings: dict[str, Any]
    new_states: NewStates


class GroupStepper(Optimizer, ABC):
    """What a Langevin optimizer does in :meth:`step`.

    Note [A step]
        The tensors of a group are gathered and given to the compiled op, which looks at all of them before it writes to
        one. Only where it refuses them does Python look, which says what is wrong in the words of the optimizer, or
        mends it: gradients and states with strides of their own, states of a model that was moved or cast, parameters
        of several dtypes or devices, which become several calls. Where no op is called that could refuse, Python
        looks first. Before the first of several groups is written, the op looks at the tensors of all.
    """

    #: The name of the step in :mod:`ald_ext.ops` and :mod:`ald_ext.reference`.
    step_name: ClassVar[str]
    #: Names of the state tensors, in the order in which the op takes them.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: Whether parameters are shards of larger ones: Note [Local shards].
    _has_shards = False
    _is_compared = False
    #: Whether :func:`ald_ext.name_parameters` has named parameters.
    _has_recorded_names = False

    #: Of groups by their places: values that were looked at, and what the op takes of them. See :meth:`_look_at`.
    _accepted: dict[int, tuple[list[Any], dict[str, Any]]]

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a step as torch does, for hooks and profilers. Where there are none, it would take 11 µs for nothing."""
        watched = Optimizer.profile_hook_step(func)

        @wraps(func)
        def step(self: GroupStepper, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or torch.autograd._profiler_enabled():
                return watched(self, *args, **kwargs)
            if any(GLOBAL_HOOKS) or self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks:
                return watched(self, *args, **kwargs)
            return func(self, *args, **kwargs)

        return watched if None in GLOBAL_HOOKS else step

    @abstractmethod
    def _check_options(self, group: Group) -> None: ...

    @abstractmethod
    def _compare_replicas(self) -> None: ...

    @abstractmethod
    def _op_options(self, group: Group) -> dict[str, Any]: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; ``closure`` evaluates the loss again and returns it.

        When it raises, nothing has changed in any group: parameters, states and step counters. (But a closure's own
        work remains.)

        Raises:
            RuntimeError: a sparse or complex gradient, tensors that share memory, or a parameter whose dtype or layout
                the implementation lacks; a DTensor whose gradient is placed otherwise; seeds, counters or parameters
                that differ between replicas (Note [Seeds of replicas] of ``ald_ext/optim/seeds.py``).
            ValueError: an option of a group that has become bad since.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        is_first = not self._is_compared and in_process_group()
        if torch.compiler.is_compiling() and (self._has_shards or is_first):
            self._step_outside_of_graphs()
        else:
            self._step(is_first)
        return loss

    @torch.compiler.disable(reason="an optimizer's first step in a process group, and steps of DTensors, need Python")
    def _step_outside_of_graphs(self) -> None:
        self._step(not self._is_compared and in_process_group())

    def _step(self, is_first: bool) -> None:
        for place, group in enumerate(self.param_groups):
            if torch.compiler.is_compiling():
                place_step(group)  # numbers may be variables of the graph; the op looks at their values
                continue
            values = self._accepted.get(place, NOTHING)[0]
            if len(values) != len(group) or not all(map(is_, group.values(), values)):
                self._look_at(place, group)  # again: schedulers and users write to groups
        if is_first:
            self._compare_replicas()
            self._accepted.clear()  # seeds may be those of other ranks now
        gathered = self._gather()
        if not self._step_at_once(gathered):
            if not torch.compiler.is_compiling():
                self._look_for_shards()  # which a wrapper may have put in the place of parameters
            with torch.no_grad():
                plans = [self._plan(group, lists) for group, lists in gathered]
                for plan in plans:
                    self._make(plan)
        if self._has_shards:  # autograd knows them as the wrappers of what was written
            written = [param for _, lists in gathered for param in lists.params if is_dtensor(param)]
            torch.autograd.graph.increment_version(written)

    def _look_at(self, place: int, group: Group) -> None:
        """Check the options of a group. While all of them are the same numbers, that need not be repeated."""
        self._check_options(group)
        place_step(group)
        self._accepted.pop(place, None)
        options = (value for name, value in group.items() if name not in ("params", "param_names", "step"))
        if all(type(value) in (float, int, bool, NoneType) for value in options):  # others may be written to
            settings = self._op_options(group)
            self._accepted[place] = (list(group.values()), ops.in_order(self._op_name(settings), settings))

    def _look_for_shards(self) -> None:
        self._has_shards = any(is_shard(param) for group in self.param_groups for param in group["params"])

    def _gather(self) -> list[tuple[Group, StepLists]]:
        """What has a gradient, of each group; states that are not there yet are left out."""
        entries = self._entries() if self.state_names else []
        gathered, first = [], 0
        for group in self.param_groups:
            names = self._state_names(group) if "localization" in group else self.state_names
            entries = entries or (self._entries() if names else [])
            params, end = group["params"], first + len(group["params"])
            noise_ids, group_entries = self._noise_ids(group, first), entries[first:end]
            grads = [param.grad for param in params]
            if any(map(is_, grads, repeat(None))):
                places = [i for i, grad in enumerate(grads) if grad is not None]
                params, grads, noise_ids = ([items[i] for i in places] for items in (params, grads, noise_ids))
                group_entries = [group_entries[i] for i in places] if group_entries else []
            try:
                states = [list(map(itemgetter(name), group_entries)) for name in names]
            except (KeyError, TypeError):  # not every parameter has made a step
                states = [[e[name] for e in group_entries if e and name in e] for name in names]
            gathered.append((group, StepLists(params, grads, states, noise_ids)))
            first = end
        return gathered

    def _state_names(self, group: Group) -> tuple[str, ...]:
        """Of the states of a group's step, of which anchors are the last."""
        return (*self.state_names, "anchor") if group.get("localization") else self.state_names

    def _entries(self) -> list[Any]:
        """The states of each parameter of all groups; None for one that has not made a step."""
        params = list(chain.from_iterable(group["params"] for group in self.param_groups))
        if len(self.state) == len(params) and all(map(is_, self.state, params)):
            return list(self.state.values())  # looking up a tensor takes longer than a look at its place
        return list(map(self.state.get, params))

    def _noise_ids(self, group: Group, first: int) -> list[int]:
        """Note [Identity of a parameter]; ``first`` parameters are in the groups before."""
        first_parameter = group.get("first_parameter", 0)
        if first_parameter is None:
            names = group["param_names"]
            if self._has_recorded_names:  # ZeroRedundancyOptimizer gives every rank the group of the first, with names
                names = [getattr(param, "_ald_ext_name", None) or names[i] for i, param in enumerate(group["params"])]
            return [IDENTITIES[name] for name in names]
        first += first_parameter
        return list(range(first, first + len(group["params"])))

    def _step_at_once(self, gathered: list[tuple[Group, StepLists]]) -> bool:
        """Note [A step]. False if nothing was done: the op refused the tensors, or is not what is to be called."""
        ready = []
        for place, (group, whole) in enumerate(gathered):
            lists = self._for_op(group, whole)
            if lists is None:
                return False
            ready.append((group, lists, self._settings(group, self._accepted.get(place, NOTHING)[1])))
        if len(ready) > 1 and not self._are_accepted(ready):
            return False
        for group, lists, settings in ready:
            try:
                self._run("fused", lists, settings)
            except RuntimeError:
                if len(ready) == 1:
                    return False
                raise
            group["step"].fill_(settings["step"])
        return True

    def _for_op(self, group: Group, lists: StepLists) -> StepLists | None:
        """The lists of one call of the op that is all there is to do; None where it would not be."""
        if group["capturable"] or group["foreach"] or group["fused"] is False or torch.compiler.is_compiling():
            return None
        if lists.params and not ops.has_kernel(lists.params[0]):
            return None
        if self._has_shards:
            with torch.no_grad():
                return self._of_this_process(lists)
        return lists

    def _are_accepted(self, ready: list[tuple[Group, StepLists, dict[str, Any]]]) -> bool:
        """Whether the op takes the tensors of all groups, so that none refuses after others have been written."""
        if any(settings["step"] > reference.MAX_STEP for _, _, settings in ready):
            return False
        alike: dict[tuple[torch.dtype, torch.device, bool], tuple[dict[str, Any], list[StepLists]]] = {}
        for _, lists, settings in ready:
            if lists.params:
                kind = (lists.params[0].dtype, lists.params[0].device, "localization" in settings)
                alike.setdefault(kind, (settings, []))[1].append(lists)
        for settings, several in alike.values():
            columns = zip(*((lists.params, lists.grads, *lists.states) for lists in several), strict=True)
            tensors = [list(chain.from_iterable(column)) for column in columns]
            if not ops.accepts_step(self._op_name(settings), tensors, settings):
                return False
        return True

    def _of_this_process(self, lists: StepLists) -> StepLists | None:
        """None where the placements are not all alike, or a state is not there yet."""
        if any(len(states) != len(lists.params) for states in lists.states):
            return None
        for param, *others in zip(lists.params, lists.grads, *lists.states, strict=True):
            if is_dtensor(param) and not all(placed_alike(param, other) for other in others):
                return None
        return of_this_process(lists)

    def _settings(self, group: Group, op_options: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a step outside of graphs takes beside tensors. See Note [Steps that count]."""
        lr = float(group["lr"])
        return {**(op_options or self._op_options(group)), "lr": lr, "step": group["step"].item() + (lr != 0)}

    def _plan(self, group: Group, lists: StepLists) -> Planned:
        """A look at everything that could be refused; nothing is written yet."""
        optimizer = type(self).__name__
        names = {IDENTITIES[name]: name for name in group.get("param_names", ())}
        for param, grad, index in zip(lists.params, lists.grads, lists.noise_ids, strict=True):
            where = f"ald_ext.{optimizer}: parameter {names.get(index, index)}"
            check_param(where, group, param, grad)
            check_state(where, param, self.state.get(param, {}), self._state_names(group))
        check_memory(optimizer, lists)
        lr, step = group["lr"], group["step"]
        if step.is_cpu and not torch.compiler.is_compiling() and not 0 <= step < reference.MAX_STEP:
            raise RuntimeError(f"ald_ext.{optimizer}: step: got {int(step) + 1}, expected 0 to {reference.MAX_STEP}")
        if torch.compiler.is_compiling() or group["capturable"]:
            settings = {**self._op_options(group), "lr": lr, "step": step}
        else:
            settings = self._settings(group)
        new_states: NewStates = []
        parts = self._mended_parts(lists, self._state_names(group), new_states)
        return Planned(
            group, [(self._implementation(group, part.params[0]), part) for part in parts], settings, new_states
        )

    def _make(self, plan: Planned) -> None:
        group, calls, settings, new_states = plan
        for param, name, tensor in new_states:
            self.state[param][name] = tensor
        if settings["step"] is group["step"] and not is_known_zero(group["lr"]):  # in a graph
            group["step"] += 1
        for implementation, lists in calls:
            self._run(implementation, lists, settings)
        if settings["step"] is not group["step"]:
            group["step"].fill_(settings["step"])

    def _mended_parts(self, lists: StepLists, names: tuple[str, ...], new_states: NewStates) -> list[StepLists]:
        """The tensors by device and dtype, with states for all, everything in the parameters' strides."""
        parts: dict[tuple[torch.device, torch.dtype], StepLists] = {}
        for param, grad, index in zip(lists.params, lists.grads, lists.noise_ids, strict=True):
            new = StepLists([], [], [[] for _ in names], [])
            part = parts.setdefault((param.device, param.dtype), new)
            part.params.append(param)
            part.grads.append(in_layout_of(grad, param))
            part.noise_ids.append(index)
            for tensors, name in zip(part.states, names, strict=True):
                tensors.append(self._state_of(param, name, new_states))
        if not self._has_shards:
            return list(parts.values())
        local_parts = [of_this_process(part) for part in parts.values()]
        if None in local_parts:
            raise RuntimeError(
                f"ald_ext.{type(self).__name__}: params: got shards with other strides than their gradients or states, "
                "expected equal ones"
            )
        return [part for part in local_parts if part and part.params]

    def _state_of(self, param: Tensor, name: str, new_states: NewStates) -> Tensor:
        """A state of zeros at the parameter's first step, or its anchor; later of the dtype and device it should be."""
        dtype = reference.compute_dtype(param.dtype)
        state = self.state.get(param, {}).get(name)
        if state is None and name == "anchor":
            mended = param.detach().to(dtype, copy=True)
        elif state is None:
            mended = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        elif state.dtype != dtype or state.device != param.device:  # the model was moved or cast
            mended = state.to(param.device, dtype)
        else:
            mended = state
        mended = in_layout_of(mended, param)
        if mended is not state:
            new_states.append((param, name, mended))
        return mended

    def _run(self, implementation: str, lists: StepLists, settings: dict[str, Any]) -> None:
        tensors, noise_ids = (lists.params, lists.grads, *lists.states), lists.noise_ids
        if not noise_ids:
            return  # this process has nothing of the parameters
        if implementation == "fused":
            if lists.offsets or noise_ids[-1] != len(noise_ids) - 1:  # 0, 1, 2, ... are what the op knows
                settings = {**settings, "noise_ids": noise_ids, **lists.places()}
            ops.run_step(self._op_name(settings), tensors, settings)
            return
        name, places = self._op_name(settings), lists.places()
        plain = getattr(reference, name)
        step = FOREACH_STEPS.get(name, plain) if implementation == "foreach" else plain
        places["offsets"] = places["offsets"] or [0] * len(noise_ids)
        if not torch.compiler.is_compiling() and ops.has_kernel(lists.params[0]):
            settings = {**settings, "normal": ops.fused_normal}
        step(*tensors, noise_ids=noise_ids, **places, **settings)

    def _op_name(self, settings: dict[str, Any]) -> str:
        return self.step_name.replace("_step_", "_anchored_step_") if "localization" in settings else self.step_name

    def _implementation(self, group: Group, param: Tensor) -> str:
        """ "fused", "foreach" or "reference", by the group's flags and what the parameter's device has."""
        if group["foreach"]:
            return "foreach"
        fused = ops.has_kernel(param) if group["fused"] is None else group["fused"]
        return "fused" if fused else "reference"


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


def place_step(group: Group) -> None:
    """Make the step counter an int64 tensor: on the CPU, or where the parameters are if a device is to advance it."""
    step = group["step"]
    is_counter = isinstance(step, Tensor) and step.dtype == torch.int64
    if is_counter and step.is_cpu and not group["capturable"] and not step.is_inference():
        return
    device = group["params"][0].device if group["capturable"] and group["params"] else torch.device("cpu")
    if not is_counter:
        group["step"] = torch.tensor(int(step), dtype=torch.int64, device=device)
    elif step.device != device:
        group["step"] = step.to(device)
    elif not torch.compiler.is_compiling() and step.is_inference() and not torch.is_inference_mode_enabled():
        group["step"] = step.clone()  # outside of inference mode it could not be advanced
