"""The tensors of a step, gathered from parameters that may be shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .layouts import memory_order
from .shards import local, pieces_of


class StepLists(NamedTuple):
    """Parameters that have a gradient, with the index of each one's noise; a list of states for each of the names."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    noise_ids: list[int]
    #: Where the elements lie in the whole parameter: Note [Shards]. Empty: each tensor is a whole parameter.
    offsets: Sequence[int] = ()
    row_lengths: Sequence[int] = ()
    row_strides: Sequence[int] = ()

    def places(self) -> dict[str, Sequence[int]]:
        """The last three, as the ops call them."""
        return {"offsets": self.offsets, "row_lengths": self.row_lengths, "row_strides": self.row_strides}


def of_this_process(lists: StepLists) -> StepLists | None:
    """The local tensors of parameters that are shards, with the places of their elements.

    None if a gradient or state has other strides than its parameter, so that no part of it could be taken alike.
    """
    result = StepLists([], [], [[] for _ in lists.states], [])
    offsets, row_lengths, row_strides = [], [], []
    for whole in zip(lists.params, lists.grads, *lists.states, lists.noise_ids, strict=True):
        *tensors, noise_id = whole
        pieces = pieces_of(tensors[0])
        tensors = [local(tensor) for tensor in tensors]
        for piece in pieces:
            parts = tensors
            if piece.end - piece.begin != tensors[0].numel():
                if any(tensor.stride() != tensors[0].stride() for tensor in tensors):
                    return None
                parts = [memory_order(tensor, piece.begin, piece.end) for tensor in tensors]
            for target, part in zip((result.params, result.grads, *result.states), parts, strict=True):
                target.append(part)
            result.noise_ids.append(noise_id if piece.identity is None else piece.identity)
            offsets.append(piece.offset)
            row_lengths.append(piece.row_length)
            row_strides.append(piece.row_stride)
    return result._replace(offsets=offsets, row_lengths=row_lengths, row_strides=row_strides)
