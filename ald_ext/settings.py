"""Settings as dataclasses, whose fields say which values they may have; and what is said of a bad argument."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

Settings = TypeVar("Settings")

#: How deep the values of a file may be nested.
MAX_DEPTH = 50

COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def setting(
    default: Any,
    *,
    choices: Iterable[str] = (),
    suggestions: Iterable[str] = (),
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    kw_only: Any = dataclasses.MISSING,
) -> Any:
    """Return a dataclass field with a default and the values that it may have, for :func:`check_values`.

    Where its type includes None, None is one of them. ``suggestions`` are values that help lists beside others,
    ``kw_only`` is that of ``dataclasses.field``.
    """
    bounds = {">": above, ">=": at_least, "<": below, "<=": at_most}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    metadata = {"choices": tuple(choices), "suggestions": tuple(suggestions), "bounds": given}
    return dataclasses.field(default=default, metadata=metadata, kw_only=kw_only)


def require(fulfilled: object, argument: str, got: object, expected: str) -> None:
    """Raise the ValueError "ARGUMENT: got GOT, expected EXPECTED" unless a condition is fulfilled."""
    if not fulfilled:
        raise ValueError(f"{argument}: got {got}, expected {expected}")


def check_device(device: str, place: str, others: str = "") -> None:
    """Raise a ValueError, which begins with ``place``, unless torch can use a device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{place}: got {device!r}, expected {others}cpu or a GPU that torch can use ({reason})"
        ) from error


def check_values(settings: Any, owner: str) -> None:
    """Raise a ValueError, which begins with ``owner``, if a field's value is none that its :func:`setting` allows."""
    for field in dataclasses.fields(settings):
        value, optional = getattr(settings, field.name), "None" in str(field.type)
        choices, bounds = field.metadata.get("choices", ()), field.metadata.get("bounds", {})
        if value is None and optional:
            continue
        if choices and value not in choices:
            raise ValueError(f"{owner}: {field.name}: got {shortened(value)}, expected one of {', '.join(choices)}")
        if not all(COMPARISONS[sign](value, bound) for sign, bound in bounds.items()):
            numbers = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound != math.inf)
            expected = f"{'None or ' if optional else ''}{'a finite number ' if math.inf in bounds.values() else ''}"
            raise ValueError(f"{owner}: {field.name}: got {shortened(value)}, expected {expected}{numbers}")


def from_dict(cls: type[Settings], values: Any, owner: str, *, ignore_unknown: bool = False) -> Settings:
    """Return a dataclass made from what ``dataclasses.asdict`` gave, also after a round trip through JSON.

    Lists become tuples and objects become dataclasses where the fields are annotated so. What is missing has its
    default. A field of ``Tensor`` is a dense one on a device, that autograd does not follow;
    ``Annotated[Tensor, dtype, number of dimensions]`` has these, too.

    Args:
        cls: the dataclass.
        values: a dictionary with the names of its fields.
        owner: the beginning of error messages: what the values belong to.
        ignore_unknown: leave out names that the dataclass does not have, instead of refusing them.

    Raises:
        ValueError: a name that the dataclass does not have, a value of another type, or a missing value without a
            default.
    """
    require(isinstance(values, dict), owner, shortened(values), "an object")
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown and not ignore_unknown:
        known = sorted(fields)
        if len(known) > 8:
            known = [*(get_close_matches(str(unknown[0]), known) or known[:8]), "…"]
        raise ValueError(f"{owner}: got {', '.join(map(shortened, unknown[:3]))}, expected some of {', '.join(known)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{owner}: got no {name!r}, expected {describe(hints[name])}")
    given = {name: value for name, value in values.items() if name in fields}
    converted = {name: convert(value, hints[name], f"{owner}: {name}", ignore_unknown) for name, value in given.items()}
    return cls(**converted)


def convert(value: Any, hint: Any, place: str, ignore_unknown: bool = False) -> Any:
    """Return a plain value as the type of a field. ValueError, which begins with ``place``, if it does not fit."""
    origin, members = get_origin(hint), get_args(hint)
    if hint is Tensor or (origin is Annotated and members[0] is Tensor):
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if dense and not value.requires_grad and all(map(operator.eq, members[1:], (value.dtype, value.dim()))):
            return value
    elif type(value) is int and hint in (int, float):
        if value.bit_length() < (64 if hint is int else 1024):  # of PyTorch's integers, or of floats
            return value
    elif hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    if origin in (Union, UnionType):
        for member in members:
            try:
                return convert(value, member, place, ignore_unknown)
            except ValueError:
                continue
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return from_dict(hint, value, place, ignore_unknown=ignore_unknown)  # type: ignore[arg-type]
    elif origin in (list, tuple) and isinstance(value, (list, tuple)):
        repeated = origin is list or members[1:] == (...,)
        if repeated or len(value) == len(members):
            kinds = [members[0]] * len(value) if repeated else members
            items = [
                convert(item, kind, f"{place}[{position}]", ignore_unknown)
                for position, (item, kind) in enumerate(zip(value, kinds, strict=True))
            ]
            return origin(items)
    elif origin is dict and isinstance(value, dict):
        return {
            convert(key, members[0], f"{place}: key", ignore_unknown): convert(
                item, members[1], f"{place}[{key!r:.60}]", ignore_unknown
            )
            for key, item in value.items()
        }
    kind = " that is dense, in memory and without gradient" if isinstance(value, Tensor) else ""
    raise ValueError(f"{place}: got {shortened(value)}, expected {describe(hint)}{kind}")


def describe(hint: Any) -> str:
    """Return the name of a type for a message, such as "float or None"."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(describe, members))
    if origin is Annotated:
        kinds = map(str.format, ("of dtype {}", "with {} dimensions"), map(str, members[1:]))
        return " ".join(["Tensor", *kinds])
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if member is ... else describe(member) for member in members)}]"
    return "None" if hint is NoneType else hint.__name__


class Shortener(reprlib.Repr):
    """The ``repr`` of values that may be huge, nested without end, or tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200
        self.maxlevel = 4

    def repr_Tensor(self, value: Tensor, level: int) -> str:  # noqa: N802
        layout = "" if value.layout == torch.strided else f"{value.layout} "
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        grad = " that requires grad" if value.requires_grad else ""
        return f"{layout}{value.dtype} of shape {list(value.shape)}{device}{grad}".replace("torch.", "")

    repr_Parameter = repr_Tensor  # noqa: N815


def shortened(value: Any, length: int = 60) -> str:
    """Return the ``repr`` of a value for a message, cut after some characters."""
    try:
        text = " ".join(Shortener().repr(value).split())
    except ValueError:  # of an integer with more digits than Python writes
        text = f"something of type {type(value).__name__} with too many digits"
    return text if len(text) <= length else f"{text[:length]}…"


def parse_json(text: str | bytes, owner: str) -> Any:
    """Return what JSON text holds, with None for NaN and Infinity. ValueError, with ``owner``, if it is damaged."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:  # also of a number with too many digits
        raise ValueError(f"{owner} is no JSON file ({error})") from error
    except RecursionError:
        deep = True
    else:
        deep = is_deeper(value, MAX_DEPTH)
    require(not deep, owner, "values nested too deeply", f"at most {MAX_DEPTH} levels")
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and dictionaries are nested more than ``depth`` levels deep."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(is_deeper(item, depth - 1) for item in items)
