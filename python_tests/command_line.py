"""The command ald-ext in the process of the tests."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from ald_ext.cli import main


@dataclass
class Result:
    """What a user sees of a command."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path) -> Result:
    """Runs the entry point in this process: importing torch anew for every command would take most of the time."""
    output, errors = io.StringIO(), io.StringIO()
    original = sys.argv
    sys.argv = ["ald-ext", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = original
    if isinstance(code, str):  # sys.exit("message")
        return Result(1, output.getvalue(), errors.getvalue() + code)
    return Result(int(code or 0), output.getvalue(), errors.getvalue())
