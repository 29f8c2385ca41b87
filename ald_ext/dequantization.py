"""From uint8 pixels to the real values that a density model sees, and back to [0, 1] (paper: Appendix C).

Every dequantizer is a module that maps uint8 images (N, C, H, W) to real values of that shape; ``to_unit`` maps such
values to brightness in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import ops

__all__ = ["LangevinDequantizer", "PixelScaling", "RealValues", "UniformDequantizer", "scale_pixels"]

#: Number of values of a pixel, 2^8, between which brightness has 255 steps.
BINS = 256


def scale_pixels(x: Tensor) -> Tensor:
    """Return pixels x, uint8 0 … 255 or floats in [0, 1], scaled to [-1, 1], the networks' input."""
    if x.dtype != torch.uint8:
        return 2 * x - 1
    return x.float().mul_(2 / (BINS - 1)).sub_(1)


class PixelScaling(nn.Module):
    """No dequantization: pixels scaled to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return pixels, (N, C, H, W) uint8 or floats in [0, 1], as floats in [-1, 1]."""
        return scale_pixels(x)

    def to_unit(self, y: Tensor) -> Tensor:
        """Return brightness, clamped to [0, 1]."""
        return ((y + 1) / 2).clamp(0, 1)


class RealValues(nn.Module):
    """The identity, for data that are real values already."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same tensor."""
        return x

    def to_unit(self, y: Tensor) -> Tensor:
        """Return the same tensor."""
        return y


class UniformDequantizer(nn.Module):
    """x + u with u ~ U(0, 1), scaled to [-1, 1] (paper: Eq. 23)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) uint8 as float32 in [-1, 1]. TypeError for other dtypes.

        The noise is new at every call in training mode; in evaluation mode it is keyed by the values of each datum.
        """
        check_pixels("UniformDequantizer", x)
        if self.training:
            noise = torch.rand(x.shape, device=x.device)
        else:
            index, count = ops.index_by_content(x), x[0].numel() if len(x) else 0
            noise = torch.special.ndtr(ops.latent_normal(index, count, seed=0, step=0)).view(x.shape)
        return (x + noise) * (2 / BINS) - 1

    def to_unit(self, y: Tensor) -> Tensor:
        """Return brightness, clamped to [0, 1]; the middle of a bin gives its pixel's brightness."""
        return bins_to_unit((y + 1) * (BINS / 2))


class LangevinDequantizer(nn.Module):
    """logit((x + σ(g(x; ξ))) / 256) with a network g whose parameters ξ are sampled by Langevin dynamics (Eqs. 25-27).

    Args:
        network: g, which maps images scaled to [-1, 1] to real values of the same shape.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) uint8 as real values, differentiable in ξ. TypeError for other dtypes."""
        return ops.langevin_dequantize(x, self.offsets(x))

    def offsets(self, x: Tensor) -> Tensor:
        """Return g(x; ξ), whose sigmoid is the place of each pixel in its bin."""
        check_pixels("LangevinDequantizer", x)
        offsets: Tensor = self.network(scale_pixels(x))
        return offsets

    def to_unit(self, y: Tensor) -> Tensor:
        """Return brightness, clamped to [0, 1]; the middle of a bin gives its pixel's brightness."""
        return bins_to_unit(BINS * torch.sigmoid(y))


def check_pixels(owner: str, x: Tensor) -> None:
    """Raise a TypeError for values that have no bins."""
    if x.dtype != torch.uint8:
        raise TypeError(f"ald_ext.dequantization.{owner}: x: got {x.dtype}, expected torch.uint8")


def bins_to_unit(position: Tensor) -> Tensor:
    """Return brightness in [0, 1] at a position in 0 … 256: the middle of bin k, k + 1/2, has k / 255."""
    return ((position - 0.5) / (BINS - 1)).clamp(0, 1)
