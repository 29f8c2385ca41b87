"""What a case and its variants are, and what the batch cases share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from names import COPY, GIGABYTE, GIGABYTE_SHAPE, MILLION_SHAPES
from torch import Tensor

Run = Callable[[], Any]
Shape = tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """One way to compute something.

    Attributes:
        name: as in the tables.
        bytes_per_element: what the computation must read and write at the least, whatever this variant moves.
        prepare: from the case's inputs, allocates what the variant keeps and returns the callable to be timed.
        check: raises AssertionError if a newly prepared callable computes something else than expected.
    """

    name: str
    bytes_per_element: int
    prepare: Callable[[Any], Run]
    check: Callable[[Any, Run], None]


@dataclass(frozen=True)
class Case:
    """A problem of one size, with the variants that solve it, which share its inputs."""

    family: str
    size: str
    elements: int
    make_inputs: Callable[[], Any]
    variants: Sequence[Variant]

    def new_inputs(self) -> Any:
        # Else the guards of what was compiled for other sizes would be tried first, at every call.
        torch._dynamo.reset()
        return self.make_inputs()

    def prepare(self, variant: Variant, inputs: Any) -> Run:
        """The variant's callable, found right."""
        run = variant.prepare(inputs)
        variant.check(inputs, run)
        return run


BATCH = 500


def batch_shapes(device: torch.device, quick: bool) -> dict[str, Shape]:
    """Of MNIST, of a multiple of every vector length, of 32 x 32 colour images; on CUDA a gigabyte of these."""
    dimensions = (784,) if quick else (784, 1024, 3072)
    shapes = {f"{BATCH} x {dimension}": (BATCH, dimension) for dimension in dimensions}
    if device.type == "cuda" and not quick:
        shapes[GIGABYTE] = GIGABYTE_SHAPE
    return shapes


def odd_shapes(quick: bool) -> dict[str, Shape]:
    """From one long row to a million short ones, and the smallest, which show the fixed cost of a call."""
    shapes = {"1 x 1": (1, 1), "1 x 64": (1, 64), **MILLION_SHAPES}
    return {size: shapes[size] for size in ("1 x 64", "1e5 x 10")} if quick else shapes


def shape_cases(
    family: str,
    shapes: Mapping[str, Shape],
    device: torch.device,
    make_inputs: Callable[[Shape, torch.device], Any],
    variants: Sequence[Variant],
) -> list[Case]:
    """A case for each shape."""
    return [
        Case(family, size, shape[0] * shape[1], partial(make_inputs, shape, device), variants)
        for size, shape in shapes.items()
    ]


def check_close(expected: Callable[[Any], Any], inputs: Any, run: Run) -> None:
    """The result is the expected one, which is computed in float64, to 1%."""
    torch.testing.assert_close(run(), expected(inputs), rtol=1e-2, atol=1e-5, check_dtype=False)


def copy_variant(sources_of: Callable[[Any], Sequence[Tensor]], item_bytes: int = 4) -> Variant:
    """`copy_` of a case's tensors, in alternation with the others: what the memory gives at this size and moment."""

    def prepare(inputs: Any) -> Run:
        pairs = [(torch.zeros_like(source), source) for source in sources_of(inputs)]

        def run() -> list[Tensor]:
            return [target.copy_(source) for target, source in pairs]

        return run

    def check(inputs: Any, run: Run) -> None:
        torch.testing.assert_close(run(), list(sources_of(inputs)), rtol=0, atol=0)

    return Variant(COPY, 2 * item_bytes, prepare, check)
