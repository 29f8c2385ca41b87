"""The built-in networks: convolutional ones for 32 x 32 images, and MLPs for data of any shape.

The convolutional ones stand in for the paper's Table 4, whose text is lost. Every layer but the last is followed by
tanh, because Langevin dynamics needs differentiable potentials (paper: Appendix F).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dequantization import LangevinDequantizer, PixelScaling, RealValues, UniformDequantizer
from ..ops.library import is_transformed
from ..settings import require, shortened
from .config import ModelConfig

IMAGE_SIZE = 32
#: The most weights of a network: 16 GiB in float32.
MAX_WEIGHTS = 2**32


class Encoder(nn.Sequential):
    """Three stride-2 4 x 4 convolutions (32 -> 16 -> 8 -> 4) and a 4 x 4 convolution: (N, C, 32, 32) -> (N, out)."""

    def __init__(self, channels: int, out: int, width: int) -> None:
        check_number_of_weights(16 * width * (channels + 2 * width + out))
        layers: list[nn.Module] = []
        for inputs in (channels, width, width):
            layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.Tanh()]
        super().__init__(*layers, nn.Conv2d(width, out, 4), nn.Flatten())


class UpsampledConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling x 2, then a 3 x 3 convolution with padding 1: (N, C, H, W) -> (N, out, 2H, 2W).

    Both are computed at once, as the transposed 4 x 4 convolution of stride 2 that they equal: each doubled pixel meets
    two neighbouring taps of the kernel, so the taps are added first, and the doubled image is never made. Its kernel is
    F(w)_i = w_i + w_(i-1) in each direction of the flipped w, where w is 0 outside of 0 … 2.

    To one channel, as of grey images, torch's transposed convolution is slow on a CPU, and :class:`ConvolutionToGrey`
    takes its place.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        #: Whether to take :class:`ConvolutionToGrey`, where it can be taken.
        self.in_one_product = outputs == 1

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(self.weight.flip(2, 3), (1, 1, 1, 1))
        wide = padded[..., 1:] + padded[..., :-1]
        kernel = (wide[..., 1:, :] + wide[..., :-1, :]).transpose(0, 1)
        if self.in_one_product and x.is_cpu and not (is_transformed() or torch.is_autocast_enabled("cpu")):
            images: Tensor = ConvolutionToGrey.apply(x, kernel)  # type: ignore[no-untyped-call]
            return images if self.bias is None else images + self.bias
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class ConvolutionToGrey(torch.autograd.Function):
    """The transposed 4 x 4 convolution of stride 2 and padding 1 to one channel: (N, C, H, W) -> (N, 1, 2H, 2W).

    One matrix product multiplies each pixel with all taps, and sums of neighbours follow: row r of x reaches the rows
    2r-1 … 2r+2 by the taps 0 … 3, so an even row 2q is tap 1 of row q plus tap 3 of row q-1, an odd row 2q+1 is tap 2
    of row q plus tap 0 of row q+1; columns likewise. The gradients are torch's, and differentiable.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        """Return the convolution of x with a kernel (C, 1, 4, 4)."""
        ctx.save_for_backward(x, kernel)
        count, inputs, height, width = x.shape
        taps = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ kernel.reshape(inputs, 16)
        taps = F.pad(taps.view(count, height, width, 4, 4), (0, 0, 0, 0, 0, 0, 1, 1))
        even = taps[:, 1:-1, :, 1] + taps[:, :-2, :, 3]
        odd = taps[:, 1:-1, :, 2] + taps[:, 2:, :, 0]
        rows = F.pad(torch.stack([even, odd], 2), (0, 0, 1, 1))  # (N, H, 2, W + 2, 4)
        even = rows[:, :, :, 1:-1, 1] + rows[:, :, :, :-2, 3]
        odd = rows[:, :, :, 1:-1, 2] + rows[:, :, :, 2:, 0]
        return torch.stack([even, odd], 4).reshape(count, 1, 2 * height, 2 * width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients for x and the kernel."""
        x, kernel = ctx.saved_tensors
        form = (None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1)  # no bias, stride, padding, dilation, transposed
        return torch.ops.aten.convolution_backward(grad, x, kernel, *form, [*ctx.needs_input_grad, False])[:2]  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A 4 x 4 transposed convolution (1 -> 4), then three times upsampling x 2 with a 3 x 3 convolution."""

    def __init__(self, latent_dim: int, channels: int, width: int) -> None:
        super().__init__()
        check_number_of_weights(width * (16 * latent_dim + 9 * (2 * width + channels)))
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, width, 4), nn.Tanh()]
        for outputs in (width, width, channels):
            layers += [UpsampledConv2d(width, outputs), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        """Return images (N, channels, 32, 32) of latent variables (N, d_z)."""
        images: Tensor = self.layers(z[:, :, None, None])
        return images


class MLP(nn.Sequential):
    """Linear layers with tanh between them: (N, inputs) -> (N, outputs); without hidden layers a linear map."""

    def __init__(self, inputs: int, outputs: int, hidden_units: int, hidden_layers: int) -> None:
        sizes = [inputs, *[hidden_units] * hidden_layers]
        check_number_of_weights(sum(map(operator.mul, sizes, [*sizes[1:], outputs])))
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes):
            layers += [nn.Linear(size, next_size), nn.Tanh()]
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))

    def input_gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of the sum of the outputs for the inputs x, (N, inputs) -> (N, inputs).

        It is written out, so that its own gradient for the parameters takes no second derivatives of the graph.
        """
        *hidden, last = (layer for layer in self if isinstance(layer, nn.Linear))
        activations = []
        for layer in hidden:
            x = layer(x).tanh()
            activations.append(x)
        gradient = last.weight.sum(0).expand(len(x), -1)
        for layer, activation in zip(reversed(hidden), reversed(activations), strict=True):
            gradient = (gradient * (1 - activation.square())) @ layer.weight
        return gradient


def make_encoder(config: ModelConfig, outputs: int) -> nn.Module:
    """Return an encoder (N, *shape) -> (N, outputs), as ``config.network`` says."""
    if config.network == "mlp":
        inputs = math.prod(config.shape)
        return nn.Sequential(nn.Flatten(), MLP(inputs, outputs, config.hidden_units, config.hidden_layers))
    check_image_shape(config.shape)
    return for_convolutions(Encoder(config.channels, outputs, config.width))


def make_decoder(config: ModelConfig) -> nn.Module:
    """Return a decoder (N, d_z) -> (N, *shape), as ``config.network`` says."""
    if config.network == "mlp":
        mlp = MLP(config.latent_dim, math.prod(config.shape), config.hidden_units, config.hidden_layers)
        return nn.Sequential(mlp, nn.Unflatten(1, config.shape))
    check_image_shape(config.shape)
    return for_convolutions(Decoder(config.latent_dim, config.channels, config.width))


def make_dequantizer(config: ModelConfig) -> nn.Module:
    """Return the module that makes real values of pixels, as ``config.data`` and ``config.dequantization`` say.

    The network g(x; ξ) of the Langevin dequantizer, (N, *shape) -> (N, *shape), has two convolutions, or is an MLP
    with one hidden layer.
    """
    if config.data == "real":
        return RealValues()
    if config.dequantization == "none":
        return PixelScaling()
    if config.dequantization == "uniform":
        return UniformDequantizer()
    if config.network == "mlp":
        pixels = math.prod(config.shape)
        mlp = MLP(pixels, pixels, config.hidden_units, 1)
        return LangevinDequantizer(nn.Sequential(nn.Flatten(), mlp, nn.Unflatten(1, config.shape)))
    channels, width = config.channels, config.width
    layers = [nn.Conv2d(channels, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, channels, 3, padding=1)]
    return LangevinDequantizer(for_convolutions(nn.Sequential(*layers)))


def for_convolutions(network: nn.Module) -> nn.Module:
    """Return the network with weights in the memory format in which convolutions with few channels are fastest."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_number_of_weights(count: int) -> None:
    """Raise a ValueError for a network that no machine holds, before it is built."""
    expected = f"at most {MAX_WEIGHTS}: smaller width, hidden_units, latent_dim or shape"
    require(count <= MAX_WEIGHTS, "ald_ext.models.ModelConfig", f"a network of {shortened(count)} weights", expected)


def check_image_shape(shape: Sequence[int]) -> None:
    """Raise a ValueError for a shape that the convolutional networks do not take."""
    fits = len(shape) == 3 and tuple(shape[1:]) == (IMAGE_SIZE, IMAGE_SIZE)
    expected = f"(C, {IMAGE_SIZE}, {IMAGE_SIZE}) for the network 'conv'; 'mlp' takes any shape"
    require(fits, "ald_ext.models.ModelConfig: shape", tuple(shape), expected)
