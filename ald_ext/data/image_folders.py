"""Folders of images of any size and mode."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..progress import progress_bar
from ..settings import require
from .image_data import IMAGE_SIZE, ImageData, hold_out

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
#: Modes of Pillow with 16 bits, and all modes without colour.
SIXTEEN_BIT_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
GREY_MODES = {"1", "L", "LA", "La", *SIXTEEN_BIT_MODES}
#: Number of skipped files that the warning names.
NAMED_FILES = 5
#: A JPEG is decoded at a reduced size, at least this multiple of what is needed, which is fast and costs no quality.
DRAFT = 4


@dataclass
class FolderImages:
    """The images below a folder: (N, C, 32, 32), the class of each or None, and the files that were skipped."""

    images: Tensor
    classes: list[str] | None
    skipped: list[str]


def load_folder(folder: Path) -> ImageData:
    """Return the images below a folder (png, jpg, bmp, webp, gif, tif), their centred squares resized to 32 x 32.

    EXIF orientation is respected, 16-bit grey is scaled to 8 bits, transparent pixels are put on black, and of an
    animation the first frame is taken. The images are grey if all of them are, otherwise RGB. Hidden files are ignored;
    other files and broken images are skipped, with one warning.

    Subfolders ``train`` and ``test``, if there are both, are the split, and nothing beside them is read. Otherwise a
    tenth of the images, at least one, is held out, by a permutation of the sorted file names with a fixed seed. If all
    images lie in subfolders, one level deep, the labels are the indices of the sorted subfolders.

    Raises:
        ValueError: no image, or none for one of the splits.
        ImportError: Pillow is missing.
    """
    if all((folder / split).is_dir() for split in ("train", "test")):
        parts = [read_folder(folder, split) for split in ("train", "test")]
        channels = max(part.images.shape[1] for part in parts)  # grey is RGB where another part has colours
        train, test = (part.images.expand(-1, channels, -1, -1).contiguous() for part in parts)
        train_labels, test_labels = label_together(parts)
        data = ImageData(train, train_labels, test, test_labels)
    else:
        parts = [read_folder(folder)]
        enough = len(parts[0].images) > 1
        require(enough, f"dataset {str(folder)!r}", "1 image", "at least 2, one to hold out")
        data = hold_out(parts[0].images, label_together(parts)[0])
    skipped = tuple(name for part in parts for name in part.skipped)
    if skipped:
        names = ", ".join(skipped[:NAMED_FILES]) + (", ..." if len(skipped) > NAMED_FILES else "")
        warnings.warn(
            f"dataset {str(folder)!r}: files skipped because they are no images or broken: {len(skipped)} ({names})",
            stacklevel=3,  # the caller of load_dataset
        )
    return replace(data, skipped=skipped)


def label_together(parts: list[FolderImages]) -> list[Tensor | None]:
    """Return the index of each image's class among all sorted classes; None for a part without classes."""
    indices = {name: index for index, name in enumerate(sorted({n for part in parts for n in part.classes or ()}))}
    return [None if part.classes is None else torch.tensor([indices[n] for n in part.classes]) for part in parts]


def read_folder(folder: Path, split: str = "") -> FolderImages:
    """Return the images below ``folder / split``, sorted by name. ValueError if there is none that can be read."""
    top = folder / split
    names = sorted(visible_files(top))
    candidates = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    images, kept = read_images(top, candidates)
    expected = f"images ({', '.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})"
    require(kept, f"dataset {str(top)!r}", f"no image among {len(names)} files", expected)
    skipped = [(Path(split) / name).as_posix() for name in sorted(set(names).difference(kept))]
    has_classes = all(name.count("/") == 1 for name in kept)
    return FolderImages(images, [name.split("/")[0] for name in kept] if has_classes else None, skipped)


def visible_files(top: Path) -> Iterator[str]:
    """Iterate over the files below a folder, as relative paths with slashes, except hidden files and folders.

    Links to folders are followed, but no folder is entered twice.
    """
    entered = set()
    for parent, folders, files in os.walk(top, onerror=raise_error, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(top)
        for name in files:
            if not name.startswith("."):
                yield (relative / name).as_posix()


def raise_error(error: OSError) -> None:
    """Raise the error of os.walk, which would otherwise skip a folder that cannot be read."""
    raise error


def read_images(top: Path, names: list[str]) -> tuple[Tensor, list[str]]:
    """Return images (N, C, 32, 32), C = 1 if all are grey and 3 otherwise, and the names of those that can be read."""
    pixels = np.empty((len(names), 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    kept: list[str] = []
    all_grey = True
    for name in progress_bar(names, desc="reading images", delay=1, leave=False):
        image = read_image(top / name)
        if image is not None:
            pixels[len(kept)] = image
            all_grey = all_grey and len(image) == 1
            kept.append(name)
    channels = 1 if all_grey else 3
    return torch.from_numpy(pixels[: len(kept), :channels]).contiguous(), kept


def read_image(path: Path) -> np.ndarray | None:
    """Return an image (1 or 3, 32, 32) uint8; None where Pillow cannot read the file. ImportError without Pillow."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"dataset: {error}. Install what reads images: pip install pillow") from error

    if not path.is_file():  # a broken link or a pipe
        return None
    try:
        with Image.open(path) as file:
            file.draft(None, (DRAFT * IMAGE_SIZE, DRAFT * IMAGE_SIZE))
            image = plain_image(ImageOps.exif_transpose(file))
        image = ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    except MemoryError:
        raise
    except Exception:  # Pillow raises nearly anything on a broken file: SyntaxError, struct.error, KeyError, ...
        return None
    return np.asarray(image).reshape(IMAGE_SIZE, IMAGE_SIZE, -1).transpose(2, 0, 1)


def plain_image(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, transparent pixels on black. ValueError for 32-bit values of unknown scale."""
    from PIL import Image

    if image.mode in SIXTEEN_BIT_MODES:
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"got values from {values.min()} to {values.max()}, expected 0 to 65535")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("got an image of floats, expected 8 or 16 bits")
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    transparent = image.convert("RGBA")
    result = Image.new(mode, image.size)
    result.paste(transparent.convert(mode), mask=transparent.getchannel("A"))
    return result
