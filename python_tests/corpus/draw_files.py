"""Files and states of collected draws that were damaged, or are something else: each has to be refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def npy(array: np.ndarray) -> bytes:
    """The array as a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(header: str) -> Callable[[bytes], bytes]:
    """The same numbers with another header of the same kind of file."""
    text = header.encode("latin-1") + b"\n"
    return lambda whole: whole[:8] + len(text).to_bytes(2, "little") + text + whole[128:]


def described(shape: str, dtype: str = "'<f4'", fortran: bool = False) -> Callable[[bytes], bytes]:
    """The same numbers with a header that describes them so."""
    return with_header(f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}")


def as_zip(whole: bytes) -> bytes:
    """The file in a zip archive, as numpy.savez writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("draws.npy", whole)
    return file.getvalue()


#: What a whole .npy file of float32 draws (6, 2, 3, 4) becomes.
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "magic number only": lambda whole: whole[:8],
    "half of the header": lambda whole: whole[:64],
    "without numbers": lambda whole: whole[:128],
    "a byte short": lambda whole: whole[:-1],
    "half of the numbers": lambda whole: whole[: 128 + (len(whole) - 128) // 2],
    "longer": lambda whole: whole + bytes(16),
    "twice": lambda whole: whole + whole,
    "a flipped bit in the magic number": lambda whole: bytes([whole[0] ^ 1]) + whole[1:],
    "one more row in the header": described("(7, 2, 3, 4)"),
    "one row less in the header": described("(5, 2, 3, 4)"),
    "95 GiB in the header": described("(10000000000, 2, 3, 4)"),
    "more than int64 in the header": described("(99999999999999999999999, 2, 3, 4)"),
    "a negative shape": described("(-6, 2, -3, 4)"),
    "a fractional shape": described("(6, 2, 3.0, 4)"),
    "no draws": described("(0, 2, 3, 4)"),
    "another byte order": described("(6, 2, 3, 4)", "'>f4'"),
    "integers": described("(6, 2, 3, 4)", "'<i4'"),
    "complex numbers": described("(6, 2, 3, 2)", "'<c8'"),
    "records": described("(6, 2, 3, 4)", "[('a', '<f4')]"),
    "Fortran order": described("(6, 2, 3, 4)", fortran=True),
    "two dimensions": described("(6, 24)"),
    "five dimensions": described("(6, 2, 3, 2, 2)"),
    "a header that is no Python": with_header("(((("),
    "a deep header": with_header("[" * 9000),
    "a header that is no dictionary": with_header("[1, 2]"),
    "objects": lambda whole: npy(np.array([[[{"a": 1}]]])),
    "a pickle": lambda whole: pickle.dumps([1.0, 2.0]),
    "a zip archive": as_zip,
    "text": lambda whole: b"<html>not found</html>\n" * 20,
}

#: Other whole files, which are not the storage's own.
OTHER_FILES: dict[str, np.ndarray] = {
    "fewer rows": np.ones((3, 2, 3, 4), np.float32),
    "more rows": np.ones((9, 2, 3, 4), np.float32),
    "other data": np.ones((6, 3, 2, 4), np.float32),
    "no chains": np.ones((6, 2, 4), np.float32),
    "another dtype": np.ones((6, 2, 3, 4), np.float64),
    "half precision": np.ones((6, 2, 3, 4), np.float16),
}

#: Changes of the state of a storage in memory that holds six float32 draws (2, 3, 4), with what is said of them.
STATES: dict[str, tuple[dict[str, Any], str]] = {
    "more than there are": ({"count": 100}, r"state: count: got 100 of 6 draws"),
    "fewer than there are": ({"count": 2}, r"state: count: got 2 of 6 draws"),
    "a negative number": ({"count": -1}, r"state: count: got -1 of 6 draws"),
    "none, but draws": ({"count": 0}, r"state: count: got 0 of 6 draws"),
    "a text": ({"count": "6"}, r"state: count: got '6', expected int"),
    "no draws": ({"samples": None}, r"state: got no draws, expected draws, or path="),
    "a list": ({"samples": [1.0]}, r"state: samples: got \[1.0\], expected Tensor or None"),
    "of no data": ({"samples": torch.ones(6, 4)}, r"state: got draws of shape \(6, 4\)"),
    "on no device": ({"samples": torch.ones(6, 2, 3, 4, device="meta")}, r"state: samples: got .* on meta"),
    "sparse": ({"samples": torch.ones(6, 2, 3, 4).to_sparse()}, r"state: samples: got sparse_coo"),
    "divergences on no device": (
        {"diverging": torch.ones(6, 2, 3, dtype=torch.bool, device="meta")},
        r"state: diverging: got",
    ),
    "divergences of others": ({"diverging": torch.ones(6, 3, dtype=torch.bool)}, r"state: diverging: got"),
    "an unknown entry": ({"_grow": 1}, r"state: got '_grow', expected some of"),
}
