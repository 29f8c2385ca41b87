"""Which streams of noise are looked at, and which of them are compared."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ald_ext import reference

#: Elements that one key gives: a sorted batch and what is computed from it stay near the caches.
BATCH = 2**20
MAX_SEED = 2**63 - 1

#: ald_ext.ops.normal, or what is to be tested in its place.
Normal = Callable[..., Tensor]


@dataclass(frozen=True)
class NoiseKey:
    """Where a stream of normals begins."""

    seed: int
    step: int
    parameter: int
    offset: int = 0

    def draw(self, normal: Normal, n: int, dtype: torch.dtype) -> Tensor:
        return normal(n, **asdict(self), dtype=dtype, device="cpu")


def key_of_batch(number: int) -> NoiseKey:
    """Eight parameters, within 32 steps from 1 on, within seeds from 0 on; every fourth near the largest there are."""
    parameter, step, seed = number % 8, 1 + number // 8 % 32, number // 256
    if number % 4 < 3:
        return NoiseKey(seed, step, parameter)
    return NoiseKey(
        MAX_SEED - 2**16 + seed,
        reference.MAX_STEP - 64 + step,
        reference.MAX_PARAMETER - 64 + parameter,
        reference.MAX_ELEMENTS - 2 * BATCH,
    )


@dataclass(frozen=True)
class Relation:
    """Streams that should have nothing in common: that of a key, and that of ``partner(key)``, if this is a key.

    No unordered pair comes twice among those of :func:`key_of_batch`, so that all products are uncorrelated.
    """

    name: str
    partner: Callable[[NoiseKey], NoiseKey | None]


def neighbour(**increments: int) -> Relation:
    name = " and ".join(f"{field} + {value}" for field, value in increments.items())
    return Relation(
        name, lambda key: replace(key, **{field: getattr(key, field) + value for field, value in increments.items()})
    )


def flipped_bit(field: str, bit: int) -> Relation:
    return Relation(f"{field} xor 2^{bit}", lambda key: replace(key, **{field: getattr(key, field) ^ 1 << bit}))


def exchanged(larger: str, smaller: str) -> Relation:
    """Pairs of keys with two values exchanged, each once: ``larger`` is larger and may stand in the other's place."""

    def partner(key: NoiseKey) -> NoiseKey | None:
        values = getattr(key, larger), getattr(key, smaller)
        fits = values[1] < values[0] <= reference.MAX_STEP
        return replace(key, **{larger: values[1], smaller: values[0]}) if fits else None

    return Relation(f"{larger} and {smaller} exchanged", partner)


NEIGHBOURS = (neighbour(step=1), neighbour(parameter=1), neighbour(seed=1))
DISTANT = (
    neighbour(seed=1, step=1),
    neighbour(step=1, parameter=1),
    neighbour(offset=BATCH),
    exchanged("step", "parameter"),
    exchanged("step", "seed"),
    # High words begin at bit 32; the last bits are the highest there are. Blocks of four elements begin one at bit 34.
    *(flipped_bit("seed", bit) for bit in (16, 31, 32, 48, 62)),
    *(flipped_bit("step", bit) for bit in (8, 31, 32, 39)),
    *(flipped_bit("parameter", bit) for bit in (8, 31, 32, 43)),
    *(flipped_bit("offset", bit) for bit in (24, 31, 32, 34, 40)),
)
