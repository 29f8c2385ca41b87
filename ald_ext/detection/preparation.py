"""Data of a user as what a model takes: checked, and resized or standardized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.image_data import resize
from ..models.networks import IMAGE_SIZE
from ..settings import require

#: Bound of standardized values, whose squares, summed, have to fit into float32.
LARGEST_VALUE = 1e6
#: Prior of the precision of real data, Gamma(a, b), which expects a noise of about 0.3 standard deviations. A flat
#: prior rewards residuals without bound as they vanish, which they do on data of few dimensions.
REAL_PRECISION_PRIOR = (1.0, 0.1)
REAL_HIDDEN_UNITS = 64
REAL_LATENT_DIM = 32


@dataclass(frozen=True)
class ImagePreparation:
    """uint8 images in any layout, resized to 32 x 32.

    Args:
        image_shape: (C, H, W) of the images as given.
    """

    image_shape: tuple[int, ...]

    @property
    def num_features(self) -> int:
        """The number of values of a datum as given."""
        return math.prod(self.image_shape)

    def __call__(self, values: Tensor, owner: str) -> Tensor:
        """Return (n, H, W), (n, H, W, C) or (n, C, H, W) uint8 as (n, C, 32, 32) uint8. ValueError for other data."""
        expected = f"uint8 images of {self.image_shape} (channels, height, width), which the detector was fitted to"
        got = f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
        require(is_images(values), f"{owner}: X", got, expected)
        images = channels_first(values, owner)
        got = f"images of {tuple(images.shape[1:])} (channels, height, width)"
        expected = f"{self.image_shape}, to which the detector was fitted"
        require(tuple(images.shape[1:]) == self.image_shape, f"{owner}: X", got, expected)
        return resize(images)

    def settings(self) -> dict[str, Any]:
        """Return settings of the model that suit such data."""
        return {"data": "pixels", "network": "conv", "shape": (self.image_shape[0], IMAGE_SIZE, IMAGE_SIZE)}

    def state(self) -> dict[str, Any]:
        """Return plain tensors, for :func:`preparation_of_state`."""
        return {"image_shape": torch.tensor(self.image_shape)}


@dataclass(frozen=True)
class VectorPreparation:
    """Real vectors, standardized: (x - centre) / scale.

    Args:
        centre: mean of the training data, (d,) float64.
        scale: standard deviation of the training data, (d,) float64; 1 for a constant feature.
    """

    centre: Tensor
    scale: Tensor

    @property
    def num_features(self) -> int:
        return len(self.centre)

    def __call__(self, values: Tensor, owner: str) -> Tensor:
        """Return (n, ...) numbers as (n, d) float32. ValueError for other data."""
        expected = f"vectors of {self.num_features} features, to which the detector was fitted"
        require(not is_images(values), f"{owner}: X", "uint8 images", expected)
        vectors = values.double().flatten(1)
        got, expected = vectors.shape[1], f"{self.num_features}, as the data that the detector was fitted to"
        require(got == self.num_features, f"{owner}: X", f"{got} features", expected)
        return ((vectors - self.centre) / self.scale).clamp(-LARGEST_VALUE, LARGEST_VALUE).float()

    def settings(self) -> dict[str, Any]:
        dimension = self.num_features
        return {
            "data": "real",
            "network": "mlp",
            "shape": (dimension,),
            "hidden_units": REAL_HIDDEN_UNITS,
            "latent_dim": min(REAL_LATENT_DIM, max(1, dimension // 2)),
            "precision_prior": REAL_PRECISION_PRIOR,
        }

    def state(self) -> dict[str, Any]:
        return {"centre": self.centre, "scale": self.scale}


#: A function from a user's data to a model's, which is fixed when the detector is fitted.
Preparation = ImagePreparation | VectorPreparation


def as_tensor(values: Any, owner: str) -> Tensor:
    """Return data as a CPU tensor: uint8 as they are, others as finite float64. ValueError where that cannot be."""
    argument = f"{owner}: X"
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        array = np.asarray(values)
        require(array.dtype.kind in "biuf", argument, f"dtype {array.dtype}", "real numbers or integers")
        # In float64, as torch has no long double and hardly any uint16; a copy, as it warns of read-only arrays.
        tensor = torch.from_numpy(np.array(array, order="C", dtype=None if array.dtype == np.uint8 else np.float64))
    got = f"shape {tuple(tensor.shape)}"
    require(not tensor.is_complex(), argument, tensor.dtype, "real numbers or integers")
    expected = "(n, d) vectors or uint8 images (n, H, W), (n, H, W, C) or (n, C, H, W)"
    require(tensor.dim() >= 2, argument, got, expected)
    require(0 not in tensor.shape, argument, got, "at least one sample and one feature")
    tensor = tensor.cpu()
    if tensor.dtype == torch.uint8:
        return tensor
    tensor = tensor.double()
    bad = int((~tensor.isfinite()).sum())
    require(not bad, argument, f"{bad} values that are NaN or infinite", "finite ones")
    return tensor


def is_images(values: Tensor) -> bool:
    """Return whether data are modelled as pixels: uint8 with more dimensions than vectors have."""
    return values.dtype == torch.uint8 and values.dim() > 2


def channels_first(images: Tensor, owner: str) -> Tensor:
    """Return images in any layout as (n, C, H, W), contiguous. ValueError where C could be either."""
    if images.dim() == 3:
        images = images[:, None]
    elif images.dim() != 4 or images.shape[1] == images.shape[3]:
        raise ValueError(
            f"{owner}: X: got uint8 of shape {tuple(images.shape)}, expected images (n, H, W), (n, H, W, C) or "
            "(n, C, H, W) with fewer channels than columns or rows"
        )
    elif images.shape[3] < images.shape[1]:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


def make_preparation(values: Tensor, owner: str) -> Preparation:
    """Return the preparation that suits the data. ValueError for an unknown layout, or squares beyond float64."""
    if is_images(values):
        return ImagePreparation(tuple(channels_first(values, owner).shape[1:]))
    vectors = values.double().flatten(1)
    smallest, constant = vectors.amin(0), vectors.amin(0) == vectors.amax(0)
    # The mean of equal values may be off by a rounding, which a scale of 1 would leave as large as they are.
    centre = torch.where(constant, smallest, vectors.mean(0))
    scale = torch.where(constant, 1.0, vectors.std(0, correction=0))
    in_range, got = (scale.isfinite() & (scale > 0)).all(), "a feature whose variance is beyond float64's range"
    require(in_range, f"{owner}: X", got, "one within it; rescale it")
    return VectorPreparation(centre, scale)


def preparation_of_state(state: dict[str, Tensor]) -> Preparation:
    """Return the preparation whose ``state()`` it is."""
    if "image_shape" in state:
        return ImagePreparation(tuple(state["image_shape"].tolist()))
    return VectorPreparation(state["centre"].cpu(), state["scale"].cpu())
