"""The convolutional networks for 32 x 32 images: a stand-in for the paper's Table 4, whose text is lost.

tanh after every layer but the last, as Langevin dynamics wants differentiable potentials (paper: Appendix F).
"""

from __future__ import annotations

from torch import Tensor, nn

IMAGE_SIZE = 32


class Encoder(nn.Sequential):
    """Three stride-2 4 x 4 convolutions (32 -> 16 -> 8 -> 4) and a 4 x 4 convolution: (N, C, 32, 32) -> (N, out).

    Args:
        channels: of the images.
        out: number of outputs (d_z; 2 d_z for a VAE).
        width: channels of the hidden layers.
    """

    def __init__(self, channels: int, out: int, width: int) -> None:
        layers: list[nn.Module] = []
        for inputs in (channels, width, width):
            layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.Tanh()]
        super().__init__(*layers, nn.Conv2d(width, out, 4), nn.Flatten())


class Decoder(nn.Module):
    """A 4 x 4 transposed convolution (1 -> 4), then thrice upsampling x 2 and a 3 x 3 convolution: (N, d_z) -> images.

    Args:
        latent_dim: d_z.
        channels: of the images.
        width: channels of the hidden layers.
    """

    def __init__(self, latent_dim: int, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, width, 4), nn.Tanh()]
        for outputs in (width, width, channels):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, outputs, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        """(N, d_z) -> (N, channels, 32, 32)."""
        images: Tensor = self.layers(z[:, :, None, None])
        return images


def pixelwise_network(channels: int, width: int) -> nn.Sequential:
    """g(x; ξ) of the Langevin dequantizer: two 3 x 3 convolutions that keep the image's shape."""
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, channels, 3, padding=1))
