"""What pixel values mean: those that are black and white, and channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Numbers of bits that cameras and scanners have.
BIT_DEPTHS = (1, 8, 10, 12, 14, 16)
#: Weights of red, green and blue in the brightness (ITU-R BT.601, as Pillow's).
GREY_WEIGHTS = (0.299, 0.587, 0.114)
#: Range of values, of 0 to 255, below which images are nearly without contrast.
LOW_CONTRAST = 16
#: Number of images that are converted at once, which bounds the memory for their float32 copy.
CONVERTED_AT_ONCE = 1000


def black_and_white(lowest: float, highest: float, whole: bool) -> tuple[float, float] | None:
    """Return the values that are black and white in data with these extremes; None if the data do not say.

    Whole numbers have the least of :data:`BIT_DEPTHS` that holds them; others are brightness if they lie in [0, 1].
    """
    if lowest < 0 or not (whole or highest <= 1):
        return None
    return next(((0.0, 2.0**bits - 1) for bits in BIT_DEPTHS if highest < 2**bits), None)


def are_whole(values: np.ndarray) -> bool:
    """Return whether numbers are whole, whatever their dtype."""
    return values.dtype.kind in "biu" or all(np.array_equal(part, np.rint(part)) for part in values)


def describe_scale(lowest: float, highest: float, scale: tuple[float, float]) -> str:
    """Return the words for a user on how values became brightness."""
    black, white = scale
    return f"values from {lowest:g} to {highest:g} are scaled so that {black:g} is black and {white:g} is white"


def to_eight_bits(values: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return values (N, ...) as uint8, the values ``scale`` as 0 and 255."""
    black, white = scale
    gain = 255 / (white - black) if white > black else 0.0
    result = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), CONVERTED_AT_ONCE):
        part = slice(start, start + CONVERTED_AT_ONCE)
        result[part] = np.rint((values[part].astype(np.float32) - black) * gain).clip(0, 255)
    return result


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Return uint8 images (N, C, H, W) as grey ones (``channels`` = 1) or in colour (3), others as they are."""
    if (images.shape[1], channels) == (1, 3):
        return images.expand(-1, 3, -1, -1).contiguous()
    if (images.shape[1], channels) == (3, 1):
        grey = images.new_empty((len(images), 1, *images.shape[2:]))
        weights = torch.tensor(GREY_WEIGHTS).view(3, 1, 1)
        for source, target in zip(images.split(CONVERTED_AT_ONCE), grey.split(CONVERTED_AT_ONCE), strict=True):
            target.copy_((source * weights).sum(1, keepdim=True).round_())
        return grey
    return images


def doubts_about(images: Tensor) -> list[str]:
    """Return what a user should know of uint8 images that hardly can be meant: all alike, or without contrast."""
    lowest, highest = int(images.min()), int(images.max())
    if lowest == highest:
        name = {0: "black", 255: "white"}.get(lowest, f"{lowest} of 255")
        return [f"all pixels of {f'all {len(images)} images' if len(images) > 1 else 'the image'} are {name}"]
    if len(images) > 1 and all(torch.equal(image, images[0]) for image in images):
        return [f"all {len(images)} images are alike"]
    if highest - lowest < LOW_CONTRAST:
        return [f"the pixels lie between {lowest} and {highest} of 0 to 255, which is hardly any contrast"]
    return []
