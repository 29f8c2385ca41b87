"""Dataclasses from plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn

from ald_ext.settings import convert, from_dict, parse_json, shortened


@dataclass
class Row:
    name: str
    values: list[float | None]


@dataclass
class Tensors:
    weights: dict[str, Tensor]
    count: Annotated[Tensor, torch.int64, 0] | None = None


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


def test_tensors_are_dense_and_without_gradient():
    weights = {"w": torch.ones(2), "none": torch.ones(0, dtype=torch.bool)}
    assert from_dict(Tensors, {"weights": weights}, "file").weights["w"] is weights["w"]
    assert from_dict(Tensors, {"weights": {}, "count": torch.tensor(3)}, "file").count == 3


@pytest.mark.parametrize(
    ("weight", "got"),
    [
        (torch.ones(2, device="meta"), "float32 of shape [2] on meta"),
        (torch.ones(2, 3, requires_grad=True), "float32 of shape [2, 3] that requires grad"),
        (nn.Parameter(torch.ones(2)), "float32 of shape [2] that requires grad"),
        (torch.eye(2).to_sparse(), "sparse_coo float32 of shape [2, 2]"),
        (1.0, "1.0"),
    ],
)
def test_other_tensors_are_refused(weight, got):
    with pytest.raises(ValueError, match=re.escape(f"file: weights['w']: got {got}, expected Tensor")):
        from_dict(Tensors, {"weights": {"w": weight}}, "file")


@pytest.mark.parametrize("count", [torch.tensor(3.0), torch.tensor([3]), 3])
def test_dtypes_and_dimensions_are_compared(count):
    message = "count: got .*, expected Tensor of dtype torch.int64 with 0 dimensions or None"
    with pytest.raises(ValueError, match=message):
        from_dict(Tensors, {"weights": {}, "count": count}, "file")


def test_keys_are_compared():
    with pytest.raises(ValueError, match=r"^versions: key: got 3, expected str$"):
        convert({3: "x"}, dict[str, str], "versions")


def test_integers_that_no_tensor_holds_are_refused():
    assert convert(10**20, float, "x") == 10**20
    for value, hint in ((10**20, int), (10**400, float), (10**400, int)):
        with pytest.raises(ValueError, match=r"^x: got 1000.*, expected (int|float)$"):
            convert(value, hint, "x")


def test_what_is_shown_of_a_value_has_an_end():
    shared, nested = ["x"], []
    for _ in range(10_000):
        shared, nested = [shared, shared], [nested]
    for value in (shared, nested, "x" * 10**6, 10**5000, {"a": "\n" * 100}, torch.ones(1000)):
        assert len(shortened(value)) <= 61
        assert "\n" not in shortened(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "file is no JSON file"),
        (b"\xff\xfe\xff", "file is no JSON file"),
        (b"1" * 5000, "file is no JSON file"),
        (b"[" * 100_000, "file: got values nested too deeply, expected at most 50 levels"),
        (b"[" * 60 + b"]" * 60, "file: got values nested too deeply, expected at most 50 levels"),
    ],
)
def test_damaged_json_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        parse_json(text, "file")
    assert "\n" not in str(caught.value)
    assert parse_json("[NaN, 1e3]", "file") == [None, 1e3]
