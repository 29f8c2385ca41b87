"""Draws in .npy files, mapped into memory."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..settings import require, shortened

#: What numpy raises on files that are damaged or something else.
NPY_DAMAGE = (ValueError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError, RecursionError)


def map_draws(path: Path, argument: str, mode: Literal["r+", "c"]) -> np.memmap[Any, Any]:
    """Map a .npy file of draws into memory, after its header was compared with its length; nothing is written.

    Args:
        path: the file.
        argument: the beginning of error messages.
        mode: "r+" or "c", as of numpy.memmap.

    Raises:
        ValueError: not a whole .npy file, or not of real numbers, (draws, n, d) or (draws, n, chains, d).
        OSError: the file cannot be read.
    """
    try:
        found = np.lib.format.open_memmap(path, mode="r")
        torch.from_numpy(np.empty(0, found.dtype))
    except (*NPY_DAMAGE, tokenize.TokenError) as error:
        reason = shortened(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(f"{argument}: {path.name}: got a damaged file ({reason}), expected draws in .npy") from error
    size, length = found.offset + found.nbytes, path.stat().st_size
    require(size == length, f"{argument}: {path.name}", f"{length} bytes", f"{size}, as its header says")
    kind = f"shape {found.shape}, dtype {found.dtype}, {'C' if found.flags.c_contiguous else 'Fortran'} order"
    fits = found.ndim in (3, 4) and found.dtype.kind == "f" and found.flags.c_contiguous
    expected = "(draws, n, d) or (draws, n, chains, d) of floats in C order"
    require(fits, f"{argument}: {path.name}", kind, expected)
    return np.memmap(path, found.dtype, mode, found.offset, found.shape)
