"""Figures found and written in markdown: what the tables of a run and the page of results share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Results = dict[str, Any]
Row = dict[str, Any]


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


def number(value: float) -> str:
    """Three significant digits, without an exponent where they stand before the point."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def spread(quantiles: Row, scale: float = 1.0) -> str:
    """Median (20th to 80th percentile)."""
    median, p20, p80 = (number(scale * quantiles[name]) for name in ("median", "p20", "p80"))
    return f"{median} ({p20} to {p80})"


def unique(values: Iterable[Any]) -> list[Any]:
    """In order of first appearance."""
    return list(dict.fromkeys(values))


def find_row(results: Results, family: str, size: str, variant: str) -> Row | None:
    wanted = (family, size, variant)
    return next((row for row in results["rows"] if (row["family"], row["size"], row["variant"]) == wanted), None)


def find_ratio(results: Results, family: str, size: str, numerator: str, denominator: str) -> Row | None:
    wanted = (family, size, numerator, denominator)
    return next(
        (
            ratio
            for ratio in results["ratios"]
            if (ratio["family"], ratio["size"], ratio["numerator"], ratio["denominator"]) == wanted
        ),
        None,
    )
