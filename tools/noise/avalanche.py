"""Avalanche (Webster & Tavares 1985): a flipped bit of the noise key flips each bit of a block with probability 1/2.

Blocks are those of the key that is zero otherwise, the least random there is: counters 0, 3, 5, 6, …, whose number of
set bits is even. A flip makes it odd, so that no difference of two blocks is counted twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .null_distributions import binomial_two_sided, largest_of
from .tallies import Outcome

OUTPUT_BITS = 128
#: Philox blocks of counters of four words and a key of two: ald_ext.reference.philox.
Philox = Callable[[Sequence[Tensor], tuple[int, int]], Sequence[Tensor]]
Bits = npt.NDArray[np.uint8]

#: Words of counter and key, in this order, and the bits of each that belong to a field (csrc/math/normal.h, Note [Noise
#: layout]). Elements enter by the number of their block; seeds are below 2^63.
FIELDS: dict[str, tuple[tuple[int, range], ...]] = {
    "element": ((0, range(32)), (3, range(8))),
    "step": ((1, range(32)), (3, range(8, 16))),
    "parameter": ((2, range(32)), (3, range(16, 28))),
    "seed": ((4, range(32)), (5, range(31))),
}
NUMBER_OF_FLIPS = sum(len(bits) for parts in FIELDS.values() for _, bits in parts)


def avalanche_outcomes(philox: Philox, blocks: int, progress: Callable[[int], object]) -> list[Outcome]:
    """Three tests for each field. ``progress`` is told of every flipped bit."""
    words = [even_parity_counters(blocks), *(torch.zeros(blocks, dtype=torch.int64) for _ in range(3))]
    base = output_bits(philox, words, (0, 0))
    outcomes = []
    for field in FIELDS:
        flips, distances = [], np.zeros(OUTPUT_BITS + 1, dtype=np.int64)
        for difference in differences(philox, words, base, field):
            flips.append(difference.sum(0, dtype=np.int64))
            distances += np.bincount(difference.sum(1), minlength=OUTPUT_BITS + 1)
            progress(1)
        outcomes += flip_outcomes(field, np.stack(flips), blocks)
        outcomes.append(distance_outcome(field, distances))
    return outcomes


def even_parity_counters(count: int) -> Tensor:
    """2 i + parity of i."""
    numbers = torch.arange(count, dtype=torch.int64)
    parity = torch.zeros_like(numbers)
    for bit in range(count.bit_length()):
        parity ^= numbers >> bit & 1
    return 2 * numbers + parity


def output_bits(philox: Philox, counter: Sequence[Tensor], key: tuple[int, int]) -> Bits:
    """(blocks, 128) zeros and ones."""
    words = torch.stack(list(philox(counter, key)), dim=1).numpy().astype(np.uint32)
    return np.unpackbits(words.view(np.uint8), axis=1)


def differences(philox: Philox, words: list[Tensor], base: Bits, field: str) -> Iterator[Bits]:
    """The output bits that each bit of the field flips."""
    for word, bits in FIELDS[field]:
        for bit in bits:
            counter = [value ^ 1 << bit if word == place else value for place, value in enumerate(words)]
            low, high = (1 << bit if word == place else 0 for place in (4, 5))
            yield base ^ output_bits(philox, counter, (low, high))


def flip_outcomes(field: str, flips: npt.NDArray[np.int64], blocks: int) -> list[Outcome]:
    """Pairs of an input and an output bit are Binomial(blocks, 1/2): Σ z² is χ², and one is the farthest off."""
    chi_square = float((((flips - blocks / 2) ** 2) / (blocks / 4)).sum())
    worst = int(flips.flat[np.abs(flips - blocks / 2).argmax()])
    draws, p_value = blocks * flips.size, largest_of(binomial_two_sided(worst, blocks, 0.5), flips.size)
    return [
        Outcome.chi_square("avalanche", f"{field}: χ² of {flips.size} pairs of bits", draws, chi_square, flips.size),
        Outcome("avalanche", f"{field}: share of flips, farthest from 1/2", draws, worst / blocks, 0.5, p_value),
    ]


def distance_outcome(field: str, counts: npt.NDArray[np.int64]) -> Outcome:
    """The number of output bits flipped at once is Binomial(128, 1/2), if they flip independently."""
    total = int(counts.sum())
    expected = total * np.array([math.comb(OUTPUT_BITS, k) / 2**OUTPUT_BITS for k in range(OUTPUT_BITS + 1)])
    large = np.flatnonzero(expected >= 10)  # cells beyond are merged
    cells = np.clip(np.arange(OUTPUT_BITS + 1), large[0], large[-1])
    observed, expected = (np.bincount(cells, weights=values)[large[0] :] for values in (counts, expected))
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    name = f"{field}: χ² of the number of bits flipped, {len(expected)} cells"
    return Outcome.chi_square("avalanche", name, total, chi_square, len(expected) - 1)
