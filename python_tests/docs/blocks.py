"""The code blocks of README.md and of the pages in docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"((?:<!-- test: [^\n]* -->\n)*)```(\w+)\n(.*?)```", re.DOTALL)
REMARK = re.compile(r"<!-- test: (.*) -->")


def blocks_of(page: Path, language: str) -> list[tuple[str, list[str]]]:
    """Code and remarks, in order. A remark ``<!-- test: slow -->`` marks a block, and ``<!-- test: OLD -> NEW -->``
    says what a test runs instead of what the reader sees, so that it takes less time."""
    found = [
        (code, REMARK.findall(remarks)) for remarks, name, code in BLOCK.findall(page.read_text()) if name == language
    ]
    return [(shortened(code, page, remarks), remarks) for code, remarks in found]


def shortened(code: str, page: Path, remarks: list[str]) -> str:
    for remark in remarks:
        if " -> " in remark:
            old, new = remark.split(" -> ")
            assert old in code, f"{page.name}: {old!r} is in no line of the block that follows the remark"
            code = code.replace(old, new)
    return code


def installed_extras() -> set[str]:
    """The extras that README's line ``pip install '.[…]'`` names first."""
    line = re.search(r"pip install .*'\.\[([\w,]+)\]'", README.read_text())
    assert line is not None, "README.md: no line installs extras"
    return set(line[1].split(","))
