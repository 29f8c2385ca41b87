"""Data of a user as what a model takes: checked, and resized or standardized."""

from __future__ import annotations

import math
import textwrap
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array
from torch import Tensor

from ..data.image_data import resize
from ..models.networks import IMAGE_SIZE
from ..settings import require, shortened

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
        standardize: give each image mean 0 and standard deviation 1.
    """

    image_shape: tuple[int, ...]
    standardize: bool

    @property
    def num_features(self) -> int:
        """The number of values of a datum as given."""
        return math.prod(self.image_shape)

    def __call__(self, values: Tensor, owner: str) -> Tensor:
        """Return images in any layout as (n, C, 32, 32), uint8 or standardized floats. ValueError for other data."""
        expected = f"uint8 images of {self.image_shape} (channels, height, width), which the detector was fitted to"
        got = f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
        require(is_images(values), f"{owner}: X", got, expected)
        images = channels_first(values, owner)
        got = f"images of {tuple(images.shape[1:])} (channels, height, width)"
        expected = f"{self.image_shape}, to which the detector was fitted"
        require(tuple(images.shape[1:]) == self.image_shape, f"{owner}: X", got, expected)
        return standardized(resize(images)) if self.standardize else resize(images)

    def settings(self) -> dict[str, Any]:
        """Return settings of the model that suit such data."""
        shape = (self.image_shape[0], IMAGE_SIZE, IMAGE_SIZE)
        return {"data": "real" if self.standardize else "pixels", "network": "conv", "shape": shape}

    def state(self) -> dict[str, Tensor]:
        """Return plain tensors, for :func:`preparation_of_state`."""
        return {"image_shape": torch.tensor(self.image_shape), "standardize": torch.tensor(self.standardize)}


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
        if vectors.shape[1] != self.num_features:  # in scikit-learn's words
            expected = f"AnomalyDetector is expecting {self.num_features} features as input, as it was fitted to"
            raise ValueError(f"{owner}: X has {vectors.shape[1]} features, but {expected}")
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

    def state(self) -> dict[str, Tensor]:
        return {"centre": self.centre, "scale": self.scale}


#: A function from a user's data to a model's, which is fixed when the detector is fitted.
Preparation = ImagePreparation | VectorPreparation


def standardized(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) uint8 as float32, each with mean 0 and standard deviation 1.

    A residual grows with the amount of ink: on pixels as they are, a 1 is an easy image for a model of 8s.
    """
    pixels = images.flatten(1).float()
    spread = pixels.std(1, correction=0).clamp_min(1.0)  # for images of one colour
    return ((pixels - pixels.mean(1)[:, None]) / spread[:, None]).view(images.shape)


def as_tensor(values: Any, owner: str) -> Tensor:
    """Return data as a CPU tensor: uint8 as they are, others as finite float64. ValueError or TypeError if not."""
    argument = f"{owner}: X"
    tensor = values.detach() if isinstance(values, Tensor) else tensor_of_array(values, argument)
    dense = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
    require(dense, argument, shortened(tensor), "a dense tensor of numbers: X.to_dense() of a sparse one")
    require(not tensor.is_complex(), argument, tensor.dtype, "real numbers or integers")
    shape = tuple(tensor.shape)
    expected = "(n, d) vectors or uint8 images (n, H, W), (n, H, W, C) or (n, C, H, W). Reshape your data"
    require(tensor.dim() >= 2, argument, f"shape {shape}", f"{expected}: X[None] if it is one sample")
    got = f"{len(tensor)} sample(s), {math.prod(shape[1:])} feature(s) (shape={shape}) while a minimum of 1 is required"
    require(0 not in shape, argument, got, "at least one of each")
    tensor = tensor.cpu()
    if tensor.dtype == torch.uint8:
        return tensor
    tensor = tensor.double()
    bad = int((~tensor.isfinite()).sum())
    require(not bad, argument, f"{bad} values that are NaN, missing or infinite", "finite ones")
    return tensor


def tensor_of_array(values: Any, argument: str) -> Tensor:
    """Return what NumPy or pandas can make numbers of: uint8 as uint8, others as float64, missing ones as NaN."""
    if isinstance(values, np.ma.MaskedArray):  # of which the rest would take what the mask hides
        values = np.ma.filled(values.astype(np.float64), np.nan)
    try:
        # It knows pandas' own dtypes, and refuses sparse matrices and complex numbers.
        limits = {"ensure_all_finite": False, "ensure_min_samples": 0, "ensure_min_features": 0}  # checked later
        array = check_array(values, allow_nd=True, ensure_2d=False, **limits)
    except (TypeError, ValueError) as error:
        reason = textwrap.shorten(str(error).split(". This")[0].split("\n[")[0], 200, placeholder="…").rstrip(".")
        kind = TypeError if isinstance(error, TypeError) else ValueError  # as in scikit-learn
        raise kind(f"{argument}: got {type(values).__name__}: {reason}, expected real numbers") from error
    require(array.dtype.kind in "biuf", argument, f"dtype {array.dtype}", "real numbers or integers")
    # In float64, as torch has no long double and hardly any uint16; a copy, as it warns of read-only arrays.
    return torch.from_numpy(np.array(array, order="C", dtype=None if array.dtype == np.uint8 else np.float64))


def is_images(values: Tensor) -> bool:
    """Return whether data are modelled as pixels: uint8 with more dimensions than vectors have."""
    return values.dtype == torch.uint8 and values.dim() > 2


def warn_of_flattened(values: Tensor, owner: str, stacklevel: int) -> None:
    """Warn where data that could be images are taken as a table, as only uint8 ones are images."""
    if values.dtype == torch.uint8 or values.dim() < 3:
        return
    low, high = float(values.min()), float(values.max())
    remedies = {"(255 * X).round().astype('uint8')": high <= 1, "X.round().astype('uint8')": high <= 255}
    remedy = next((text for text, fits in remedies.items() if fits and low >= 0), "uint8")
    features, shape = math.prod(values.shape[1:]), tuple(values.shape)
    warnings.warn(
        f"{owner}: X: numbers of shape {shape} that are not uint8 are taken as a table of {features} features; if they "
        f"are images, give {remedy}",
        stacklevel=stacklevel + 1,
    )


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


def make_preparation(values: Tensor, standardize_images: bool, owner: str) -> Preparation:
    """Return the preparation that suits the data. ValueError for an unknown layout, or squares beyond float64."""
    if is_images(values):
        return ImagePreparation(tuple(channels_first(values, owner).shape[1:]), standardize_images)
    vectors = values.double().flatten(1)
    smallest, constant = vectors.amin(0), vectors.amin(0) == vectors.amax(0)
    # The mean of equal values may be off by a rounding, which a scale of 1 would leave as large as they are.
    centre = torch.where(constant, smallest, vectors.mean(0))
    scale = torch.where(constant, 1.0, vectors.std(0, correction=0))
    in_range, got = (scale.isfinite() & (scale > 0)).all(), "a feature whose variance is beyond float64's range"
    require(in_range, f"{owner}: X", got, "one within it; rescale it")
    return VectorPreparation(centre, scale)


def preparation_of_state(state: dict[str, Tensor]) -> Preparation:
    """Return the preparation whose ``state()`` it is; earlier files lack ``standardize``. ValueError for another."""
    if "image_shape" in state:
        shape, standardize = state["image_shape"], state.get("standardize", torch.tensor(False))
        check_tensor("image_shape", shape, torch.int64, (3,))
        check_tensor("standardize", standardize, torch.bool, ())
        require((shape > 0).all(), "image_shape", shape.tolist(), "sizes > 0")
        return ImagePreparation(tuple(shape.tolist()), bool(standardize))
    require({"centre", "scale"} <= set(state), "preparation", sorted(state), "image_shape, or centre and scale")
    check_tensor("centre", state["centre"], torch.float64, (None,))
    check_tensor("scale", state["scale"], torch.float64, tuple(state["centre"].shape))
    require((state["scale"] > 0).all(), "scale", "values that are not > 0", "none")
    return VectorPreparation(state["centre"].detach().cpu(), state["scale"].detach().cpu())


def check_tensor(place: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Raise a ValueError unless a tensor of a file is dense, finite, in memory, and of a dtype and shape.

    In the shape, None stands for any size but 0.
    """
    fits = len(tensor.shape) == len(shape) and all(
        size > 0 if wanted is None else size == wanted for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    fits = fits and tensor.dtype == dtype and not tensor.is_meta and tensor.layout == torch.strided
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    require(fits, place, f"{tensor.dtype} of shape {tuple(tensor.shape)}", f"{dtype} of shape ({sizes})")
    require(tensor.isfinite().all(), place, "values that are not finite", "finite ones")
