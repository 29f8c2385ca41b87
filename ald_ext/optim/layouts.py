"""Strides and memory of the tensors of a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """True if the elements fill one range of memory: only then does a new tensor like it get its strides."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def in_layout_of(tensor: Tensor, param: Tensor) -> Tensor:
    """A gradient or state with the parameter's strides; a copy where they differ: one pass needs one order."""
    if tensor.stride() == param.stride():
        return tensor
    return torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)


def share_memory(written: Iterable[Tensor], read: Iterable[Tensor]) -> bool:
    """True if a step that writes to some tensors and reads others writes to memory twice, or to what it reads."""
    ranges = [(*memory_range(tensor), True) for tensor in written]
    ranges += [(*memory_range(tensor), False) for tensor in read]
    written_end = read_end = 0
    for begin, end, is_written in sorted(ranges):
        if begin < end and (begin < written_end or (is_written and begin < read_end)):
            return True
        if is_written:
            written_end = max(written_end, end)
        else:
            read_end = max(read_end, end)
    return False


def memory_range(tensor: Tensor) -> tuple[int, int]:
    """Addresses of a tensor that fills its memory; empty where it has none."""
    begin = tensor.data_ptr() if tensor.device.type != "meta" else 0
    return begin, begin + tensor.numel() * tensor.element_size() if begin else 0


def memory_order(tensor: Tensor, begin: int, end: int) -> Tensor:
    """Elements ``begin`` to ``end`` of a tensor that fills its memory, in the order in which they lie there."""
    return tensor.as_strided((end - begin,), (1,), tensor.storage_offset() + begin)
