"""Files that are either whole or not there, and folders that one process at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None

#: What numpy and zipfile raise on .npz files that are damaged or something else.
NPZ_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, OSError)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it. On an error ``path`` is as it was.

    Where ``path`` is a symbolic link, its target is replaced and the link stays. What :func:`is_stream` is written to.
    A new file has the permissions that the umask leaves, another one keeps its own.

    Raises:
        OSError: the folder or the disk does not take the file; says which file, and why.
    """
    if is_stream(path):
        write_through(path, write)
        return
    try:
        target = Path(os.path.realpath(path))
        temporary = target.parent / f".{target.stem}-{secrets.token_hex(4)}{target.suffix}"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"could not write ({error.strerror or error}); an earlier file there is as it was"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def is_stream(path: Path) -> bool:
    """Return whether a path is a device, a FIFO, a socket, or the standard output or standard error of this process.

    Such a path is no place to put a file into: what is written goes through it, and nothing lies beside it.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or standard_stream(path) is not None


def standard_stream(path: Path) -> int | None:
    """Return 1 or 2 if an existing path is the standard output or standard error of this process, else None."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def write_through(path: Path, write: Callable[[Path], Any]) -> None:
    """Write what ``write`` makes of a temporary file to a stream. OSError if the stream does not take it."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, path.name)
        write(temporary)
        descriptor = standard_stream(path)
        try:
            opened: int | Path = path if descriptor is None else os.dup(descriptor)  # which keeps its place in a file
            with open(temporary, "rb") as source, open(opened, "wb") as stream:
                shutil.copyfileobj(source, stream)
        except OSError as error:
            reason = f"could not write ({error.strerror or error})"
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
    target = Path(os.path.realpath(path))
    for leftover in target.parent.glob(f".{target.stem}-*{target.suffix}"):
        with contextlib.suppress(OSError):
            leftover.unlink()


class FolderLock:
    """A lock that one process at a time has on a folder. It leaves no file, and ends with the process at the latest.

    It is that of ``flock``. Where there is none, as on Windows and on some network file systems, every process has it.

    Args:
        folder: the folder, which need not be there before :meth:`acquire`.
        argument: the beginning of the error message.
    """

    def __init__(self, folder: Path, argument: str = "out") -> None:
        self.folder, self.argument = folder, argument
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock if the folder is there. BlockingIOError if another process has it."""
        if fcntl is None or self._descriptor is not None or not self.folder.is_dir():
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise BlockingIOError(
                    f"{self.argument}: got {str(self.folder)!r}, to which another process is writing, expected another "
                    "folder, or to wait until that process has ended"
                ) from error
        else:
            self._descriptor = descriptor

    def close(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
