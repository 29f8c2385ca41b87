"""Progress bars that suit a terminal and a log file."""

from __future__ import annotations

import sys


def progress_interval() -> float:
    """Seconds between two updates of the progress bar: a terminal overwrites them, a log file keeps them all."""
    return 0.1 if sys.stderr.isatty() else 10.0
