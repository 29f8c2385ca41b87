"""Settings as dataclasses, whose fields say which values they may have; and what is said of a bad argument."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")

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
) -> Any:
    """Return a dataclass field with a default and the values that it may have, for :func:`check_values`.

    Where its type includes None, None is one of them. ``suggestions`` are values that help lists beside others.
    """
    bounds = {">": above, ">=": at_least, "<": below, "<=": at_most}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    metadata = {"choices": tuple(choices), "suggestions": tuple(suggestions), "bounds": given}
    return dataclasses.field(default=default, metadata=metadata)


def require(fulfilled: object, argument: str, got: object, expected: str) -> None:
    """Raise the ValueError "ARGUMENT: got GOT, expected EXPECTED" unless a condition is fulfilled."""
    if not fulfilled:
        raise ValueError(f"{argument}: got {got}, expected {expected}")


def check_values(settings: Any, owner: str) -> None:
    """Raise a ValueError, which begins with ``owner``, if a field's value is none that its :func:`setting` allows."""
    for field in dataclasses.fields(settings):
        value, optional = getattr(settings, field.name), "None" in str(field.type)
        choices, bounds = field.metadata.get("choices", ()), field.metadata.get("bounds", {})
        if value is None and optional:
            continue
        known = not choices or value in choices
        require(known, f"{owner}: {field.name}", repr(value), f"one of {', '.join(choices)}")
        if not all(COMPARISONS[sign](value, bound) for sign, bound in bounds.items()):
            numbers = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound != math.inf)
            expected = f"{'None or ' if optional else ''}{'a finite number ' if math.inf in bounds.values() else ''}"
            raise ValueError(f"{owner}: {field.name}: got {value!r}, expected {expected}{numbers}")


def from_dict(cls: type[Settings], values: Any, owner: str, *, ignore_unknown: bool = False) -> Settings:
    """Return a dataclass made from what ``dataclasses.asdict`` gave, also after a round trip through JSON.

    Lists become tuples and objects become dataclasses where the fields are annotated so. What is missing has its
    default.

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
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = sorted(map(str, set(values) - set(fields)))
    known = f"some of {', '.join(sorted(fields))}"
    require(not unknown or ignore_unknown, owner, ", ".join(map(repr, unknown)), known)
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{owner}: got no {name!r}, expected {describe(hints[name])}")
    given = {name: value for name, value in values.items() if name in fields}
    converted = {name: convert(value, hints[name], f"{owner}: {name}", ignore_unknown) for name, value in given.items()}
    return cls(**converted)


def convert(value: Any, hint: Any, place: str, ignore_unknown: bool = False) -> Any:
    """Return a plain value as the type of a field. ValueError, which begins with ``place``, if it does not fit."""
    origin, members = get_origin(hint), get_args(hint)
    if hint is Any or (isinstance(hint, type) and type(value) is hint) or (hint is float and type(value) is int):
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
        return {key: convert(item, members[1], f"{place}[{key!r}]", ignore_unknown) for key, item in value.items()}
    raise ValueError(f"{place}: got {shortened(value)}, expected {describe(hint)}")


def describe(hint: Any) -> str:
    """Return the name of a type for a message, such as "float or None"."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(describe, members))
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if member is ... else describe(member) for member in members)}]"
    return "None" if hint is NoneType else hint.__name__


def shortened(value: Any) -> str:
    """Return the ``repr`` of a value for a message, in one line, cut after 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"
