"""The command ``ald-ext``. Needs the extra "train"."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

#: Errors that the user can mend; they are shown as one line, without a traceback.
EXPECTED_ERRORS = (ValueError, OSError, ImportError)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show each UserWarning as the line "ald-ext: warning: TEXT", of several processes only the first one's."""
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *arguments: Any, **options: Any) -> None:
            if not issubclass(category, UserWarning):
                show_others(message, category, *arguments, **options)
            elif os.environ.get("RANK", "0") == "0":
                print("ald-ext: warning:", " ".join(str(message).split()), file=sys.stderr)

        warnings.showwarning = show
        yield


def main() -> None:
    """Run the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where a locale has only ASCII, a letter must not end the command
            stream.reconfigure(errors="replace")
    try:
        from .commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"ald-ext: {error}. The command line needs the extra 'train': pip install 'ald_ext[train]'")
    from ..training import TrainingDivergedError, TrainingInterrupted

    try:
        with warnings_as_lines():
            app()
    except TrainingInterrupted as interruption:
        print(f"ald-ext: {interruption}", file=sys.stderr)
        sys.exit(128 + interruption.signal_number)
    except (*EXPECTED_ERRORS, TrainingDivergedError) as error:
        sys.exit(f"ald-ext: {error}")
