"""The arrays of .npz and .npy files, checked before memory is taken for them; no code of a file is run."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from ..settings import require
from .image_files import evident_fault, shorten

#: What is unpacked may take this many bytes, or this many times the bytes of the file, whichever is more.
ALWAYS_UNPACKED, UNPACKED_RATIO = 2**30, 100
#: The record at the end of a .npz file, of which the number of members is read, and that number where it is elsewhere.
END_OF_DIRECTORY, ZIP64 = struct.Struct("<10xH10x"), 0xFFFF
HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: its form, and a function that reads it, which raises a ValueError for Python objects."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def largest_unpacked(path: Path) -> int:
    """Return the number of bytes that may be made from a file."""
    return max(ALWAYS_UNPACKED, UNPACKED_RATIO * path.stat().st_size)


def check_size(place: str, size: int, path: Path, what: str, remedy: str) -> None:
    """Raise a ValueError for more bytes than may be made from a file."""
    limit = largest_unpacked(path)
    expected = f"at most {limit / 2**30:.3g} GiB, the larger of 1 GiB and {UNPACKED_RATIO} times the size of the file"
    require(size <= limit, place, f"{size / 2**30:.3g} GiB {what}", f"{expected}; {remedy}")


@contextlib.contextmanager
def stored_arrays(path: Path, place: str) -> Iterator[dict[str, StoredArray]]:
    """Provide the arrays of a .npz file by their keys, or that of a .npy file with the key "", while it is open.

    Every checksum of a .npz file is compared, and what headers declare with the bytes that there are.

    Args:
        path: a file that exists.
        place: the beginning of error messages.

    Raises:
        ValueError: the file is damaged, of another kind, or would unpack to too many bytes.
    """
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            file.seek(0)
            array = stored_array(partial(open_again, file), path.stat().st_size, place)
            yield {"": array}
            return
        with contextlib.ExitStack() as stack:
            with damage_named(path, place):
                archive = stack.enter_context(zipfile.ZipFile(file))
            size = sum(member.file_size for member in archive.infolist())
            check_size(place, size, path, "unpacked", "numpy.savez saves more, unpacked")
            with damage_named(path, place):
                damaged = archive.testzip()
            if damaged is not None:
                raise unreadable(place, f"a wrong checksum of {damaged}")
            members = {member.filename: member for member in archive.infolist()}
            require(len(members) == len(archive.infolist()), place, "two arrays of one name", "different names")
            file.seek(-(END_OF_DIRECTORY.size + len(archive.comment)), os.SEEK_END)
            count = END_OF_DIRECTORY.unpack(file.read(END_OF_DIRECTORY.size))[0]
            if len(members) != count < ZIP64:
                raise unreadable(place, f"a directory of {len(members)} arrays, and not {count}")
            yield {
                key: stored_array(partial(archive.open, f"{key}.npy"), member.file_size, f"{place}: {key}")
                for name, member in members.items()
                if (key := name.removesuffix(".npy")) != name
            }


@contextlib.contextmanager
def damage_named(path: Path, place: str) -> Iterator[None]:
    """Turn what zipfile raises on a damaged file into a ValueError."""
    try:
        yield
    except Exception as error:  # decompressors and zipfile raise nearly anything: zlib.error, LZMAError, struct.error
        raise unreadable(place, evident_fault(path) or shorten(str(error))) from error


@contextlib.contextmanager
def open_again(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Provide an open file from its beginning."""
    file.seek(0)
    yield file


def stored_array(
    opened: Callable[[], contextlib.AbstractContextManager[IO[bytes]]], size: int, place: str
) -> StoredArray:
    """Return the array of a file in the format .npy that has ``size`` bytes. ValueError if its header does not fit."""
    with opened() as file:
        try:
            shape, _, dtype = HEADER_READERS[np.lib.format.read_magic(file)](file)
            if any(type(length) is not int or length < 0 for length in shape):  # True is an int to numpy's reader
                raise ValueError(f"shape {shape}")
        except Exception as error:  # numpy raises nearly anything: TokenError, SyntaxError, KeyError, MemoryError
            raise unreadable(place, f"no header of an array ({type(error).__name__})") from error
        declared = file.tell() + math.prod(shape) * dtype.itemsize
        declares = f"{declared}, as its header declares {dtype} of shape {shape}"
        require(declared == size or dtype.hasobject, place, f"{size} bytes", declares)

    def read() -> np.ndarray:
        require(not dtype.hasobject, place, "Python objects, which are not unpickled", "an array of numbers")
        with opened() as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return StoredArray(shape, dtype, read)


def unreadable(place: str, reason: str) -> ValueError:
    """Return the error for a file that cannot be read."""
    return ValueError(f"{place}: is corrupt, truncated or no .npz or .npy file ({reason})")
