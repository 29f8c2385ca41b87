"""Grids of images as PNG files."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import write_atomically

#: Pixels around each image, and the factor by which pixels are enlarged.
GAP, ENLARGEMENT = 2, 2


def grid(images: Tensor, columns: int = 10) -> Tensor:
    """Return N images of brightness in [0, 1], (N, C, H, W), row by row on white, (H', W', 3).

    Data of another shape, or without 1 or 3 channels, are shown as a row of pixels each.
    """
    images = images.detach().float().cpu().clamp(0, 1)
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        images = images.flatten(1)[:, None, None]
    rows = -(-len(images) // columns)
    missing = rows * columns - len(images)
    framed = F.pad(images, (GAP, GAP, GAP, GAP), value=1.0)
    filled = torch.cat([framed, framed.new_ones(missing, *framed.shape[1:])])
    _, channels, height, width = filled.shape
    table = filled.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    table = table.reshape(rows * height, columns * width, channels)
    return table.expand(-1, -1, 3).repeat_interleave(ENLARGEMENT, 0).repeat_interleave(ENLARGEMENT, 1)


def save_picture(path: Path, table: Tensor) -> None:
    """Write a picture (H, W, 3), brightness in [0, 1], as a PNG."""
    from matplotlib.image import imsave

    write_atomically(path, lambda file: imsave(file, table.numpy(), format="png"))


def save_grid(path: Path, images: Tensor, columns: int = 10) -> None:
    """Write images of brightness in [0, 1], (N, C, H, W), as one PNG."""
    save_picture(path, grid(images, columns))


def curves(history: list[dict[str, float]], title: str, file: Path) -> None:
    """Draw the loss, the test RE and the model's diagnostics over the epochs."""
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in history[-1]:
        if name not in ("epoch", "step", "lr"):
            panels.setdefault(name.split("_")[0], []).append(name)
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, (panel, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name in members:
            points = [(row["epoch"], row[name]) for row in history if name in row]
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set(xlabel="epoch", title=panel if len(members) > 1 else members[0])
        if len(members) > 1:
            axes.legend()
    figure.suptitle(title)
    figure.savefig(file, dpi=100)


def pair_up(originals: Tensor, reconstructions: Tensor, columns: int = 10) -> Tensor:
    """Return rows of originals, each above a row of their reconstructions, (2N, C, H, W)."""
    pairs = zip(originals.split(columns), reconstructions.split(columns), strict=True)
    return torch.cat([images for pair in pairs for images in pair])
