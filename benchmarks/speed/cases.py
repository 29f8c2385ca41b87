"""What a case of an op and its variants are, and what the families share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..harness import Case, Key
from ..measurement import Run, Samples, quantiles
from ..names import BACKWARD, COPY, FORWARD, OURS

Shape = tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """One way to compute something.

    Attributes:
        name: as in the tables.
        bytes_per_element: what the computation must read and write at the least, whatever this variant moves.
        prepare: from the case's inputs, allocates what the variant keeps and returns the callable to be timed.
        check: raises AssertionError if a newly prepared callable computes something else than expected.
        over: the variants of whose time its own is told as a multiple.
    """

    name: str
    bytes_per_element: int
    prepare: Callable[[Any], Run]
    check: Callable[[Any, Run], None]
    over: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpeedCase(Case):
    """A problem of one size, with the variants that solve it, which share its inputs."""

    family: str
    size: str
    elements: int
    make_inputs: Callable[[], Any]
    variants: Sequence[Variant]

    @property
    def sizes(self) -> list[str]:  # type: ignore[override]
        return [self.size]

    def prepare(self, variant: Variant, inputs: Any) -> Run:
        """The variant's callable, found right."""
        run = variant.prepare(inputs)
        variant.check(inputs, run)
        return run

    def preparations(self) -> Mapping[Key, Callable[[], Run]]:
        inputs = self.make_inputs()
        return {(self.size, variant.name): partial(self.prepare, variant, inputs) for variant in self.variants}

    def row(self, key: Key, samples: Samples) -> dict[str, Any]:
        bytes_per_element = next(variant.bytes_per_element for variant in self.variants if variant.name == key[1])
        return {
            "elements": self.elements,
            "ns_per_element": quantiles([seconds / self.elements * 1e9 for seconds in samples.seconds]),
            "bytes_per_element": bytes_per_element,
            "gb_per_s": bytes_per_element * self.elements / quantiles(samples.seconds)["median"] / 1e9,
        }

    def ratios(self) -> list[tuple[Key, Key]]:
        return [((self.size, variant.name), (self.size, below)) for variant in self.variants for below in variant.over]


def shape_cases(
    family: str,
    shapes: Mapping[str, Shape],
    device: torch.device,
    make_inputs: Callable[[Shape, torch.device], Any],
    variants: Sequence[Variant],
) -> list[SpeedCase]:
    """A case for each shape."""
    return [
        SpeedCase(family, size, shape[0] * shape[1], partial(make_inputs, shape, device), variants)
        for size, shape in shapes.items()
    ]


def check_close(expected: Callable[[Any], Any], inputs: Any, run: Run) -> None:
    """The result is the expected one, which is computed in float64, to 1%."""
    torch.testing.assert_close(run(), expected(inputs), rtol=1e-2, atol=1e-5, check_dtype=False)


def copy_variant(sources_of: Callable[[Any], Sequence[Tensor]], item_bytes: int = 4) -> Variant:
    """`copy_` of a case's tensors, in alternation with the others: what the memory gives at this size and moment."""

    def prepare(inputs: Any) -> Run:
        pairs = [(torch.zeros_like(source), source) for source in sources_of(inputs)]
        return lambda: [target.copy_(source) for target, source in pairs]

    def check(inputs: Any, run: Run) -> None:
        torch.testing.assert_close(run(), list(sources_of(inputs)), rtol=0, atol=0)

    return Variant(COPY, 2 * item_bytes, prepare, check, (OURS, FORWARD, BACKWARD))
