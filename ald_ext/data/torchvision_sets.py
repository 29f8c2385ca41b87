"""The data sets that torchvision reads and downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..progress import progress_bar
from .image_data import IMAGE_SIZE, ImageData, binarized, pad_digits, resize

if TYPE_CHECKING:
    from PIL import Image

#: Side of the centred square that shows the face in an aligned CelebA image, and the size of these images.
CELEBA_CROP, CELEBA_SIZE = 140, (178, 218)
CELEBA_PARTITION, CELEBA_IMAGES = "celeba/list_eval_partition.txt", "celeba/img_align_celeba"
#: Names of the splits in list_eval_partition.txt.
CELEBA_TRAIN, CELEBA_TEST = "0", "2"


@dataclass(frozen=True)
class TorchvisionSet:
    """A data set: the function that reads it from a folder, and the files that it needs there.

    Args:
        read: function of the folder and of whether to download what is missing.
        files: paths relative to the folder.
    """

    read: Callable[[str, bool], ImageData]
    files: tuple[str, ...]


def load_torchvision_set(name: str, data_root: str | None, *, download: bool = False) -> ImageData:
    """Return a data set of :data:`TORCHVISION_SETS` from files under ``data_root``, or downloaded there.

    Raises:
        ValueError: no data_root, or damaged files.
        FileNotFoundError: files are missing, and ``download`` is not given.
        OSError: the download failed.
        ImportError: torchvision, or what it needs for these files, is missing.
    """
    entry = TORCHVISION_SETS[name]
    if data_root is None:
        raise ValueError(
            f"dataset {name}: data_root: got none, expected the folder that holds {entry.files[0]} (--data-root DIR)"
        )
    try:
        return entry.read(data_root, download)
    except ImportError as error:
        raise ImportError(
            f"dataset {name}: {error}. Install what reads it: pip install {missing_package(error)}"
        ) from error
    except (OSError, HTTPException, RuntimeError, ValueError, AssertionError, LookupError, EOFError) as error:
        raise explained(name, data_root, download, error) from error


def missing_package(error: ImportError) -> str:
    """Return the package to install."""
    return {"scipy": "scipy", "PIL": "pillow"}.get(error.name or "", "torchvision")


def explained(name: str, data_root: str, download: bool, error: Exception) -> Exception:
    """Return an error that says, by the files that are there, what went wrong."""
    files = TORCHVISION_SETS[name].files
    missing = [file for file in files if not (Path(data_root) / file).exists()]
    if download and (missing or isinstance(error, (OSError, HTTPException))):
        return OSError(
            f"dataset {name}: the download failed: {' '.join(str(error).split())}. "
            f"Without a network, put these files into {data_root!r} by hand: {', '.join(files)}"
        )
    if missing:
        return FileNotFoundError(
            f"dataset {name}: data_root: found no {name.upper()} under {data_root!r}: missing {', '.join(missing)}. "
            "Give the folder that holds them, or get them with --download (load_dataset(..., download=True))"
        )
    return ValueError(
        f"dataset {name}: data_root: the files under {data_root!r} are damaged or cannot be read: {error}. "
        f"Delete them ({', '.join(files)}) and get them again with --download"
    )


def torchvision_datasets() -> Any:
    """Return torchvision.datasets. ImportError if torchvision is missing or does not fit the installed torch."""
    try:
        from torchvision import datasets
    except ImportError:
        raise
    except Exception as error:  # a torchvision of another torch version fails with RuntimeError, among others
        raise ImportError(f"torchvision does not load ({error}); it must fit torch {torch.__version__}") from error
    return datasets


def read_digits(class_name: str) -> Callable[[str, bool], ImageData]:
    """Return the reader of MNIST, or of a data set in its format."""

    def read(data_root: str, download: bool) -> ImageData:
        dataset = getattr(torchvision_datasets(), class_name)
        parts = [dataset(data_root, train=train, download=download) for train in (True, False)]
        train, test = ((pad_digits(part.data), part.targets.to(torch.int64)) for part in parts)
        return ImageData(*train, *test)

    return read


def read_bmnist(data_root: str, download: bool) -> ImageData:
    """Return MNIST, binarized once with a fixed seed, see :func:`.image_data.binarized`."""
    return binarized(read_digits("MNIST")(data_root, download))


def read_svhn(data_root: str, download: bool) -> ImageData:
    """Return SVHN's train and test, without the extra images."""
    dataset = torchvision_datasets().SVHN

    def part(split: str) -> tuple[Tensor, Tensor]:
        digits = dataset(data_root, split=split, download=download)
        return resize(torch.from_numpy(digits.data)), torch.from_numpy(digits.labels).to(torch.int64)

    return ImageData(*part("train"), *part("test"))


def read_cifar10(data_root: str, download: bool) -> ImageData:
    """Return CIFAR-10."""
    dataset = torchvision_datasets().CIFAR10

    def part(train: bool) -> tuple[Tensor, Tensor]:
        objects = dataset(data_root, train=train, download=download)
        return resize(torch.from_numpy(objects.data).permute(0, 3, 1, 2)), torch.tensor(objects.targets)

    return ImageData(*part(True), *part(False))


def read_celeba(data_root: str, download: bool) -> ImageData:
    """Return CelebA's aligned faces: train and test of its own partition (without valid), without labels.

    The paper (F.4) only says "resize". The centred 140 x 140 pixels of the 178 x 218 are taken first, as is usual, so
    that a face keeps its proportions and the background is cut off.

    The images are read one by one, without torchvision, whose tables of attributes take half a gigabyte; it is only
    needed for a download.
    """
    partition = Path(data_root, CELEBA_PARTITION)
    if download and not (partition.is_file() and Path(data_root, CELEBA_IMAGES).is_dir()):
        torchvision_datasets().CelebA(data_root, split="test", target_type=[], download=True)
    splits = [line.split() for line in partition.read_text().splitlines() if line.strip()]
    train, test = (
        read_faces(Path(data_root, CELEBA_IMAGES), [name for name, part in splits if part == split])
        for split in (CELEBA_TRAIN, CELEBA_TEST)
    )
    return ImageData(train, None, test, None)


def read_faces(folder: Path, names: list[str]) -> Tensor:
    """Return aligned faces (N, 3, 32, 32) uint8. ValueError if a file is missing, broken or of another size."""
    from PIL import Image

    if not names:
        raise ValueError(f"{CELEBA_PARTITION} names no images for train or for test")
    faces = np.empty((len(names), 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for index, name in enumerate(progress_bar(names, desc="reading celeba", delay=1)):
        try:
            with Image.open(folder / name) as image:
                faces[index] = face(image)
        except (OSError, ValueError) as error:
            raise ValueError(f"{CELEBA_IMAGES}/{name}: {error}") from error
    return torch.from_numpy(faces)


def face(image: Image.Image) -> np.ndarray:
    """Return the face in an aligned image, (3, 32, 32)."""
    from PIL import Image

    if image.size != CELEBA_SIZE:
        raise ValueError(f"got an image of {image.size}, expected an aligned one of {CELEBA_SIZE}")
    (width, height), crop = CELEBA_SIZE, CELEBA_CROP
    left, top = (width - crop) // 2, (height - crop) // 2
    box = (left, top, left + crop, top + crop)
    small = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS, box)
    return np.asarray(small).transpose(2, 0, 1)


def digit_files(folder: str) -> tuple[str, ...]:
    """Return the idx files of MNIST, or of a data set in its format."""
    return tuple(
        f"{folder}/raw/{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")
    )


CIFAR10_FILES = (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch", "batches.meta")

#: Every data set that torchvision can download.
TORCHVISION_SETS = {
    "mnist": TorchvisionSet(read_digits("MNIST"), digit_files("MNIST")),
    "bmnist": TorchvisionSet(read_bmnist, digit_files("MNIST")),
    "fashion-mnist": TorchvisionSet(read_digits("FashionMNIST"), digit_files("FashionMNIST")),
    "svhn": TorchvisionSet(read_svhn, ("train_32x32.mat", "test_32x32.mat")),
    "cifar10": TorchvisionSet(read_cifar10, tuple(f"cifar-10-batches-py/{file}" for file in CIFAR10_FILES)),
    "celeba": TorchvisionSet(read_celeba, (CELEBA_PARTITION, CELEBA_IMAGES)),
}
