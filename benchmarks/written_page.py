"""Pages that a command makes of result files, and that nothing is written into by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(path: Path, page: Callable[[], str], description: str | None) -> None:
    """The command line of such a page: writes it, or with --check fails where it differs.

    Args:
        path: of the page.
        page: its text, from the result files.
        description: of the command.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="fail where the page differs; write nothing")
    if not parser.parse_args().check:
        path.write_text(page())
    elif page() != path.read_text():
        sys.exit(f"{path}: not of the result files beside it; run python {sys.argv[0]}")
