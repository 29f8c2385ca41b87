"""Choice of the device."""

from __future__ import annotations

import torch

from .._extension import cuda_module


def choose_device(device: str) -> str:
    """Return a device that exists; "auto" stands for the GPU if there is one. ValueError for any other."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() and cuda_module is not None else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"device: got {device!r}, expected auto, cpu or a GPU that torch can use ({first_line})"
        ) from error
    return device
