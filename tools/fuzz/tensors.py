"""Random tensors: shapes, memory layouts, values; and copies that keep the layout."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Sizes around those at which vectors, chunks of noise and segments of sums end.
SIZES = (0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129, 257)

#: What the elements of a tensor are: most of size one, or so small or large that something may underflow or overflow.
VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda t: t,
    "zero": lambda t: t * 0,
    "small": lambda t: t * 1e-6,
    "large": lambda t: t * 50,
    "denormal": lambda t: t * torch.finfo(t.dtype).smallest_normal / 8,
    "huge": lambda t: t.sign() * torch.finfo(t.dtype).max / (2 + t.abs()),
    "strange": lambda t: torch.where(
        torch.arange(t.numel()).view(t.shape) % 5 == 3,
        torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0], dtype=t.dtype)[
            (torch.arange(t.numel()).view(t.shape) // 5) % 5
        ],
        t,
    ),
}
#: Ordinary values are drawn so often that most calls are compared in value.
WEIGHTS = {"normal": 12, "zero": 1, "small": 1, "large": 2, "denormal": 1, "huge": 1, "strange": 2}


def draw_shape(draw: random.Random, at_least: int = 0) -> tuple[int, ...]:
    """Return a shape of few elements, now and then of none."""
    dimensions = draw.choice([1, 1, 2, 2, 3, 4]) if at_least or draw.random() < 0.9 else 0
    shape: list[int] = []
    for _ in range(dimensions):
        largest = 600 // max(1, torch.Size(shape).numel())
        shape.append(draw.choice([size for size in SIZES if size <= largest] or [1]))
    return tuple(shape)


def draw_values(draw: random.Random, shape: Sequence[int], dtype: torch.dtype, kind: str = "") -> Tensor:
    """Return a contiguous tensor of one of the kinds of values above."""
    kind = kind or draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    normal = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(draw.getrandbits(32)))
    return VALUES[kind](normal.to(dtype))


def laid_out(draw: random.Random, tensor: Tensor, *, dense: bool = False, written: bool = False) -> Tensor:
    """Return the same values in another layout: in a larger memory, transposed, with gaps, or as a negated view.

    Args:
        draw: where chance comes from.
        tensor: contiguous.
        dense: without gaps; any order of the dimensions.
        written: without negated views, which cannot be written to.
    """
    kinds = ["plain", "offset", "permuted"] + ["gaps", "reversed_memory"] * (not dense)
    kind = draw.choice(kinds)
    if kind == "offset":
        memory = tensor.new_zeros(tensor.numel() + 8)
        begin = draw.randrange(1, 8)
        memory[begin : begin + tensor.numel()] = tensor.flatten()
        tensor = memory[begin : begin + tensor.numel()].view(tensor.shape)
    elif kind in ("permuted", "reversed_memory") and tensor.dim() > 1:
        order = list(range(tensor.dim()))
        draw.shuffle(order)
        inverse = [order.index(d) for d in range(tensor.dim())]
        tensor = tensor.permute(order).contiguous().permute(inverse)
    elif kind == "gaps" and tensor.dim() > 0:
        memory = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]))
        memory[..., ::2] = tensor
        tensor = memory[..., ::2]
    if not written and tensor.is_floating_point() and draw.random() < 0.1:
        tensor = torch._neg_view(torch.empty_like(tensor).copy_(-tensor) if dense else -tensor)
    return tensor


def copied(tensor: Tensor) -> Tensor:
    """Return a copy of the same values in a dense memory of the same order of dimensions, without negative bit."""
    return torch.empty_like(tensor.resolve_neg()).copy_(tensor)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether all values are the same, of whichever sign a zero is; a NaN is as good as another."""
    return (
        first.shape == second.shape
        and torch.equal(first.nan_to_num(nan=0.125), second.nan_to_num(nan=0.125))
        and (not first.is_floating_point() or torch.equal(first.isnan(), second.isnan()))
    )
