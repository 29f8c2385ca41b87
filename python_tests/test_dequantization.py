"""The dequantizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ald_ext import ops
from ald_ext.dequantization import LangevinDequantizer, PixelScaling, UniformDequantizer

ALL_PIXELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


class ConstantNetwork(nn.Module):
    """h(x) = value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand_as(x)


def test_scaling_is_linear_and_inverted():
    y = PixelScaling()(ALL_PIXELS)
    assert (y.min(), y.max()) == (-1, 1)
    torch.testing.assert_close(PixelScaling().to_unit(y), ALL_PIXELS / 255)


def test_uniform_noise_stays_in_its_bin_and_differs_between_calls():
    torch.manual_seed(0)
    dequantizer = UniformDequantizer()
    first, second = dequantizer(ALL_PIXELS), dequantizer(ALL_PIXELS)
    assert not torch.equal(first, second)
    bins = (first + 1) * 128
    assert ((bins >= ALL_PIXELS) & (bins <= ALL_PIXELS + 1.0)).all()


@pytest.mark.parametrize("value", [-3.0, 0.0, 5.0])
def test_langevin_places_pixels_in_their_bins(value):
    dequantizer = LangevinDequantizer(ConstantNetwork(value))
    y = dequantizer(ALL_PIXELS)
    assert torch.equal(ops.quantize(y), ALL_PIXELS)
    y.sum().backward()
    assert dequantizer.network.value.grad > 0


def test_middle_of_a_bin_has_the_brightness_of_its_pixel():
    dequantizer = LangevinDequantizer(ConstantNetwork(0.0))
    # A logit and a logistic function in float32: a few units of 6e-8 near one.
    torch.testing.assert_close(dequantizer.to_unit(dequantizer(ALL_PIXELS)), ALL_PIXELS / 255, atol=3e-7, rtol=0)
