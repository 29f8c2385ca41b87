"""What the Langevin optimizers have in common: options, noise keys, states, and a step of every group."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, repeat
from operator import is_
from typing import Any, ClassVar, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import ops, reference
from .foreach import FOREACH_STEPS
from .layouts import in_layout_of, is_dense, share_memory

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


NOT_NEGATIVE = Requirement(lambda value: 0 <= value < math.inf, "a finite number >= 0")
POSITIVE = Requirement(lambda value: 0 < value < math.inf, "a finite number > 0")
SEED = Requirement(lambda value: isinstance(value, int) and 0 <= value < 2**63, "an integer, 0 <= seed < 2**63")


def fraction(name: str) -> Requirement:
    return Requirement(lambda value: 0 <= value < 1, f"0 <= {name} < 1")


class StepLists(NamedTuple):
    """Parameters that have a gradient, with the index of each one's noise; a list of states for each of the names."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    noise_ids: list[int]


class LangevinOptimizer(Optimizer, ABC):
    """Base of the Langevin optimizers. A subclass names its op, its states and its options.

    Note [A step]
        The tensors of a group are gathered and given to the compiled op, which looks at all of them before it writes to
        one. Only where it refuses them does Python look, which says what is wrong in the words of the optimizer, or
        mends it: gradients and states with strides of their own, states of a model that was moved or cast, parameters
        of several dtypes or devices, which become several calls. Where no op is called that could refuse, Python
        looks first.
    """

    #: The name of the step in :mod:`ald_ext.ops` and :mod:`ald_ext.reference`.
    step_name: ClassVar[str]
    #: Names of the state tensors, in the order in which the op takes them.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: The options that the op takes beside those that every step has, with what each has to be.
    own_options: ClassVar[Mapping[str, Requirement]] = {}

    _common_options: ClassVar[Mapping[str, Requirement]] = {
        "num_data": POSITIVE,
        "temperature": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "seed": SEED,
    }

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        defaults = dict(defaults)
        if defaults["seed"] is None:
            defaults["seed"] = ops.draw_seed()
        defaults["step"] = 0
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group as torch's optimizers do, after a look at its options.

        Raises:
            ValueError: an option out of its range.
        """
        self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        place_step(self.param_groups[-1])

    def _check_options(self, group: Group) -> None:
        if torch.compiler.is_compiling():
            return  # a number may be a variable of the graph; the op looks at its value
        name = type(self).__name__
        check_lr(name, group["lr"])
        for options in (self._common_options, self.own_options):
            for option, requirement in options.items():
                if not requirement.accepts(group[option]):
                    got = repr(group[option])
                    raise ValueError(f"ald_ext.{name}: {option}: got {got}, expected {requirement.expected}")
        if group["fused"] and group["foreach"]:
            raise ValueError(f"ald_ext.{name}: fused, foreach: got True for both, expected one of them at most")
        if group["capturable"] and (group["foreach"] or group["fused"] is False):
            raise ValueError(
                f"ald_ext.{name}: capturable: got True with fused={group['fused']}, foreach={group['foreach']}; "
                "only the compiled op can be captured, expected fused=True or None and foreach=None or False"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for option, value in self.defaults.items():
                if option != "differentiable":  # which torch adds to the defaults here
                    group.setdefault(option, value)
            place_step(group)
        loaded = self.__dict__.pop("_loaded", None)
        if loaded is not None:
            self._restore_wide_states(loaded)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch's optimizers do, except that states of 16-bit parameters stay in float32."""
        # The last of the pre-hooks sees what torch is going to load; __setstate__ comes before the post-hooks.
        handle = self.register_load_state_dict_pre_hook(remember_loaded)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self.__dict__.pop("_loaded", None)

    def _restore_wide_states(self, state_dict: dict[str, Any]) -> None:
        """torch has cast each state to its parameter's dtype."""
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id, {})
            for name in self.state_names:
                if name in saved and param.dtype != reference.compute_dtype(param.dtype):
                    self.state[param][name] = saved[name].to(
                        param.device, reference.compute_dtype(param.dtype), copy=True
                    )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; ``closure`` evaluates the loss again and returns it.

        The options of all groups are looked at before anything is written. When tensors of a group are refused, nothing
        of this group has changed (parameters, states, counter); the groups before it have made their step.

        Raises:
            RuntimeError: a sparse or complex gradient, tensors that share memory, or a parameter whose dtype or layout
                the implementation lacks.
            ValueError: an option of a group that has become bad since.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check_options(group)  # again: schedulers and users write to groups
            place_step(group)
        entries = self._entries() if self.state_names else []
        first_index = 0
        for group in self.param_groups:
            lists = self._gather(group, first_index, entries)
            if not self._step_at_once(group, lists):
                with torch.no_grad():
                    self._step_with_checks(group, lists)
            first_index += len(group["params"])
        return loss

    def _entries(self) -> list[Any]:
        """The states of each parameter of all groups; None for one that has not made a step."""
        params = list(chain.from_iterable(group["params"] for group in self.param_groups))
        if len(self.state) == len(params) and all(map(is_, self.state, params)):
            return list(self.state.values())  # looking up a tensor takes longer than a look at its place
        return list(map(self.state.get, params))

    def _gather(self, group: Group, first_index: int, entries: list[Any]) -> StepLists:
        """What has a gradient; states that are not there yet are left out."""
        params = group["params"]
        noise_ids = list(range(first_index, first_index + len(params)))
        entries = entries[first_index : first_index + len(params)]
        grads = [param.grad for param in params]
        if any(map(is_, grads, repeat(None))):
            places = [i for i, grad in enumerate(grads) if grad is not None]
            params, grads, noise_ids = ([items[i] for i in places] for items in (params, grads, noise_ids))
            entries = [entries[i] for i in places] if entries else []
        states = [[entry[name] for entry in entries if entry and name in entry] for name in self.state_names]
        return StepLists(params, grads, states, noise_ids)

    def _step_at_once(self, group: Group, lists: StepLists) -> bool:
        """Note [A step]. False if nothing was done: the op refused the tensors, or is not what is to be called."""
        in_graph = torch.compiler.is_compiling() or group["capturable"]
        is_fused = not group["foreach"] and group["fused"] is not False
        if in_graph or not is_fused or not lists.params or not ops.has_kernel(lists.params[0]):
            return False
        lr = float(group["lr"])
        step = group["step"].item() + (lr != 0)  # Note [Steps that count]
        try:
            self._run("fused", lists, {**self._op_options(group), "lr": lr, "step": step})
        except RuntimeError:
            return False
        group["step"].fill_(step)
        return True

    def _step_with_checks(self, group: Group, lists: StepLists) -> None:
        for param, grad, index in zip(lists.params, lists.grads, lists.noise_ids, strict=True):
            self._check_param(group, param, grad, index)
        self._check_memory(lists)
        lr, step = group["lr"], group["step"]
        in_graph = torch.compiler.is_compiling() or group["capturable"]
        if step.is_cpu and not torch.compiler.is_compiling() and not 0 <= step < reference.MAX_STEP:
            raise RuntimeError(
                f"ald_ext.{type(self).__name__}: step: got {int(step) + 1}, expected 0 to {reference.MAX_STEP}"
            )
        counts = not is_known_zero(lr)
        if not in_graph:
            lr, step = float(lr), step.item() + counts
        elif counts:
            step += 1
        settings = {**self._op_options(group), "lr": lr, "step": step}
        for part in self._mended_parts(lists):
            self._run(self._implementation(group, part.params[0]), part, settings)
        if not in_graph:
            group["step"].fill_(step)

    def _mended_parts(self, lists: StepLists) -> list[StepLists]:
        """The tensors by device and dtype, with states for all, everything in the parameters' strides."""
        parts: dict[tuple[torch.device, torch.dtype], StepLists] = {}
        for param, grad, index in zip(lists.params, lists.grads, lists.noise_ids, strict=True):
            new = StepLists([], [], [[] for _ in self.state_names], [])
            part = parts.setdefault((param.device, param.dtype), new)
            part.params.append(param)
            part.grads.append(in_layout_of(grad, param))
            part.noise_ids.append(index)
            for tensors, name in zip(part.states, self.state_names, strict=True):
                tensors.append(self._state_of(param, name))
        return list(parts.values())

    def _state_of(self, param: Tensor, name: str) -> Tensor:
        """A state of zeros at the parameter's first step; later in the dtype and on the device that belong to it."""
        state, dtype = self.state[param], reference.compute_dtype(param.dtype)
        if name not in state:
            state[name] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        elif state[name].dtype != dtype or state[name].device != param.device:  # the model was moved or cast
            state[name] = state[name].to(param.device, dtype)
        state[name] = in_layout_of(state[name], param)
        return state[name]

    def _run(self, implementation: str, lists: StepLists, settings: dict[str, Any]) -> None:
        tensors, noise_ids = (lists.params, lists.grads, *lists.states), lists.noise_ids
        if implementation == "fused":
            is_usual = noise_ids[-1] == len(noise_ids) - 1  # they increase: 0, 1, 2, ..., which the op knows
            noise = {"noise_ids": () if is_usual else noise_ids, "offsets": ()}
            ops.run_step(self.step_name, tensors, {**settings, **noise})
            return
        plain = getattr(reference, self.step_name)
        step = FOREACH_STEPS.get(self.step_name, plain) if implementation == "foreach" else plain
        step(*tensors, noise_ids=noise_ids, offsets=[0] * len(noise_ids), **settings)

    def _check_memory(self, lists: StepLists) -> None:
        """The op looks too, at one call's tensors."""
        if torch.compiler.is_compiling():
            return
        pairs = zip(lists.grads, lists.params, strict=True)
        read = [grad for grad, param in pairs if grad.stride() == param.stride()]  # others are copied before the step
        if share_memory([*lists.params, *chain.from_iterable(lists.states)], read):
            raise RuntimeError(
                f"ald_ext.{type(self).__name__}: params: got parameters, gradients or states that share memory, "
                "expected distinct tensors"
            )

    def _check_param(self, group: Group, param: Tensor, grad: Tensor, index: int) -> None:
        where = f"ald_ext.{type(self).__name__}: parameter {index}"
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

    def _op_options(self, group: Group) -> dict[str, Any]:
        """What the op takes beside tensors, lr and step."""
        return {
            "num_data": float(group["num_data"]),
            "temperature": float(group["temperature"]),
            "weight_decay": float(group["weight_decay"]),
            "maximize": group["maximize"],
            "seed": group["seed"],
            **{name: group[name] for name in self.own_options},
        }

    def _implementation(self, group: Group, param: Tensor) -> str:
        """ "fused", "foreach" or "reference", by the group's flags and what the parameter's device has."""
        if group["foreach"]:
            return "foreach"
        fused = ops.has_kernel(param) if group["fused"] is None else group["fused"]
        return "fused" if fused else "reference"


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


def check_lr(optimizer: str, lr: float | Tensor) -> None:
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"ald_ext.{optimizer}: lr: got a tensor of {lr.numel()} elements, expected one")
        if torch.compiler.is_compiling() or lr.device.type != "cpu":
            return  # its value is not at hand without waiting for the device
    if not NOT_NEGATIVE.accepts(lr):
        raise ValueError(f"ald_ext.{optimizer}: lr: got {lr!r}, expected {NOT_NEGATIVE.expected}")


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
