"""What the tools decide without building anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools import matrix as tool
from tools.environments import ROOT
from tools.matrix import Cell, Matrix, Result

CELL = Cell("3.11", "2.15.1", compiles=False, cuda=True, foreign=("2.11.0",))


def passed(cell: Cell, **changes: Any) -> Result:
    runs = {torch: {"passed": 7, "skipped": 1, "seconds": 2.0, "files": files} for torch, files in cell.tests().items()}
    versions = {"python": "3.11.9", "torch": "2.15.1+cu132", "numpy": "2.4.6", "compiler": "GNU 12.2.0"}
    result = {"python": cell.python, "torch": cell.torch, "sources": "abc", "cuda": "13.0", "runs": runs}
    result |= {"seconds": {"environment": 20.0, "build": 40.0}, "versions": versions, "date": "2026-11-28"}
    return result | {"commit": "0123", "machine": "Linux x86_64, glibc 2.36"} | changes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["2.9.0", "2.11.0", "2.15.1"]),
        (["oldest", "newest"], ["2.9.0", "2.15.1"]),
        (["2.11", "2.15.1"], ["2.11.0", "2.15.1"]),
        (["2.1"], []),
    ],
)
def test_torch_is_chosen_by_words(words: list[str], expected: list[str]) -> None:
    assert tool.chosen(["2.9.0", "2.11.0", "2.15.1"], words) == expected


def test_a_cell_is_done_again_where_anything_differs() -> None:
    matrix = Matrix.__new__(Matrix)
    matrix.sources = "abc"

    def is_done(cell: Cell = CELL, **changes: Any) -> bool:
        matrix.results = {CELL.key: passed(CELL, **changes)}
        return matrix.is_done(cell)

    assert is_done()
    assert not is_done(sources="abd")
    assert not is_done(failure="building")
    assert not is_done(cuda=None)
    assert not is_done(torch="2.15.0")
    assert not is_done(Cell("3.11", "2.15.1", compiles=True, cuda=True, foreign=("2.11.0",)))
    assert not is_done(Cell("3.11", "2.15.1", compiles=False, cuda=True, foreign=("2.12.0",)))
    matrix.results = {CELL.key: {"python": "3.11", "torch": "2.15.1", "unavailable": "no wheel"}}
    assert not matrix.is_done(CELL)


def test_the_page_tells_what_failed_and_what_is_not_to_be_had() -> None:
    results = {
        "3.11/2.15": passed(CELL),
        "3.9/2.15": {"python": "3.9", "torch": "2.15.1", "unavailable": "it has no wheel for Python 3.9"},
        "3.10/2.15": passed(CELL, python="3.10", failure="building the wheel: no compiler", runs={}),
    }
    text = tool.page(results)
    assert "| 3.9 | 2.15.1 | not to be had: it has no wheel for Python 3.9 |" in text
    assert "| 3.11.9 | 2.15.1+cu132 | passed | 7 | 2.11.0: 7 | 13.0 | 2.4.6 |" in text
    assert "- Python 3.10, torch 2.15.1: building the wheel: no compiler" in text
    assert "not to be had" in tool.page({"3.9/2.15": results["3.9/2.15"]})
    assert "Tests of what was built in a cell: none." in tool.page({"3.9/2.15": results["3.9/2.15"]})
    assert [key for key, _ in sorted(results.items(), key=tool.order)] == ["3.9/2.15", "3.10/2.15", "3.11/2.15"]


def test_the_page_names_the_files_that_ran() -> None:
    """The record names them, though files may have been moved since."""
    runs = [("A", ["old/test_a", "test_b"]), ("B", ["test_b", "test_c"]), ("C", ["test_b", "test_c", "test_d"])]
    some = (("A", "old/test_a"), ("B, C", "test_c"), ("C", "test_d"))
    texts = [f"in {where} (Python/torch) also `{file}`" for where, file in some]
    assert tool.files_that_ran(runs) == "; ".join(["`test_b`", *texts])
    assert tool.files_that_ran(runs[:1]) == "`old/test_a`, `test_b`"


@pytest.mark.parametrize("name", [*tool.TESTS, *tool.ABI_TESTS, *sorted(tool.LEFT_OUT)])
def test_named_tests_are_there(name: str) -> None:
    assert (tool.PYTHON_TESTS / f"{name}.py").is_file()


@pytest.mark.processes
def test_tests_of_a_cell_need_no_more_than_its_environment_has() -> None:
    # What the extras bring.
    missing = "arviz_base arviz_stats h5netcdf matplotlib pandas PIL safetensors scipy sklearn tqdm typer"
    files = [f"python_tests/{name}.py" for name in (*tool.TESTS, *tool.COMPILE_TESTS, *tool.ABI_TESTS)]
    arguments = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-qq", "--collect-only", *files]
    block = f"import sys; sys.modules.update(dict.fromkeys({missing!r}.split()))"
    code = f"{block}; import pytest; sys.exit(pytest.main({arguments}))"
    collected = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, collected.stdout[-3000:] + collected.stderr[-3000:]


def test_a_disk_that_may_become_full_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=7.25e9))
    work = tmp_path / "not yet" / "made"
    assert tool.lack_of_space(work, torches=1, cpu_only=False) is None
    assert tool.lack_of_space(work, torches=5, cpu_only=True) is None
    message = tool.lack_of_space(work, torches=2, cpu_only=False)
    assert message is not None
    assert f"{work}: got 7.2 GB of free space, expected up to 11 GB for 2 releases of torch" in message


@pytest.mark.parametrize("passed", [True, False])
def test_what_was_downloaded_and_built_is_deleted(tmp_path: Path, passed: bool) -> None:
    matrix = Matrix.__new__(Matrix)
    matrix.work = tmp_path / "matrix"
    for name in ("cache", "sdist", "wheels", "logs"):
        (matrix.work / name).mkdir(parents=True)
    matrix.clean(passed)
    assert matrix.work.exists() is not passed
    assert passed or [path.name for path in matrix.work.iterdir()] == ["logs"]


def test_constraints_name_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    version = r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [^ ].*)?|#.*"  # no hashes, no addresses, no +cpu
    assert [line for line in lines if not re.fullmatch(version, line)] == []
    pinned = re.search(r"^PINNED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pinned is not None
    assert set(pinned.group(1).split()) <= set(lines)


def test_what_builds_with_and_without_isolation_is_the_same() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    isolated, group = (
        set(re.findall(r'"([^"]+)"', re.search(rf"^{name} = \[(.*)\]$", text, re.MULTILINE).group(1)))  # type: ignore
        for name in ("requires", "build")
    )
    assert "torch>=2.11" in isolated
    assert {line for line in group if not line.startswith("pip")} == isolated
