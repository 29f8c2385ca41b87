"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What numpy and zipfile raise on .npz files that are damaged or something else.
NPZ_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, OSError)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it. On an error ``path`` is as it was.

    Raises:
        OSError: the folder or the disk does not take the file; says which file, and why.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"could not write ({error.strerror or error}); an earlier file there is as it was"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, whole or not at all, with null for numbers that are not finite. OSError if not."""
    write_atomically(path, lambda file: file.write_text(json.dumps(finite_only(values), indent=2) + "\n"))


def finite_only(value: Any) -> Any:
    """Return plain values with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files in which a killed process was writing ``path``."""
    for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        with contextlib.suppress(OSError):
            leftover.unlink()
