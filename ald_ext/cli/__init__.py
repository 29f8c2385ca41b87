"""The command ``ald-ext``. Needs the extra "train"."""

from __future__ import annotations

import sys

#: Errors that the user can mend; they are shown as one line, without a traceback.
EXPECTED_ERRORS = (ValueError, OSError, ImportError)


def main() -> None:
    """Run the console script."""
    try:
        from .commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"ald-ext: {error}. The command line needs the extra 'train': pip install 'ald_ext[train]'")
    from ..training import TrainingDivergedError, TrainingInterrupted

    try:
        app()
    except TrainingInterrupted as interruption:
        print(f"ald-ext: {interruption}", file=sys.stderr)
        sys.exit(128 + interruption.signal_number)
    except (*EXPECTED_ERRORS, TrainingDivergedError) as error:
        sys.exit(f"ald-ext: {error}")
