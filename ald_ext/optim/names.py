"""Which noise belongs to a parameter: the names of parameters, and the numbers made of them.

Note [Identity of a parameter]
    The noise of a parameter's element belongs to (seed, step, identity of the parameter, index of the element in the
    whole parameter). The identity is

    - a hash of the name that :func:`name_parameters` has given to the parameter; else
    - a hash of its name, where the optimizer was given named parameters (``model.named_parameters()``); else
    - its position in the optimizer, counted over all groups from ``first_parameter`` = 0.

    A ``first_parameter`` that is given counts positions, whatever the names. Names are those of the model before it was
    wrapped (DistributedDataParallel, FullyShardedDataParallel, torch.compile, activation checkpointing), so that the
    noise depends neither on wrappers nor on the order of parameters or groups. A group of a ``state_dict`` says what
    holds for it: positions if it has no entry "first_parameter", from that number on if it is one, names if it is None.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor, nn

from ..reference import MAX_PARAMETER
from .shards import record_flat_shards

#: What wrappers put into the names of parameters.
WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")

#: The identities of all names seen so far: torch.compile can look into a dictionary, but not into a hash.
IDENTITIES: dict[str, int] = {}


def name_parameters(model: nn.Module, prefix: str = "") -> None:
    """Give each parameter of a model its name, which is then its identity in every optimizer (Note [Identity of a
    parameter] of ``ald_ext/optim/names.py``): its noise is the same wherever it is stepped.

    Needed where an optimizer sees a part of the parameters, or shards that do not say where they lie:
    ZeroRedundancyOptimizer, an optimizer for each parameter (in hooks of the backward pass), two networks with an
    optimizer each, a stage of a pipeline, FullyShardedDataParallel. Call it after the model was wrapped, and before the
    optimizer is made::

        model = FullyShardedDataParallel(network)
        ald_ext.name_parameters(model)
        optimizer = ald_ext.PSGLD(model.parameters(), lr=1e-3, num_data=len(data))

    Args:
        model: whose parameters are named, as in ``model.named_parameters()`` but without what wrappers add.
        prefix: put before every name, to tell two networks apart.
    """
    start = prefix and f"{prefix}."
    for name, param in model.named_parameters():
        param._ald_ext_name = clean_name(start + clean_name(name))  # type: ignore[attr-defined]
    for module_name, module in model.named_modules():
        within = clean_name(f"{module_name}.").lstrip(".")
        record_flat_shards(module, start + within, identity)


def clean_name(name: str) -> str:
    """The name that a parameter had before its model was wrapped."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def identity(name: str) -> int:
    """44 bits of a hash of the clean name."""
    name = clean_name(name.lstrip("."))
    if name not in IDENTITIES:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        IDENTITIES[name] = int.from_bytes(digest, "little") & MAX_PARAMETER
    return IDENTITIES[name]


def with_recorded_names(params: Any) -> Any:
    """The parameters of a group, as (name, parameter) where :func:`name_parameters` has named them."""
    if isinstance(params, set):
        return params  # which torch refuses, as it has no order
    params = [params] if isinstance(params, Tensor) else list(params)
    given = [param if isinstance(param, tuple) else (None, param) for param in params]
    named = [(getattr(param, "_ald_ext_name", name), param) for name, param in given]
    return [param if name is None else (clean_name(name), param) for name, param in named]


def repeated(identities: Iterable[int]) -> tuple[int, int] | None:
    """The places of the first two parameters with one identity, if there are any."""
    seen: dict[int, int] = {}
    for place, number in enumerate(identities):
        if seen.setdefault(number, place) != place:
            return seen[number], place
    return None


def ordered_by_name(state_dict: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """A state of named parameters in the order of an optimizer's groups, if these are the same parameters.

    torch.distributed.checkpoint has brought the parameters, which it names instead of numbering them, into their order,
    but not the entry "param_names".

    Raises:
        ValueError: the same parameters are in other groups.
    """
    saved_groups = state_dict["param_groups"]
    if any(group.get("first_parameter", 0) is not None for group in saved_groups):
        return state_dict  # positions hold
    names = [group.get("param_names", ()) for group in groups]
    saved_names = [group.get("param_names", ()) for group in saved_groups]
    if saved_names == names or sorted(chain(*names)) != sorted(chain(*saved_names)) or not all(names):
        return state_dict
    if sorted(map(sorted, names)) != sorted(map(sorted, saved_names)):
        raise ValueError(f"ald_ext: load_state_dict: got groups of parameters {saved_names}, expected {names}")
    if isinstance(saved_groups[0]["params"][0], str):
        ordered = [{**saved, "param_names": own} for saved, own in zip(saved_groups, names, strict=True)]
    else:
        places = {
            name: (group, saved_id)
            for group in saved_groups
            for name, saved_id in zip(group["param_names"], group["params"], strict=True)
        }
        ordered = [
            {**places[own[0]][0], "param_names": own, "params": [places[name][1] for name in own]} for own in names
        ]
    return {**state_dict, "param_groups": ordered}
