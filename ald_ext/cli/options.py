"""KEY=VALUE on the command line."""

from __future__ import annotations

import json
from typing import Any


def parse_options(options: list[str]) -> dict[str, Any]:
    """ "lr=0.1" to {"lr": 0.1}: values are JSON (numbers, true, null, lists), or else text."""
    parsed: dict[str, Any] = {}
    for item in options:
        key, equals, value = item.partition("=")
        if not (key.isidentifier() and equals):
            raise ValueError(f"option: got {item!r}, expected KEY=VALUE, such as lr=0.1")
        try:
            parsed[key] = json.loads(value)
        except json.JSONDecodeError:
            parsed[key] = value
    return parsed
