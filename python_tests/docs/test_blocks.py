"""The code of README.md and of the documentation does what it says: every block is run, in the order of its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from docs.blocks import PAGES, README, blocks_of

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.md is not here: an installed package is tested")


def pages_with(language: str) -> list[Any]:
    return [pytest.param(page, id=page.stem) for page in PAGES if README.is_file() and blocks_of(page, language)]


@pytest.fixture(autouse=True)
def _fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks(page: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for code, remarks in blocks_of(page, "python"):
        if "slow" not in remarks:
            exec(compile(code, str(page), "exec"), names)


@pytest.mark.processes
@pytest.mark.parametrize("page", [page for page in pages_with("python") if "test: slow" in page.values[0].read_text()])
def test_slow_python_blocks(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "trace_autograd_ops", False)
    names: dict[str, Any] = {"__name__": page.stem}
    exec("\n".join(code for code, remarks in blocks_of(page, "python")), names)
