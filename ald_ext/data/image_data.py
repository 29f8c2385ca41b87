"""The images of a data set, and steps that several data sets share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.networks import IMAGE_SIZE

#: Seed of the permutation that chooses held-out images.
HELD_OUT_SEED = 0
#: Number of images of which one is held out where a data set has no test images.
HELD_OUT_ONE_IN = 10
#: Seed of the one binarization of bmnist.
BINARIZATION_SEED = 0
#: Number of images that are resized at once, which bounds the memory for their float32 copy.
RESIZED_AT_ONCE = 1000


@dataclass(frozen=True)
class ImageData:
    """uint8 images (N, C, 32, 32), contiguous, and int64 labels (N,) or None where a data set has none.

    Args:
        train_images: images to train on.
        train_labels: their labels.
        test_images: images that are held out.
        test_labels: their labels.
        name: name of the data set, or path that it was loaded from.
        skipped: files of a folder that are no images or broken, relative to the folder.
        notes: what was assumed, converted or left out when it was loaded, a sentence each.
    """

    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None
    name: str = ""
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number C of channels."""
        return self.train_images.shape[1]


class Pictures(NamedTuple):
    """Images with what is known of each.

    Args:
        images: (N, C, 32, 32) uint8.
        labels: (N,) int64, or None.
        names: files, relative to their folder, or numbers of rows.
    """

    images: Tensor
    labels: Tensor | None
    names: Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class Source:
    """What a file or a folder holds.

    Args:
        train: all images but those of ``test``.
        test: images that are set apart there; None where none are.
        skipped, notes: as in :class:`ImageData`.
    """

    train: Pictures
    test: Pictures | None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def pad_digits(images: Tensor) -> Tensor:
    """Return (N, 28, 28) uint8 as (N, 1, 32, 32), padded with zeros (paper: F.4)."""
    margin = (IMAGE_SIZE - images.shape[-1]) // 2
    return F.pad(images[:, None], (margin,) * 4)


def resize(images: Tensor) -> Tensor:
    """Return (N, C, H, W) uint8 as (N, C, 32, 32): the largest centred square of each, resized bicubically.

    Resizing is antialiased. Images of 32 x 32 stay as they are, bit for bit.
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == IMAGE_SIZE:
        return images.contiguous()
    result = torch.empty((*images.shape[:2], IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    for source, target in zip(images.split(RESIZED_AT_ONCE), result.split(RESIZED_AT_ONCE), strict=True):
        resized = F.interpolate(source.float(), (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
        target.copy_(resized.round_().clamp_(0, 255))
    return result


def hold_out(pictures: Pictures, count: int | None = None) -> tuple[Pictures, Pictures]:
    """Return pictures to train on and to test on, split by a permutation that depends on their number alone.

    Args:
        pictures: all of them.
        count: number of test images; None stands for a tenth of all, at least one.
    """
    images, labels, names = pictures
    count = max(1, len(images) // HELD_OUT_ONE_IN) if count is None else count
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    test, train = (
        Pictures(images[part], None if labels is None else labels[part], [names[index] for index in part.tolist()])
        for part in (order[:count], order[count:])
    )
    return train, test


def add_noise(brightness: Tensor, scale: float, seed: int) -> Tensor:
    """Return brightness with noise N(0, scale²), not clipped, of any shape (paper: Table 5)."""
    generator = torch.Generator().manual_seed(seed)
    return brightness + scale * torch.randn(brightness.shape, generator=generator)


def binarize(images: Tensor, seed: int) -> Tensor:
    """Return images with every pixel drawn once as 255 * Bernoulli(pixel / 255)."""
    generator = torch.Generator().manual_seed(seed)
    # Uniform on 0..254, so that of these 255 values exactly as many as the pixel's value lie below it.
    thresholds = torch.randint(0, 255, images.shape, dtype=torch.uint8, generator=generator)
    return (thresholds < images).to(torch.uint8) * 255


def binarized(data: ImageData) -> ImageData:
    """Return the same data with pixels 0 and 255, drawn once with a fixed seed (static stochastic binarization).

    Pixels are drawn because a threshold would lose the grey levels and with them the strokes' edges. They are drawn
    once so that training and test sets are fixed and log-likelihoods of models or epochs can be compared.
    """
    return replace(
        data,
        train_images=binarize(data.train_images, BINARIZATION_SEED),
        test_images=binarize(data.test_images, BINARIZATION_SEED + 1),
    )
