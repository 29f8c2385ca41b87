"""The data sets that torchvision reads and downloads."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import write_atomically
from ..progress import progress_bar
from .image_data import IMAGE_SIZE, ImageData, binarized, pad_digits, resize
from .image_files import evident_fault
from .stored_arrays import check_size, largest_unpacked

#: Side of the centred square that shows the face in an aligned CelebA image, and the size of these images.
CELEBA_CROP, CELEBA_SIZE = 140, (178, 218)
CELEBA_PARTITION, CELEBA_IMAGES = "celeba/list_eval_partition.txt", "celeba/img_align_celeba"
#: Where Kaggle's archive has the partition and the images, below the folder that it was unpacked into.
KAGGLE_PARTITION, KAGGLE_IMAGES = "list_eval_partition.csv", "img_align_celeba/img_align_celeba"
ARCHIVES = (".zip", ".gz", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class TorchvisionSet:
    """A data set: what reads it, given the folder and whether to download, and the files that it needs there."""

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
    unpack(name, data_root)
    try:
        return entry.read(data_root, download)
    except ImportError as error:
        package = {"scipy": "scipy", "PIL": "pillow"}.get(error.name or "", "torchvision")
        raise ImportError(f"dataset {name}: {error}. Install what reads it: pip install {package}") from error
    except (OSError, HTTPException, RuntimeError, ValueError, AssertionError, LookupError, EOFError) as error:
        raise explained(name, data_root, download, error) from error


def unpack(name: str, data_root: str) -> None:
    """Unpack files of a data set that lie in ``data_root`` as they are published, as FILE.gz.

    Raises:
        ValueError: such a file is damaged, or unpacks to too many bytes.
        OSError: the file that is unpacked cannot be written.
    """
    for file in TORCHVISION_SETS[name].files:
        path, packed = Path(data_root, file), Path(data_root, f"{file}.gz")
        if not path.exists() and packed.is_file():
            place = f"dataset {name}: {str(packed)!r}"
            try:
                with gzip.open(packed) as archive:
                    contents = archive.read(largest_unpacked(packed) + 1)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                fault = evident_fault(packed) or error
                raise ValueError(f"{place}: is damaged or no .gz file ({fault}); delete it and get it again") from error
            check_size(place, len(contents), packed, "unpacked", "unpack it by gunzip")
            write_atomically(path, partial(Path.write_bytes, data=contents))


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
            f"{elsewhere(name, missing, Path(data_root))}"
            "Give the folder that holds them, or get them with --download (load_dataset(..., download=True))"
        )
    paths = {file: Path(data_root) / file for file in files}
    faults = [f"{file} is {fault}" for file, path in paths.items() if path.is_file() and (fault := evident_fault(path))]
    reason = ", ".join(faults) or str(error) or type(error).__name__
    return ValueError(
        f"dataset {name}: data_root: the files under {data_root!r} are damaged or cannot be read: {reason}. "
        f"Delete them ({', '.join(files)}) and get them again with --download"
    )


def elsewhere(name: str, missing: list[str], data_root: Path) -> str:
    """Return a sentence on files and archives near the root that may be what is missing; "" if there are none."""
    targets = {Path(file).name: file for file in missing}
    of_sets = {file for entry in TORCHVISION_SETS.values() for file in entry.files}
    near = [path.relative_to(data_root) for pattern in ("*", "*/*", "*/*/*") for path in data_root.glob(pattern)]
    for path in near:
        target = targets.get(path.name.removesuffix(".gz"))
        if target and path.as_posix().removesuffix(".gz") not in of_sets:
            return f"If {path} is of {name}, move it to {Path(target).with_name(path.name)}, and the like. "
    unpacked = {f"{file}.gz" for file in of_sets}  # by unpack
    packed = [str(path) for path in near if path.name.lower().endswith(ARCHIVES) and path.as_posix() not in unpacked]
    packed.sort(key=lambda path: name[:5] not in path.lower())  # such as cifar-10-python.tar.gz
    return f"Unpack {', '.join(packed[:3])}, if it holds them, so that they lie there. " if packed else ""


def torchvision_datasets() -> Any:
    """Return torchvision.datasets. ImportError if torchvision is missing or does not fit the installed torch."""
    try:
        from torchvision import datasets
    except ImportError:
        raise
    except Exception as error:  # a torchvision of another torch version fails with RuntimeError, among others
        raise ImportError(f"torchvision does not load ({error}); it must fit torch {torch.__version__}") from error
    return datasets


def reader(
    class_name: str,
    prepare: Callable[[Tensor], Tensor],
    labels: str = "targets",
    splits: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False}),
) -> Callable[[str, bool], ImageData]:
    """Return the reader of a class of torchvision, given what makes its pixels ours and what it calls its parts."""

    def read(data_root: str, download: bool) -> ImageData:
        dataset = getattr(torchvision_datasets(), class_name)
        parts = [dataset(data_root, **split, download=download) for split in splits]
        images = [prepare(torch.as_tensor(part.data)) for part in parts]
        of_images = [torch.as_tensor(getattr(part, labels), dtype=torch.int64) for part in parts]
        return ImageData(images[0], of_images[0], images[1], of_images[1])

    return read


def read_celeba(data_root: str, download: bool) -> ImageData:
    """Return CelebA's aligned faces: train and test of its own partition (without valid), without labels.

    The files lie where torchvision has them, or as Kaggle's archive has them.

    The paper (F.4) only says "resize". The centred 140 x 140 pixels of the 178 x 218 are taken first, as is usual, so
    that a face keeps its proportions and the background is cut off.

    The images are read one by one, without torchvision, whose tables of attributes take half a gigabyte; it is only
    needed for a download.
    """
    kaggle = [Path(data_root, part) for part in (KAGGLE_PARTITION, KAGGLE_IMAGES)]
    own = [Path(data_root, part) for part in (CELEBA_PARTITION, CELEBA_IMAGES)]
    partition, folder = kaggle if all(path.exists() for path in kaggle) else own
    if download and not (partition.is_file() and folder.is_dir()):
        torchvision_datasets().CelebA(data_root, split="test", target_type=[], download=True)
    splits = [line.replace(",", " ").split() for line in partition.read_text().splitlines() if line.strip()]
    train, test = (
        read_faces(folder, [name for name, part in splits if part == split])
        for split in ("0", "2")  # "1" is valid
    )
    return ImageData(train, None, test, None)


def read_faces(folder: Path, names: list[str]) -> Tensor:
    """Return aligned faces (N, 3, 32, 32) uint8. ValueError if a file is missing, broken or of another size."""
    from PIL import Image

    if not names:
        raise ValueError(f"{CELEBA_PARTITION} names no images for train or for test")
    faces = np.empty((len(names), 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    left, top = ((side - CELEBA_CROP) // 2 for side in CELEBA_SIZE)
    box = (left, top, left + CELEBA_CROP, top + CELEBA_CROP)
    for index, name in enumerate(progress_bar(names, desc="reading celeba", delay=1)):
        try:
            with Image.open(folder / name) as image:
                if image.size != CELEBA_SIZE:
                    raise ValueError(f"got an image of {image.size}, expected an aligned one of {CELEBA_SIZE}")
                face = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS, box)
                faces[index] = np.asarray(face).transpose(2, 0, 1)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder.name}/{name}: {error}") from error
    return torch.from_numpy(faces)


def digit_files(folder: str) -> tuple[str, ...]:
    """Return the idx files of MNIST, or of a data set in its format."""
    parts = ("images-idx3", "labels-idx1")
    return tuple(f"{folder}/raw/{split}-{part}-ubyte" for split in ("train", "t10k") for part in parts)


CIFAR10_FILES = (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch", "batches.meta")
SVHN_SPLITS = ({"split": "train"}, {"split": "test"})  # without the extra images
read_mnist = reader("MNIST", pad_digits)

#: Every data set that torchvision can download.
TORCHVISION_SETS = {
    "mnist": TorchvisionSet(read_mnist, digit_files("MNIST")),
    "bmnist": TorchvisionSet(lambda *where: binarized(read_mnist(*where)), digit_files("MNIST")),
    "fashion-mnist": TorchvisionSet(reader("FashionMNIST", pad_digits), digit_files("FashionMNIST")),
    "svhn": TorchvisionSet(reader("SVHN", resize, "labels", SVHN_SPLITS), ("train_32x32.mat", "test_32x32.mat")),
    "cifar10": TorchvisionSet(
        reader("CIFAR10", lambda pixels: resize(pixels.permute(0, 3, 1, 2))),
        tuple(f"cifar-10-batches-py/{file}" for file in CIFAR10_FILES),
    ),
    "celeba": TorchvisionSet(read_celeba, (CELEBA_PARTITION, CELEBA_IMAGES)),
}
