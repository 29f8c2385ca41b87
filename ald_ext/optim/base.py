"""What the Langevin optimizers have in common: options, noise keys, states, and a step of every group."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from .. import ops, reference
from ..settings import from_dict, require, shortened
from .checks import (
    COUNT_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Group,
    OptimizerState,
    Requirement,
    check_loaded,
    check_lr,
    is_number,
)
from .names import identity, ordered_by_name, repeated, with_recorded_names
from .seeds import Replicas, chain_seed, in_process_group, values_of
from .shards import is_dtensor
from .stepping import GroupStepper, place_step


class LangevinOptimizer(GroupStepper):
    """Base of the Langevin optimizers. A subclass names its op, its states and its options."""

    #: The options that the op takes beside those that every step has, with what each has to be.
    own_options: ClassVar[Mapping[str, Requirement]] = {}

    _common_options: ClassVar[Mapping[str, Requirement]] = {
        "num_data": POSITIVE,
        "temperature": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "seed": SEED,
    }
    #: Options that are entries of a group only if somebody gave them: groups of older versions have none.
    _rare_options: ClassVar[Mapping[str, Requirement]] = {
        "chain": COUNT_OR_NONE,
        "first_parameter": COUNT_OR_NONE,
        "localization": NOT_NEGATIVE,
    }

    _drew_seed = False
    _replicas: Replicas | None = None
    #: Of any parameters, where they have no names.
    _alike: Replicas | None = None

    def __init__(self, params: Iterable[Any], defaults: Group, anchors: Iterable[Tensor] | None = None) -> None:
        defaults = python_numbers(defaults)
        given = defaults["seed"]
        if given is None:
            defaults["seed"] = ops.draw_seed()
        defaults["step"] = 0
        super().__init__(params, defaults)
        self._drew_seed = given is None
        if anchors is not None:
            self._place_anchors(anchors)
        if in_process_group():
            self._replicas = self._join_replicas()

    def add_param_group(self, param_group: Group) -> None:
        """Add a group as torch's optimizers do, after a look at its options.

        Raises:
            ValueError: an option out of its range, two parameters with one identity (Note [Identity of a parameter] of
                ``ald_ext/optim/names.py``), or a flat parameter that :func:`ald_ext.name_parameters` does not know.
        """
        param_group = {**self.defaults, **python_numbers(param_group)}
        self._check_options(param_group)
        param_group["params"] = with_recorded_names(param_group["params"])
        have_names = any("param_names" in group for group in self.param_groups)
        if param_group["params"] == [] and have_names:
            param_group["param_names"] = []  # torch asks for names in all groups or in none
        elif any(isinstance(param, tuple) for param in param_group["params"]) and not have_names:
            for group in self.param_groups:
                if not group["params"]:
                    group["param_names"] = []
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._identify(group)
        except ValueError:
            self.param_groups.pop()
            raise
        place_step(group)
        if group.get("localization"):
            # All states: torch.distributed.checkpoint makes none, nor loads them, where there are some already.
            for param in group["params"]:
                for name in self._state_names(group):
                    self.state[param][name] = self._state_of(param, name, [])

    def _place_anchors(self, anchors: Iterable[Tensor]) -> None:
        """Of the parameters of all groups, in their order, in the place of copies of the parameters."""
        name = f"ald_ext.{type(self).__name__}: anchors"
        require(isinstance(anchors, Iterable), name, shortened(anchors), "one tensor for each parameter")
        anchors = list(anchors)
        localized = any(group.get("localization") for group in self.param_groups)
        require(localized, name, "anchors with a localization of 0, which has no use for them", "a localization > 0")
        params = [param for group in self.param_groups for param in group["params"]]
        require(len(anchors) == len(params), name, f"{len(anchors)} tensors", f"{len(params)}, one for each parameter")
        for place, (param, anchor) in enumerate(zip(params, anchors, strict=True)):
            dense = isinstance(anchor, Tensor) and anchor.layout == torch.strided and anchor.is_floating_point()
            plain = dense and anchor.is_meta == param.is_meta and is_dtensor(anchor) == is_dtensor(param)
            expected = f"a tensor of real numbers of shape {list(param.shape)} as of the parameter"
            fits = plain and anchor.shape == param.shape
            require(fits, f"{name}[{place}]", shortened(anchor, 100), expected)
            if "anchor" in self.state.get(param, {}):
                self.state[param]["anchor"].copy_(anchor.detach())

    def _identify(self, group: Group) -> None:
        """Look at the identities of the parameters, when a group is new."""
        for option in self._rare_options:
            if group.get(option) is None or (option == "localization" and group[option] == 0):
                group.pop(option, None)
        if "param_names" in group:
            group.setdefault("first_parameter", None)  # names, and not positions
        for place, param in enumerate(group["params"]):
            if getattr(param, "_fsdp_flattened", False) and not hasattr(param, "_ald_ext_pieces"):
                raise ValueError(
                    f"ald_ext.{type(self).__name__}: parameter {place}: got a part of a flat parameter of "
                    "FullyShardedDataParallel, which does not say which, expected ald_ext.name_parameters(model) after "
                    "the model was wrapped and before the optimizer is made"
                )
        self._prepare_groups()
        noise_ids = self._all_noise_ids()
        if noise_ids and max(noise_ids) > reference.MAX_PARAMETER:
            raise ValueError(
                f"ald_ext.{type(self).__name__}: first_parameter: got {group.get('first_parameter')}, expected "
                f"numbers of parameters up to {reference.MAX_PARAMETER}"
            )
        if places := repeated(noise_ids):
            raise ValueError(
                f"ald_ext.{type(self).__name__}: params: got the same name, or number, for parameters {places[0]} and "
                f"{places[1]}, which would have the same noise, expected distinct ones; first_parameter=0 counts them"
            )

    def _prepare_groups(self) -> None:
        """What a step needs and what does not change from step to step."""
        self._accepted = {}
        for group in self.param_groups:
            for name in group.get("param_names", ()):
                identity(name)  # torch.compile could not compute it
            if "chain" in group:
                chain_seed(group["seed"], group["chain"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        self._has_recorded_names = any(hasattr(param, "_ald_ext_name") for param in params)
        self._look_for_shards()

    def _all_noise_ids(self) -> list[int]:
        ids: list[int] = []
        for group in self.param_groups:
            ids += self._noise_ids(group, len(ids))
        return ids

    def _join_replicas(self) -> Replicas:
        """Be one of those of the same class, chain and parameters, and take their seed if none was given."""
        params = list(chain.from_iterable(group["params"] for group in self.param_groups))
        # Shards of flat parameters have other shapes on other ranks.
        shapes = [None if hasattr(param, "_fsdp_flattened") else list(param.shape) for param in params]
        chains = [group.get("chain") for group in self.param_groups]
        replicas = Replicas([type(self).__name__, chains, self._all_noise_ids(), shapes])
        drawn = self.defaults["seed"]
        first = replicas.first("seed", drawn)
        if self._drew_seed and not any(int(group["step"]) for group in self.param_groups):
            self.defaults["seed"] = first
            for group in self.param_groups:
                if group["seed"] == drawn:
                    group["seed"] = first
        return replicas

    def _compare_replicas(self) -> None:
        """Note [Seeds of replicas]."""
        if self._replicas is None:  # a copy, or made before the process group
            self._replicas = self._join_replicas()
        name, groups = type(self).__name__, self.param_groups
        seeds = [group["seed"] for group in groups]
        if self._alike is None:  # whatever the parameters are: they have positions and seed in common
            self._alike = Replicas(["positions", seeds, [group.get("chain") for group in groups]])
        self._replicas.compare(name, seed=seeds, step=[int(group["step"]) for group in groups])
        unnamed = [group["params"] for group in groups if group.get("first_parameter", 0) is not None]
        params = [param for param in chain.from_iterable(unnamed) if not is_dtensor(param)]
        if params:
            self._alike.compare(name, values=values_of(params))
        self._is_compared = True

    def _check_options(self, group: Group) -> None:
        if torch.compiler.is_compiling():
            return  # a number may be a variable of the graph; the op looks at its value
        name = type(self).__name__
        check_lr(name, group["lr"])
        for options in (self._common_options, self.own_options):
            for option, requirement in options.items():
                if not requirement.accepts(group[option]):
                    got = shortened(group[option])
                    raise ValueError(f"ald_ext.{name}: {option}: got {got}, expected {requirement.expected}")
        for option, requirement in self._rare_options.items():
            if option in group and not requirement.accepts(group[option]):
                raise ValueError(
                    f"ald_ext.{name}: {option}: got {shortened(group[option])}, expected {requirement.expected}"
                )
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
                if option != "differentiable" and option not in self._rare_options:  # torch adds the first here
                    group.setdefault(option, value)
            if self.defaults.get("chain") is not None:
                group["chain"] = self.defaults["chain"]
            place_step(group)
        self._prepare_groups()
        self._is_compared = False
        loaded = self.__dict__.pop("_loaded", None)
        if loaded is not None:
            self._restore_wide_states(loaded)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with Python's numbers where options are numpy's, so that it loads with ``weights_only=True``."""
        state_dict = super().state_dict()
        state_dict["param_groups"] = [python_numbers(group) for group in state_dict["param_groups"]]
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch's optimizers do, except that states of 16-bit parameters stay in float32.

        Where both have names of the same parameters, their order may differ. The state of another optimizer is refused,
        but for :class:`ald_ext.PSGLD`. As options are those of the state, a UserWarning tells where they end a
        localization; anchors stay.

        Raises:
            ValueError: the state of another optimizer, of other groups or parameters, or with bad options.
        """
        require(
            isinstance(state_dict, dict),
            f"ald_ext.{type(self).__name__}: load_state_dict",
            shortened(state_dict),
            "a dict",
        )
        before = [group.get("localization") for group in self.param_groups]
        # The last of the pre-hooks sees what torch is going to load; __setstate__ comes before the post-hooks.
        anchors = [(param, state["anchor"]) for param, state in self.state.items() if "anchor" in state]
        handle = self.register_load_state_dict_pre_hook(prepare_loaded)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self.__dict__.pop("_loaded", None)
        pairs = zip(before, self.param_groups, strict=True)
        if ended := [value for value, group in pairs if value and not group.get("localization")]:
            warnings.warn(
                f"ald_ext.{type(self).__name__}: load_state_dict: got a state without localization, which replaces "
                f"that of {ended[0]}: set localization in param_groups again if parameters are to be pulled",
                stacklevel=2,
            )
        for param, anchor in anchors:  # of other optimizers' states, which have none
            self.state[param].setdefault("anchor", anchor)

    def _adopted(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state of another optimizer as one of this."""
        options = sorted(state_dict["param_groups"][0].keys() - {"params"})
        raise ValueError(
            f"ald_ext.{type(self).__name__}: load_state_dict: got the state of another optimizer, with the options "
            f"{', '.join(options)}, expected one of {type(self).__name__}"
        )

    def _restore_wide_states(self, state_dict: dict[str, Any]) -> None:
        """torch has cast each state to its parameter's dtype."""
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id, {})
            for name in (*self.state_names, "anchor"):
                if name in saved and param.dtype != reference.compute_dtype(param.dtype):
                    self.state[param][name] = saved[name].to(
                        param.device, reference.compute_dtype(param.dtype), copy=True
                    )

    def _op_options(self, group: Group) -> dict[str, Any]:
        """What the op takes beside tensors, lr and step."""
        return {
            "num_data": float(group["num_data"]),
            "temperature": float(group["temperature"]),
            "weight_decay": float(group["weight_decay"]),
            "maximize": group["maximize"],
            "seed": chain_seed(group["seed"], group["chain"]) if "chain" in group else group["seed"],
            **{name: group[name] for name in self.own_options},
            **({"localization": float(group["localization"])} if group.get("localization") else {}),
        }


def python_numbers(group: Group) -> Group:
    """The options of a group, numpy's numbers made Python's."""
    return {name: value.item() if isinstance(value, numpy.generic) else value for name, value in group.items()}


def prepare_loaded(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A hook in front of what torch loads."""
    owner = f"ald_ext.{type(optimizer).__name__}: load_state_dict"
    from_dict(OptimizerState, state_dict, owner, ignore_unknown=True)
    if any("num_data" not in group for group in state_dict["param_groups"]):
        state_dict = optimizer._adopted(state_dict)
    state_dict = ordered_by_name(state_dict, optimizer.param_groups)
    check_loaded(owner, optimizer, state_dict)
    for own, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        step = saved.get("step", 0)
        is_count = is_number(step) and 0 <= step <= reference.MAX_STEP and int(step) == step
        require(is_count, f"{owner}: step", shortened(step), f"an integer, 0 to {reference.MAX_STEP}")
        optimizer._check_options({**own, **python_numbers(saved)})
    optimizer.__dict__["_loaded"] = state_dict
    return state_dict
