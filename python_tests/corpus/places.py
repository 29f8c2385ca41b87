"""Changes somewhere inside of nested dictionaries and lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: In the place of a value: there is none.
MISSING = object()


def places_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value inside of one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places_of(item, (*place, key))


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    """A copy with another value, or with none where ``by`` is :data:`MISSING`, at a place."""
    copied = dict(value) if isinstance(value, dict) else list(value)
    if len(place) > 1:
        copied[place[0]] = replaced(copied[place[0]], place[1:], by)
    elif by is MISSING:
        del copied[place[0]]
    else:
        copied[place[0]] = by
    return copied
