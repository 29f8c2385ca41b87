"""Anomalies made of normal images, on which settings can be chosen where no real anomalies are at hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..settings import require

OWNER = "ald_ext.detection.synthetic_anomalies"
#: Cells of the grid on which a warp's displacements are drawn, and their standard deviation as a share of the width.
WARP_CELLS, WARP = 4, 0.12
#: Sides of the rectangles that are moved or erased, as shares of the image's.
PATCH = (0.25, 0.5)
#: The smallest AUROC of a kind's distances to the nearest reference image; those of a symmetry have about 1/2.
DISTINCT = 0.6
#: Images whose distances to all reference images are computed at once.
BATCH = 500
Alteration = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def synthetic_anomalies(images: Tensor, reference: Tensor | None = None, *, seed: int = 0) -> dict[str, Tensor]:
    """Return an anomaly of each kind for each image: nine tensors like ``images``, by the names of their kinds.

    - ``turned``, ``upside-down`` and ``mirrored``: by 90 degrees either way, by 180 degrees, left to right
      (Golan & El-Yaniv 2018);
    - ``shuffled``: with halves or quadrants exchanged;
    - ``stitched``: the upper half of the image above that of another one, upside down;
    - ``overlaid``: with another image laid over it: of the two values of a pixel, the one farther from the median;
    - ``pasted``: with a rectangle of the image copied to another place (CutPaste, Li et al. 2021);
    - ``erased``: with a rectangle near the centre set to the median of the image;
    - ``warped``: by a smooth random field of displacements (Simard et al. 2003).

    A few images stay as they are, where a blank part is pasted to a blank place. A mirrored 8 is an 8. With
    ``reference``, a kind is left out if its images are about as close to their nearest reference image, in Euclidean
    distance, as ``images`` are: if the AUROC of these distances is below 0.6.

    Args:
        images: normal ones that no model was trained on, uint8 (n, C, H, W) with H = W, at least two.
        reference: other normal images of the same size, such as those that models are trained on; None keeps all kinds.
        seed: seed of all draws.

    Raises:
        ValueError: images of another dtype or shape; a reference of another; no kind of anomaly that differs.
    """
    got, shape = described(images), tuple(images.shape)
    square = got.startswith("uint8") and len(shape) == 4 and shape[2] == shape[3] and len(images) >= 2
    require(square, f"{OWNER}: images", got, "uint8 (n, C, H, W) with H = W and n >= 2, a tensor on the CPU")
    generator = torch.Generator().manual_seed(seed)
    anomalies = {name: alter(images, images.roll(1, 0), generator) for name, alter in KINDS.items()}
    if reference is None:
        return anomalies
    got = described(reference)
    fits = got.startswith("uint8") and tuple(reference.shape[1:]) == shape[1:] and len(reference) >= 1
    expected = f"uint8 of shape (m, {', '.join(map(str, shape[1:]))}), a tensor on the CPU"
    require(fits, f"{OWNER}: reference", got, expected)
    normal, labels = distances(images, reference), [0] * len(images) + [1] * len(images)

    def is_distinct(altered: Tensor) -> bool:
        return bool(roc_auc_score(labels, torch.cat([normal, distances(altered, reference)]).numpy()) >= DISTINCT)

    kept = {name: altered for name, altered in anomalies.items() if is_distinct(altered)}
    require(kept, f"{OWNER}: images", "images of which no alteration is told apart", "images with some structure")
    return kept


def described(images: Tensor) -> str:
    """Return the dtype and the shape of a tensor on the CPU, or what else an array is."""
    text = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
    if not isinstance(images, Tensor):
        return f"{type(images).__name__}, {text}"
    return text if images.is_cpu else f"a tensor on {images.device}, {text}"


def distances(images: Tensor, reference: Tensor) -> Tensor:
    """Return the distance of each image to its nearest reference image, (n,)."""
    places = reference.flatten(1).float()
    return torch.cat([torch.cdist(batch.flatten(1).float(), places).amin(1) for batch in images.split(BATCH)])


def drawn(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` integers from low to high, drawn uniformly."""
    return torch.randint(int(low), int(high) + 1, (count,), generator=generator)


def turned(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    left = drawn(0, 1, len(images), generator).bool().view(-1, 1, 1, 1)
    return torch.where(left, images.rot90(1, (2, 3)), images.rot90(-1, (2, 3)))


def shuffled(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    half, choice = images.shape[2] // 2, drawn(0, 2, len(images), generator).view(-1, 1, 1, 1)
    rolls = [images.roll(shifts, (2, 3)) for shifts in ((half, 0), (0, half), (half, half))]
    return torch.where(choice == 0, rolls[0], torch.where(choice == 1, rolls[1], rolls[2]))


def stitched(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    half = images.shape[2] // 2
    return torch.cat([images[:, :, : images.shape[2] - half], others[:, :, :half].flip(2)], 2)


def overlaid(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    median = images.flatten(1).median(1).values.int().view(-1, 1, 1, 1)
    return torch.where((others.int() - median).abs() > (images.int() - median).abs(), others, images)


def pasted(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    size, altered = images.shape[2], images.clone()
    height, width = (drawn(PATCH[0] * size, PATCH[1] * size, len(images), generator).tolist() for _ in range(2))
    for image, source, h, w in zip(altered, images, height, width, strict=True):
        (row, to_row), (column, to_column) = (drawn(0, size - side, 2, generator).tolist() for side in (h, w))
        image[:, to_row : to_row + h, to_column : to_column + w] = source[:, row : row + h, column : column + w]
    return altered


def erased(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    size, altered = images.shape[2], images.clone()
    sides = drawn(PATCH[0] * size, PATCH[1] * size, 2 * len(images), generator).view(-1, 2).tolist()
    for image, (h, w) in zip(altered, sides, strict=True):
        row, column = (int(drawn(size / 3, 2 * size / 3, 1, generator)) - side // 2 for side in (h, w))
        image[:, row : row + h, column : column + w] = image.flatten(1).median(1).values[:, None, None]
    return altered


def warped(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    size, coarse = images.shape[2], torch.randn(len(images), 2, WARP_CELLS, WARP_CELLS, generator=generator)
    field = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True) * 2 * WARP  # of a width of 2
    identity = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    places = identity + field.permute(0, 2, 3, 1)
    moved = F.grid_sample(images.float(), places, padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)


#: Every kind: a function of images, as many others, and the generator of its draws.
KINDS: dict[str, Alteration] = {
    "turned": turned,
    "upside-down": lambda images, others, generator: images.flip(2, 3),
    "mirrored": lambda images, others, generator: images.flip(3),
    "shuffled": shuffled,
    "stitched": stitched,
    "overlaid": overlaid,
    "pasted": pasted,
    "erased": erased,
    "warped": warped,
}
