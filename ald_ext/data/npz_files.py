"""Images in .npz files with the keys of the MedMNIST files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import NPZ_DAMAGE
from .image_data import ImageData, hold_out, resize


def load_npz(path: Path) -> ImageData:
    """Return the arrays train_images, train_labels, test_images and test_labels of a file, resized to 32 x 32.

    Images are uint8, (N, H, W) or (N, H, W, C) with C = 1 or 3; if they are not square, the largest centred square is
    taken. Labels are integers, (N,) or (N, 1), and may be missing. Without test_images a tenth of the images, at least
    one, is held out, by a permutation with a fixed seed. Other arrays are not read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or no .npz file, or an array is not as described.
    """
    if not path.is_file():
        raise FileNotFoundError(f"dataset: got {str(path)!r}, expected a .npz file that exists")
    with path.open("rb") as file:  # numpy leaves a damaged file open if it is given the path
        try:
            arrays = np.load(file, allow_pickle=False)
        except NPZ_DAMAGE as error:
            raise unreadable(path, error) from error
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError(
                f"dataset {str(path)!r}: got a single array, expected a .npz file with the key train_images"
            )
        if "train_images" not in arrays:
            keys = ", ".join(arrays) or "none"
            raise ValueError(f"dataset {str(path)!r}: got the keys {keys}, expected train_images among them")
        train_images, train_labels = read_split(path, arrays, "train")
        if "test_images" not in arrays:
            return hold_out_of_file(path, train_images, train_labels)
        test_images, test_labels = read_split(path, arrays, "test")
    if train_images.shape[1] != test_images.shape[1]:
        raise ValueError(
            f"dataset {str(path)!r}: test_images: got {test_images.shape[1]} channels, "
            f"expected {train_images.shape[1]} as in train_images"
        )
    return ImageData(train_images, train_labels, test_images, test_labels)


def hold_out_of_file(path: Path, images: Tensor, labels: Tensor | None) -> ImageData:
    """Return the images of a file without test_images, some of them held out."""
    if len(images) < 2:
        raise ValueError(
            f"dataset {str(path)!r}: train_images: got {len(images)} image and no test_images, "
            "expected at least 2 images, one to hold out"
        )
    return hold_out(images, labels)


def read_split(path: Path, arrays: Mapping[str, np.ndarray], split: str) -> tuple[Tensor, Tensor | None]:
    """Return images (N, C, 32, 32) and labels (N,), or None, of one of the splits."""
    images = read_images(path, arrays, f"{split}_images")
    key = f"{split}_labels"
    return images, read_labels(path, arrays, key, len(images)) if key in arrays else None


def read_images(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> Tensor:
    """Return (N, H, W) or (N, H, W, C) as (N, C, 32, 32)."""
    images = read_array(path, arrays, key)
    expected = "expected uint8 images (N, H, W) or (N, H, W, C) with C = 1 or 3"
    if images.dtype != np.uint8:
        raise ValueError(f"dataset {str(path)!r}: {key}: got dtype {images.dtype}, {expected}")
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise ValueError(f"dataset {str(path)!r}: {key}: got shape {images.shape}, {expected}")
    if images.size == 0:
        raise ValueError(f"dataset {str(path)!r}: {key}: got shape {images.shape}, expected at least one image")
    tensor = torch.from_numpy(images.reshape(*images.shape[:3], -1))
    return resize(tensor.permute(0, 3, 1, 2))


def read_labels(path: Path, arrays: Mapping[str, np.ndarray], key: str, count: int) -> Tensor:
    """Return (N,) or (N, 1) integers as (N,) int64."""
    labels = read_array(path, arrays, key)
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"dataset {str(path)!r}: {key}: got shape {labels.shape}, "
            f"expected ({count},) or ({count}, 1), one label for every image"
        )
    if labels.dtype.kind not in "iub":
        raise ValueError(f"dataset {str(path)!r}: {key}: got dtype {labels.dtype}, expected integers")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def read_array(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """Return an array of the file; numpy checks its checksum."""
    try:
        array = arrays[key]
    except NPZ_DAMAGE as error:
        raise unreadable(path, error, f" {key}:") from error
    if not isinstance(array, np.ndarray):  # numpy gives the bytes of a member that is no array
        raise ValueError(f"dataset {str(path)!r}: {key}: got bytes, expected an array")
    return array


def unreadable(path: Path, error: Exception, key: str = "") -> ValueError:
    """Return the error for a file that numpy cannot read."""
    if "allow_pickle" in str(error):
        what = "got Python objects" if key else "is no .npz file"
        return ValueError(f"dataset {str(path)!r}:{key} {what}, expected uint8 images (N, H, W) or (N, H, W, C)")
    return ValueError(f"dataset {str(path)!r}:{key} is corrupt, truncated or no .npz file ({error})")
