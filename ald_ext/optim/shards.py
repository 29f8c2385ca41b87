"""Shards: which elements of the whole parameter the tensors of this process hold.

Note [Shards]
    A step is made on the tensors that a process has, with the noise of the elements' places in the whole parameter. So
    the result does not depend on how many processes share a parameter, and how. A shard of a DTensor is described by
    torch's own code of placements, applied to the indices of each dimension, once for each parameter; a shard of
    FullyShardedDataParallel's flat parameters by what :func:`ald_ext.name_parameters` found in the model.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Piece(NamedTuple):
    """Elements ``begin`` to ``end`` of a local tensor, in memory order, and the indices that they have in the whole:
    element i of the piece is offset + (i // row_length)·row_stride + i % row_length, or offset + i without rows."""

    begin: int
    end: int
    offset: int
    row_length: int = 0
    row_stride: int = 0
    identity: int | None = None  # that of the parameter, unless it is one of several in a flat parameter


def is_dtensor(tensor: Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # importing it takes longer than torch itself
    return module is not None and isinstance(tensor, module.DTensor)


def is_shard(param: Tensor) -> bool:
    """True if a parameter is more, or less, than an ordinary tensor."""
    return is_dtensor(param) or hasattr(param, "_ald_ext_pieces") or getattr(param, "_fsdp_flattened", False)


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that this process has; another tensor as it is."""
    if is_dtensor(tensor):
        tensor = tensor.to_local()  # type: ignore[attr-defined]
        return tensor.wait() if hasattr(tensor, "wait") else tensor
    return tensor


def pieces_of(param: Tensor) -> tuple[Piece, ...]:
    """What the local tensor of a parameter holds."""
    known: Any = getattr(param, "_ald_ext_pieces", None)
    if not is_dtensor(param):
        return (Piece(0, param.numel(), 0),) if known is None else known
    if known is None or known[0] is not param.placements:  # type: ignore[attr-defined]
        known = (param.placements, tuple(as_pieces(*dtensor_runs(param))))  # type: ignore[attr-defined]
        param._ald_ext_pieces = known  # type: ignore[attr-defined]
    return known[1]


def dtensor_runs(param: Any) -> tuple[Tensor, Tensor]:
    """First global index and length of each range of a DTensor's shard that is one range of the whole tensor.

    Raises:
        RuntimeError: the shard is not what the placements say.
    """
    mesh, dims = param.device_mesh, range(param.dim())
    coordinate = mesh.get_coordinate()
    if coordinate is None:  # this process is no part of the mesh
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    indices = [torch.arange(size).view([-1 if d == e else 1 for e in dims]) for d, size in enumerate(param.shape)]
    for mesh_dim, placement in enumerate(param.placements):
        if placement.is_replicate():
            continue
        dim = getattr(placement, "dim", None)
        if dim is None:
            raise RuntimeError(f"ald_ext: got a parameter placed {placement}, expected Shard or Replicate")
        parts, _ = placement._split_tensor(indices[dim], mesh.size(mesh_dim), with_padding=False)
        place = coordinate[mesh_dim]
        indices[dim] = parts[place] if place < len(parts) else indices[dim].narrow(dim, 0, 0)
    expected = tuple(index.numel() for index in indices)
    if tuple(local(param).shape) != expected:
        raise RuntimeError(
            f"ald_ext: got a shard of shape {tuple(local(param).shape)} of a DTensor of shape {tuple(param.shape)} "
            f"placed {param.placements}, expected {expected}"
        )
    last = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
    if 0 < param.numel() <= last:
        raise RuntimeError(
            f"ald_ext: got a DTensor of shape {tuple(param.shape)} with strides {param.stride()}, expected no gaps"
        )
    starts, lengths = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    for dim in sorted(dims, key=local(param).stride):  # the innermost in this process's memory first
        offsets = indices[dim].flatten() * param.stride(dim)
        starts = (offsets[:, None] + starts).flatten()
        starts, lengths = joined(starts, lengths.repeat(len(offsets)))
    return starts, lengths


def joined(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges in their order, those that continue the one before joined to it."""
    if not len(starts):
        return starts, lengths
    begins = torch.cat([torch.ones(1, dtype=torch.bool), starts[1:] != starts[:-1] + lengths[:-1]])
    run = begins.cumsum(0) - 1
    return starts[begins], torch.zeros(int(run[-1]) + 1, dtype=torch.int64).index_add_(0, run, lengths)


def as_pieces(starts: Tensor, lengths: Tensor) -> list[Piece]:
    """Ranges as few pieces: ranges of one length at one distance, the last of which may be shorter, are rows of one."""
    pieces: list[Piece] = []
    ends = lengths.cumsum(0).tolist()
    steps, sizes = (starts[1:] - starts[:-1]), lengths
    # Where range i cannot be a further row of the piece that holds the two before it.
    breaks = torch.ones(len(starts) + 1, dtype=torch.bool)
    if len(starts) > 2:
        breaks[2:-1] = (steps[1:] != steps[:-1]) | (sizes[1:-1] != sizes[:-2]) | (sizes[2:] > sizes[1:-1])
    places = breaks.nonzero().flatten().tolist()
    first = 0
    while first < len(starts):
        length, last = int(sizes[first]), first + 1
        stride = int(steps[first]) if last < len(starts) else 0
        if last < len(starts) and stride >= length >= int(sizes[last]):
            last = places[bisect_right(places, last)]
        begin = ends[first] - length
        rows = (length, stride) if last - first > 1 else (0, 0)
        pieces.append(Piece(begin, ends[last - 1], int(starts[first]), *rows))
        first = last
    return pieces


def record_flat_shards(module: nn.Module, prefix: str, identity: Callable[[str], int]) -> None:
    """Note on the parameters of a module of FullyShardedDataParallel what this process holds of them."""
    flat_param: Any = getattr(getattr(module, "_handle", None), "flat_param", None)
    if flat_param is None:
        return
    pieces = [
        Piece(info.offset_in_shard, info.offset_in_shard + info.numel_in_shard, info.intra_param_start_idx)
        if info.in_shard
        else None
        for info in flat_param._shard_param_infos
    ]
    if flat_param._params is None:  # use_orig_params=False: the flat parameter is what the optimizer sees
        named = zip(pieces, flat_param._fqns, strict=True)
        recorded = [piece._replace(identity=identity(prefix + name)) for piece, name in named if piece]
        flat_param._ald_ext_pieces = tuple(recorded)
        return
    for param, piece in zip(flat_param._params, pieces, strict=True):
        param._ald_ext_pieces = (Piece(0, piece.end - piece.begin, piece.offset),) if piece else ()
