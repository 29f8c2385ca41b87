"""Dataclasses from plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from ald_ext.settings import from_dict


@dataclass
class Row:
    name: str
    values: list[float | None]


@dataclass
class Page:
    rows: list[Row]
    shape: tuple[int, ...] = (1,)
    prior: str | tuple[float, float] = "flat"
    first: Row | None = None
    versions: dict[str, str] | None = None
    anything: Any = None


ROW = {"name": "re", "values": [0.5, None, 2]}


def test_lists_and_objects_become_what_the_fields_are():
    page = from_dict(Page, {"rows": [ROW], "shape": [3, 4], "prior": [2, 0.5], "first": ROW, "anything": [1]}, "page")
    row = Row("re", [0.5, None, 2])
    assert page == Page([row], (3, 4), (2, 0.5), row, None, [1])
    assert from_dict(Page, {"rows": [row], "colour": 3}, "page", ignore_unknown=True) == Page([row])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "page: got 3, expected an object"),
        ({}, "page: got no 'rows', expected list[Row]"),
        ({"rows": [], "colour": 3}, "page: got 'colour', expected some of anything, first, prior, rows"),
        ({"rows": [ROW, {"name": "re"}]}, "page: rows[1]: got no 'values', expected list[float or None]"),
        ({"rows": [{**ROW, "values": [True]}]}, "page: rows[0]: values[0]: got True, expected float or None"),
        ({"rows": [{**ROW, "unit": "nats"}]}, "page: rows[0]: got 'unit', expected some of name, values"),
        ({"rows": [], "shape": [1, 2.0]}, "page: shape[1]: got 2.0, expected int"),
        ({"rows": [], "prior": [1]}, "page: prior: got [1], expected str or tuple[float, float]"),
        ({"rows": [], "versions": {"torch": 2}}, "page: versions: got {'torch': 2}, expected dict[str, str] or None"),
        ({"rows": "x" * 100}, f"page: rows: got '{'x' * 59}…, expected list[Row]"),
    ],
)
def test_values_that_do_not_fit_are_named(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        from_dict(Page, values, "page")
