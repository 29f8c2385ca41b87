"""Grids of images as PNG files."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import write_atomically

#: Pixels between two images, and how much a pixel is enlarged.
GAP, ENLARGEMENT = 2, 2


def grid(images: Tensor, columns: int) -> Tensor:
    """(N, C, H, W) -> (H', W', 3), N images row by row on white."""
    rows = -(-len(images) // columns)
    missing = rows * columns - len(images)
    framed = F.pad(images, (GAP, GAP, GAP, GAP), value=1.0)
    filled = torch.cat([framed, framed.new_ones(missing, *framed.shape[1:])])
    _, channels, height, width = filled.shape
    table = filled.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    table = table.reshape(rows * height, columns * width, channels)
    return table.expand(-1, -1, 3).repeat_interleave(ENLARGEMENT, 0).repeat_interleave(ENLARGEMENT, 1)


def save_grid(path: Path, images: Tensor, columns: int = 10) -> None:
    """Writes images of brightness in [0, 1], (N, C, H, W), as one PNG."""
    from matplotlib.image import imsave

    array = grid(images.detach().float().cpu().clamp(0, 1), columns).numpy()
    write_atomically(path, lambda file: imsave(file, array, format="png"))


def pair_up(originals: Tensor, reconstructions: Tensor, columns: int = 10) -> Tensor:
    """Rows of originals, each above a row of their reconstructions."""
    pairs = zip(originals.split(columns), reconstructions.split(columns), strict=True)
    return torch.cat([images for pair in pairs for images in pair])
