"""Images as arrays in .npz and .npy files, with the keys of MedMNIST, of Keras, or others that say enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..settings import require
from .image_data import IMAGE_SIZE, Pictures, Source, resize
from .image_files import shorten
from .pixel_values import are_whole, black_and_white, describe_scale, doubts_about, to_eight_bits
from .stored_arrays import StoredArray, check_size, stored_arrays

#: The keys of arrays, the first of each as in the files of MedMNIST; case does not matter.
KEYS = {
    "train_images": ("train_images", "x_train", "images", "x", "data"),
    "train_labels": ("train_labels", "y_train", "labels", "y", "targets"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
    "val_images": ("val_images", "x_val", "valid_images", "x_valid", "validation_images"),
    "val_labels": ("val_labels", "y_val", "valid_labels", "y_valid", "validation_labels"),
}
LAYOUTS = "images (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"


def read_array_file(path: Path) -> Source:
    """Return the images and labels in a .npz or .npy file, resized to 32 x 32.

    The keys are train_images, train_labels, test_images and test_labels, or those of Keras (x_train, ...); ``images``
    and ``labels``, or a single array of images. Where there are no test images, val_images are taken as such, and
    otherwise not at all.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; if they are not square, the largest centred
    square is taken. They are uint8, or booleans, whole numbers from 0 to 65535, or fractions from 0 to 1. Labels are
    integers, (N,) or (N, 1), and may be missing; others are left out. Notes tell of everything but MedMNIST's form.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or of another kind, or an array is not as described.
    """
    if not path.is_file():
        raise FileNotFoundError(f"dataset: got {str(path)!r}, expected a file that exists")
    place = f"dataset {str(path)!r}"
    notes: list[str] = []
    with stored_arrays(path, place) as arrays:
        keys = keys_of(arrays, place, notes)
        splits = ["train", *choose_test_images(keys, notes)]
        image_keys = [keys[f"{split}_images"] for split in splits]
        for key in image_keys:
            size = 3 * IMAGE_SIZE**2 * max(arrays[key].shape[:1], default=0)
            check_size(owner_of(place, key), size, path, "of images of 32 x 32", "give fewer images")
        images = as_images({key: arrays[key].read() for key in image_keys}, place, notes)
        parts = []
        for split, tensor in zip(splits, images, strict=True):
            key = keys.get(f"{split}_labels", "")
            labels = as_labels(arrays[key], len(tensor), place, key, notes) if key else None
            parts.append(Pictures(tensor, labels, range(len(tensor))))
    train, *test = parts
    for part, key in zip(test, image_keys[1:], strict=True):
        expected = f"{train.images.shape[1]} as in {image_keys[0]}"
        got = part.images.shape[1]
        require(got == train.images.shape[1], owner_of(place, key), f"{got} channels", expected)
    notes += doubts_about(train.images)
    return Source(train, test[0] if test else None, notes=tuple(notes))


def owner_of(place: str, key: str) -> str:
    """Return the beginning of messages on an array of a file."""
    return f"{place}: {key}" if key else place


def called(key: str) -> str:
    """Return what notes call an array."""
    return key or "the array"


def keys_of(arrays: dict[str, StoredArray], place: str, notes: list[str]) -> dict[str, str]:
    """Return the key in the file of each of :data:`KEYS` that it has. ValueError where that is not clear."""
    keys = {}
    for role, names in KEYS.items():
        found = [key for key in arrays if key.lower() in names]
        require(len(found) <= 1, place, f"the keys {', '.join(found)}", f"one of them as {role}")
        if found:
            keys[role] = found[0]
    if "train_images" not in keys:
        candidates = [key for key in arrays if key not in keys.values() and len(arrays[key].shape) > 2]
        got = f"the keys {shorten(', '.join(arrays)) or 'none'}"
        expected = "train_images among them, or a single array of images"
        clear = len(candidates) == 1 and not keys.keys() & {"test_images", "val_images"}
        require(clear or list(arrays) == [""], place, got, expected)
        keys["train_images"] = candidates[0] if candidates else ""
    assumed = [f"{key} is taken as {role}" for role, key in keys.items() if key not in ("", role)]
    if assumed:
        notes.append(", ".join(assumed))
    other = [key for key in arrays if key not in keys.values()]
    if other:
        notes.append(f"not read: {shorten(', '.join(other))}")
    return keys


def choose_test_images(keys: dict[str, str], notes: list[str]) -> list[str]:
    """Return ["test"], ["val"] or [], by the images that can be tested on, and tell of val_images."""
    if "val_images" not in keys:
        return ["test"] if "test_images" in keys else []
    if "test_images" in keys:
        notes.append(f"{keys['val_images']} are used neither to train nor to test, as there are {keys['test_images']}")
        return ["test"]
    notes.append(f"{keys['val_images']} are taken as the test images, as there are no test_images")
    return ["val"]


def as_images(arrays: dict[str, np.ndarray], place: str, notes: list[str]) -> list[Tensor]:
    """Return arrays of images by their keys as (N, C, 32, 32) uint8, all of them scaled alike."""
    first = next(iter(arrays))
    for key, array in arrays.items():
        owner, form = owner_of(place, key), f"{array.dtype} of shape {array.shape}"
        require(array.dtype.kind in "buif", owner, form, f"uint8 {LAYOUTS}")
        require(array.ndim in (3, 4), owner, form, LAYOUTS)
        require(array.size, owner, form, "at least one image")
        expected = f"dtype {arrays[first].dtype} as in {first}"
        require(array.dtype == arrays[first].dtype, owner, f"dtype {array.dtype}", expected)
    arranged = [channels_last(array, place, key, notes) for key, array in arrays.items()]
    if arrays[first].dtype != np.uint8:
        owner = owner_of(place, first)
        lowest, highest = (float(f([f(array) for array in arranged])) for f in (np.min, np.max))
        whole = all(map(are_whole, arranged))
        scale = black_and_white(lowest, highest, whole)
        expected = "uint8, booleans, whole numbers from 0 to 65535, or fractions from 0 to 1"
        if scale is None:
            kind = "whole numbers" if whole else "numbers"
            raise ValueError(
                f"{owner}: got {arrays[first].dtype}, {kind} from {lowest:g} to {highest:g}, expected {expected}"
            )
        notes.append(f"{', '.join(map(called, arrays))}: {describe_scale(lowest, highest, scale)}")
        arranged = [to_eight_bits(array, scale) for array in arranged]
    return [resize(torch.from_numpy(array).permute(0, 3, 1, 2)) for array in arranged]


def channels_last(array: np.ndarray, place: str, key: str, notes: list[str]) -> np.ndarray:
    """Return images of any of :data:`LAYOUTS` as (N, H, W, C). ValueError where the layout is unclear or another."""
    owner, form = owner_of(place, key), f"shape {array.shape}"
    if array.ndim == 3:
        expected = f"{LAYOUTS}; for one image in colour (1, H, W, C)"
        require(array.shape[2] not in (3, 4), owner, form, expected)
        return array[..., None]
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    require(first or last, owner, form, LAYOUTS)
    require(not (first and last) or array.shape[1:3] == (1, 1), owner, form, f"one size that can be C: {LAYOUTS}")
    if last:
        return array
    notes.append(f"{called(key)} of {form} is taken as channels first, (N, C, H, W)")
    return array.transpose(0, 2, 3, 1)


def as_labels(labels: StoredArray, count: int, place: str, key: str, notes: list[str]) -> Tensor | None:
    """Return labels (N,) int64; None, with a note, for what is no class of an image. ValueError for another number."""
    expected = f"({count},) or ({count}, 1), one label for every image"
    require(labels.shape[:1] == (count,), owner_of(place, key), f"shape {labels.shape}", expected)
    if labels.shape in ((count,), (count, 1)) and labels.dtype.kind in "iub":
        return torch.from_numpy(labels.read().reshape(-1).astype(np.int64))
    form = f"{labels.dtype} of shape {labels.shape}"
    notes.append(f"{key} are left out: got {form}, expected integers {expected}")
    return None
