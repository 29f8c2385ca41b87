"""Images in .npz files with the keys of the MedMNIST files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import NPZ_DAMAGE
from ..settings import require
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
    place = f"dataset {str(path)!r}"
    with path.open("rb") as file:  # numpy leaves a damaged file open if it is given the path
        try:
            arrays = np.load(file, allow_pickle=False)
        except NPZ_DAMAGE as error:
            raise unreadable(place, error, "is no .npz file") from error
        is_npz = isinstance(arrays, np.lib.npyio.NpzFile)
        require(is_npz, place, "a single array", "a .npz file with the key train_images")
        keys = ", ".join(arrays) or "none"
        require("train_images" in arrays, place, f"the keys {keys}", "train_images among them")
        images, labels = read_split(place, arrays, "train")
        if "test_images" not in arrays:
            expected = "at least 2 images, one to hold out"
            got = f"{len(images)} image and no test_images"
            require(len(images) > 1, f"{place}: train_images", got, expected)
            return hold_out(images, labels)
        test_images, test_labels = read_split(place, arrays, "test")
    channels, of_test = images.shape[1], test_images.shape[1]
    require(of_test == channels, f"{place}: test_images", f"{of_test} channels", f"{channels} as in train_images")
    return ImageData(images, labels, test_images, test_labels)


def read_split(place: str, arrays: Mapping[str, np.ndarray], split: str) -> tuple[Tensor, Tensor | None]:
    """Return images (N, C, 32, 32) and labels (N,), or None, of one of the splits."""
    images, owner = read_array(place, arrays, f"{split}_images"), f"{place}: {split}_images"
    shape, expected = f"shape {images.shape}", "uint8 images (N, H, W) or (N, H, W, C) with C = 1 or 3"
    require(images.dtype == np.uint8, owner, f"dtype {images.dtype}", expected)
    require(images.ndim in (3, 4) and images.shape[3:] in ((), (1,), (3,)), owner, shape, expected)
    require(images.size, owner, shape, "at least one image")
    tensor = resize(torch.from_numpy(images.reshape(*images.shape[:3], -1)).permute(0, 3, 1, 2))
    if f"{split}_labels" not in arrays:
        return tensor, None
    labels, owner = read_array(place, arrays, f"{split}_labels"), f"{place}: {split}_labels"
    count = len(images)
    expected = f"({count},) or ({count}, 1), one label for every image"
    require(labels.shape in ((count,), (count, 1)), owner, f"shape {labels.shape}", expected)
    require(labels.dtype.kind in "iub", owner, f"dtype {labels.dtype}", "integers")
    return tensor, torch.from_numpy(labels.reshape(-1).astype(np.int64))


def read_array(place: str, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """Return an array of the file; numpy checks its checksum."""
    try:
        array = arrays[key]
    except NPZ_DAMAGE as error:
        raise unreadable(f"{place}: {key}", error, "got Python objects") from error
    # numpy gives the bytes of a member that is no array
    require(isinstance(array, np.ndarray), f"{place}: {key}", "bytes", "an array")
    return array


def unreadable(place: str, error: Exception, if_pickled: str) -> ValueError:
    """Return the error for a file that numpy cannot read."""
    if "allow_pickle" in str(error):
        return ValueError(f"{place}: {if_pickled}, expected uint8 images (N, H, W) or (N, H, W, C)")
    return ValueError(f"{place}: is corrupt, truncated or no .npz file ({error})")
