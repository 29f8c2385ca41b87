"""Draws in .npy files, mapped into memory."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..settings import require, shortened

#: What numpy raises on files that are damaged or something else.
NPY_DAMAGE = (
    ValueError,
    EOFError,
    TypeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
)


def map_draws(path: Path, argument: str, mode: Literal["r+", "c"], writer: str) -> np.memmap[Any, Any]:
    """Map a .npy file of draws into memory, after its header was compared with its length; nothing is written.

    Args:
        path: the file.
        argument: the beginning of error messages.
        mode: that of numpy.memmap.
        writer: what writes such files, for error messages.

    Raises:
        ValueError: not a whole .npy file, or not of floats, (draws, n, d) or (draws, n, chains, d).
        OSError: the file cannot be read.
    """
    argument, expected = f"{argument}: {path.name}", f"one that {writer} wrote"
    try:
        found = np.lib.format.open_memmap(path, mode="r")
        torch.from_numpy(np.empty(0, found.dtype))
    except NPY_DAMAGE as error:
        reason = shortened(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(f"{argument}: got a damaged file ({reason}), expected {expected}") from error
    size, length = found.offset + found.nbytes, path.stat().st_size
    require(size == length, argument, f"a damaged file ({length} bytes, its header says {size})", expected)
    order = "" if found.flags.c_contiguous else ", in Fortran order"
    fits = found.ndim in (3, 4) and found.dtype.kind == "f" and not order
    require(fits, argument, f"shape {found.shape}, {found.dtype}{order}", expected)
    return np.memmap(path, found.dtype, mode, found.offset, found.shape)
