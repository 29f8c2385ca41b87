"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, then renames it. On an error ``path`` is as it was.

    Raises:
        OSError: the folder or the disk does not take the file; says which file, and why.
    """
    try:
        replace_by_new(path, write)
    except OSError as error:
        reason = f"could not write ({error.strerror or error}); an earlier file there is as it was"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def replace_by_new(path: Path, write: Callable[[Path], Any]) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def remove_leftovers(path: Path) -> None:
    """Deletes the temporary files in which a killed process was writing ``path``."""
    for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        with contextlib.suppress(OSError):
            leftover.unlink()
