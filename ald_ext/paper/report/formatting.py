"""Numbers, names and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..results import Row

#: Stands where no finite number does: a sampler that diverged, an error that was never reached.
NOT_FINITE = "not finite"

#: Characters that Markdown reads as more than themselves. Those that no backslash protects everywhere are entities.
ESCAPES = {character: f"\\{character}" for character in "\\`*_[]|"} | {
    character: f"&#{ord(character)};" for character in "&<>~$"
}
PLAIN_NAME = re.compile(r"[\w./=+ -]+")


def escape(text: str) -> str:
    """Text that Markdown shows as it stands, in one line."""
    return "".join(ESCAPES.get(character, character) for character in " ".join(text.split()))


def code(name: str) -> str:
    """A name in the type of code; one with characters that could end it or a cell of a table, as text."""
    return f"`{name}`" if PLAIN_NAME.fullmatch(name) else escape(name)


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits, without an exponent where they stand before the point."""
    if value is None:
        return NOT_FINITE
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def show_paper(row: Row | None) -> str:
    """The paper's figure, or nothing."""
    return "" if row is None or row.paper is None else number(row.paper)


def show_ours(row: Row | None) -> str:
    """The mean over the seeds ± its standard error; how many seeds gave nothing finite; nothing without a row."""
    if row is None:
        return ""
    if row.mean is None:
        failed = sum(value is None for value in row.values)
        return NOT_FINITE if failed == len(row.values) else f"{NOT_FINITE} in {failed} of {len(row.values)} seeds"
    return number(row.mean) + ("" if row.standard_error is None else f" ± {number(row.standard_error, 2)}")


def show_difference(row: Row | None, percent: bool = True) -> str:
    """Ours less the paper's, and in percent of the paper's; nothing where one of them is missing."""
    if row is None or row.paper is None or row.mean is None:
        return ""
    difference = row.mean - row.paper
    sign = "+" if difference > 0 else ""
    share = f" ({100 * difference / abs(row.paper):+.1f}%)" if percent and row.paper else ""
    return f"{sign}{number(difference)}{share}"


def count(value: int, what: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{value:,} {what}" + ("" if value == 1 else "s")


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Numbers, which are in all columns but the first, are set to the right."""
    return table_of_lines(header, ["---"] + ["---:"] * (len(header) - 1), body)


def text_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return table_of_lines(header, ["---"] * len(header), body)


def table_of_lines(header: Sequence[str], rule: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))
