"""Grids of images, and of curves of signals, as PNG files."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import write_atomically

#: Pixels around each image, and the factor by which pixels are enlarged.
GAP, ENLARGEMENT = 2, 2
#: Height of a curve and smallest width, in pixels; and the most curves in one place.
CURVE_SIZE, MOST_CURVES = 32, 8


def grid(images: Tensor, columns: int = 10) -> Tensor:
    """Return N images of brightness in [0, 1], (N, C, H, W), row by row on white, (H', W', 3).

    Signals (N, d), or (N, C, d) with at most 8 channels, are drawn as :func:`curve_images`; with more they are images
    (N, H, W). Data of another shape, or without 1 or 3 channels, are shown as a row of pixels each. What is no number
    is white.
    """
    images = images.detach().float().cpu()
    if images.dim() == 2 or (images.dim() == 3 and images.shape[1] <= MOST_CURVES):
        images = curve_images(images if images.dim() == 3 else images[:, None])
    elif images.dim() == 3:
        images = images[:, None]
    images = images.nan_to_num(1.0).clamp(0, 1)
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


def curve_images(signals: Tensor) -> Tensor:
    """Return images of signals (N, C, d) as black curves on white, (N, 1, H, W), with one scale for all of them."""
    number, _, length = signals.shape
    known = signals[signals.isfinite()]
    low, high = (known.min(), known.max()) if len(known) else (signals.new_zeros(()), signals.new_ones(()))
    heights = (high - signals) / (high - low).clamp_min(1e-12) * (CURVE_SIZE - 1)
    heights = F.interpolate(heights, max(length, CURVE_SIZE), mode="linear", align_corners=True)
    neighbours = torch.stack([heights, torch.cat([heights[..., 1:], heights[..., -1:]], 2)])
    top, bottom = neighbours.amin(0).round(), neighbours.amax(0).round()
    row = torch.arange(CURVE_SIZE, dtype=signals.dtype)[:, None]
    ink = ((row >= top[:, :, None]) & (row <= bottom[:, :, None])).any(1)
    return (~ink).to(signals.dtype).view(number, 1, CURVE_SIZE, -1)


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
    """Return rows of originals, each above a row of their reconstructions, (2N', ...), the last two filled with NaN."""
    missing = originals.new_full((-len(originals) % columns, *originals.shape[1:]), torch.nan, dtype=torch.float32)
    halves = [torch.cat([half.float().cpu(), missing.cpu()]).split(columns) for half in (originals, reconstructions)]
    pairs = zip(*halves, strict=True)
    return torch.cat([images for pair in pairs for images in pair])
