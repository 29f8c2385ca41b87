"""What a case and its variants are, and what the batch cases share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], Any]


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


def batch_dimensions(quick: bool) -> tuple[int, ...]:
    """Values of a datum: MNIST, a multiple of every vector length, and 32 x 32 colour images."""
    return (784,) if quick else (784, 1024, 3072)


def check_close(expected: Callable[[Any], Any], inputs: Any, run: Run) -> None:
    """The result is the expected one, which is computed in float64, to 1%."""
    torch.testing.assert_close(run(), expected(inputs), rtol=1e-2, atol=1e-5, check_dtype=False)
