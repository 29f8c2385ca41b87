"""Folders of pictures as people have them, one entry a kind: what lies there, what is told, and what is right."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

Image = pytest.importorskip("PIL.Image", reason="needs Pillow, which reads images", exc_type=ImportError)
features = pytest.importorskip("PIL.features", reason="needs Pillow, which reads images", exc_type=ImportError)


def random_pixels(*shape: int) -> np.ndarray:
    """Pixels that are the same for a shape in every run."""
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    """Writes an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def grey(folder: Path, *names: str) -> None:
    """Writes grey images, all of them different."""
    for number, name in enumerate(names):
        save(folder / name, random_pixels(20, 24 + number))


def numbered(count: int, pattern: str = "{}.png") -> list[str]:
    return [pattern.format(number) for number in range(count)]


@dataclass(frozen=True)
class FolderKind:
    """Args:
    write: makes the folder's files.
    counts: images to train on and to test on.
    told: a pattern for each warning, in order.
    right: whether all images, the ones to train on first, are as they should be.
    channels: channels of the images.
    refused: a pattern for the error, where there is one.
    """

    write: Callable[[Path], None]
    counts: tuple[int, int] = (0, 0)
    told: tuple[str, ...] = ()
    right: Callable[[Tensor], bool] = lambda images: True
    channels: int = 1
    refused: str = ""


def splits(*names: str, beside: tuple[str, ...] = ()) -> Callable[[Path], None]:
    """Four images in each of these subfolders, and others beside them."""
    return lambda folder: grey(folder, *(f"{name}/{number}.png" for name in names for number in range(4)), *beside)


def ink(*colours: int) -> Callable[[Path], None]:
    """Strokes of one colour each on a transparent ground, whose hidden colour is the same."""

    def write(folder: Path) -> None:
        for number in range(4):
            pixels = np.full((32, 32, 4), colours[number % len(colours)], np.uint8)
            pixels[..., 3] = 0
            pixels[4 + 5 * number : 8 + 5 * number, 4:28, 3] = 255
            save(folder / f"{number}.png", pixels)

    return write


def saved(images: dict[str, np.ndarray]) -> Callable[[Path], None]:
    """Images of these pixels, in files of these names."""

    def write(folder: Path) -> None:
        for name, pixels in images.items():
            save(folder / name, pixels)

    return write


def ramp(first: float, last: float, dtype: type) -> np.ndarray:
    """An image whose values go from one to another."""
    return np.linspace(first, last, 1024).reshape(32, 32).astype(dtype)


def ramps(dtype: type, *ends: tuple[float, float], suffix: str = "png") -> Callable[[Path], None]:
    return saved({f"{number}.{suffix}": ramp(*pair, dtype) for number, pair in enumerate(ends)})


def alike(pixels: np.ndarray) -> Callable[[Path], None]:
    return saved(dict.fromkeys(numbered(5), pixels))


def formats(*suffixes: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number, suffix in enumerate(suffixes):
            save(folder / f"picture.{suffix}", random_pixels(32 + number, 32, 3))

    return write


def contents(files: dict[str, bytes], good: int = 3) -> Callable[[Path], None]:
    """Files of given bytes beside some good images."""

    def write(folder: Path) -> None:
        grey(folder, *numbered(good))
        for name, data in files.items():
            (folder / name).write_bytes(data)

    return write


def png(width: int, height: int, rows: bytes = bytes(9), bits: int = 8, colour_type: int = 0) -> bytes:
    """A PNG of any form, also one that declares a size without having the pixels."""
    form = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [b"IHDR" + form, b"IDAT" + zlib.compress(rows), b"IEND"]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def sixteen_bits(colour_type: int, channels: int, highest: int) -> bytes:
    """A PNG with 16 bits of each channel, 32 x 32, opaque where the last is alpha."""
    pixels = np.linspace(0, highest, 32 * 32 * channels).astype(">u2").reshape(32, 32, channels)
    if channels % 2 == 0:
        pixels[..., -1] = 65535
    return png(32, 32, b"".join(b"\0" + row.tobytes() for row in pixels), 16, colour_type)


def with_colour(folder: Path) -> None:
    grey(folder, *numbered(40))
    save(folder / "photo.png", random_pixels(32, 32, 3))


def odd_names(folder: Path) -> None:
    save(folder / "made.png", random_pixels(32, 32))
    for name in ("no_suffix", "picture.dat", "photo.jpg_large"):
        grey(folder, f"{name}.png")
        (folder / f"{name}.png").rename(folder / name)


def nan_tiff(folder: Path) -> None:
    grey(folder, *numbered(3))
    save(folder / "nan.tif", np.full((8, 8), np.nan, np.float32))


def animation(folder: Path) -> None:
    grey(folder, *numbered(3))
    frames = [Image.fromarray(random_pixels(32, 32 + number)) for number in range(2)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=[frames[1].resize(frames[0].size)])


def damaged_exif(folder: Path) -> None:
    grey(folder, *numbered(3))
    save(folder / "photo.jpg", random_pixels(32, 32), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")


def system_files(folder: Path) -> None:
    grey(folder, *numbered(4))
    (folder / "__MACOSX").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._0.png"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")


def postscript(folder: Path) -> None:
    grey(folder, *numbered(3))
    for suffix in ("eps", "png"):
        (folder / f"program.{suffix}").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")


#: Formats that are less common, and those that Pillow has where it was built with more libraries.
OTHER_FORMATS = [
    *("pgm", "ppm", "tga", "jfif", "pcx", "ico", "dib", "sgi"),
    *(suffix for suffix, library in {"jp2": "jpg_2000", "avif": "avif"}.items() if features.check(library)),
]
BLACK = np.zeros((32, 32), np.uint8)
#: The kinds by their names.
FOLDERS = {
    "train and test": FolderKind(splits("train", "test"), (4, 4)),
    "capitalized": FolderKind(splits("Train", "TEST"), (4, 4)),
    "training and testing": FolderKind(splits("Training", "Testing"), (4, 4)),
    **{
        f"train and {name}": FolderKind(splits("train", name), (4, 4), (f"the images of {name} are taken as the test",))
        for name in ("val", "valid", "Validation")
    },
    "train, val and test": FolderKind(
        splits("train", "val", "test"), (4, 4), ("images of val are used neither to train nor to test",)
    ),
    "train alone": FolderKind(splits("train/cat", "train/dog"), (8 - 1, 1)),
    "train as a class": FolderKind(
        splits("train", "car", "bus"), (12 - 1, 1), ("^dataset .*: train and the folders .* no",)
    ),
    "test beside classes": FolderKind(
        splits("test", "car", "bus"), (12 - 1, 1), ("^dataset .*: test and the folders .* no",)
    ),
    "files beside the split": FolderKind(
        splits("train", "test", "masks", beside=("a.png",)), (4, 4), ("not read, as there is train: a.png, masks$",)
    ),
    "splits of each class": FolderKind(
        splits("bottle/train", "bottle/test", "cable/train", "cable/test"),
        (16 - 1, 1),
        ("the images of test and train in bottle are mixed; give bottle to have them apart",),
    ),
    "folders named like a split": FolderKind(
        splits("training_set", "test_set"),
        (8 - 1, 1),
        ("test_set, training_set are no split, and all are read; name them train and test to have them apart",),
    ),
    "classes with words of a split": FolderKind(splits("train_station", "harbour"), (8 - 1, 1)),
    "two folders to train on": FolderKind(
        splits("train", "Training"), refused="got Training and train, expected one folder for train"
    ),
    "nothing to train on": FolderKind(
        splits("test", "val"), refused="got test and val without train, expected train beside them"
    ),
    "black ink": FolderKind(
        ink(0), (3, 1), (r"4 images .* put on white",), lambda x: x.min() == 0 and x.max() == 255, channels=3
    ),
    "white ink": FolderKind(ink(255), (3, 1), (), lambda x: x[:, :, 0].max() == 0 and x.max() == 255, channels=3),
    "ink of both colours": FolderKind(
        ink(255, 0),
        (3, 1),
        (r"transparent pixels are black, on which 2 images \(1.png, 3.png\) can hardly be seen; save these opaque",),
        channels=3,
    ),
    "all black": FolderKind(alike(BLACK), (4, 1), ("all pixels of all 5 images are black",)),
    "all grey": FolderKind(alike(BLACK + 77), (4, 1), ("all pixels of all 5 images are 77 of 255",)),
    "all alike": FolderKind(alike(random_pixels(32, 32)), (4, 1), ("all 5 images are alike",)),
    "dark": FolderKind(
        ramps(np.uint8, (0, 9), (9, 0)), (1, 1), ("pixels lie between 0 and 9 of 0 to 255, .* hardly any contrast",)
    ),
    "12 bits in 16": FolderKind(
        ramps(np.uint16, (0, 4000), (4095, 0)),
        (1, 1),
        (r"2 images \(0.png, 1.png\) of more than 8 bits: values from 0 to 4095 .* 4095 is white",),
        lambda images: images.max() == 255,
    ),
    "16 bits": FolderKind(ramps(np.uint16, (0, 65000), (1, 65535)), (1, 1), (), lambda images: images.max() == 255),
    **{
        f"14 bits in 16, {name}": FolderKind(
            contents({"a.png": sixteen_bits(*form, 16383), "b.png": sixteen_bits(*form, 4095)}),
            (4, 1),
            (r"2 images \(a.png, b.png\): the upper 8 bits of 16, which are read, reach only 6\d of 255; save",),
        )
        for name, form in {"RGB": (2, 3), "grey with alpha": (4, 2), "RGB with alpha": (6, 4)}.items()
    },
    "16 bits in colour": FolderKind(
        contents({"a.png": sixteen_bits(2, 3, 65535), "b.png": sixteen_bits(2, 3, 4095)}, good=0), (1, 1), channels=3
    ),
    "float TIFFs": FolderKind(
        ramps(np.float32, (-5, 7), (-2, 7.5), suffix="tif"),
        (1, 1),
        ("values from -5 to 7.5 are scaled so that -5 is black and 7.5 is white",),
        lambda images: images.min() == 0 and images.max() == 255,
    ),
    "fractions": FolderKind(
        ramps(np.float32, (0, 1), (0, 0.5), suffix="tif"), (1, 1), ("from 0 to 1 .* 0 is black and 1 is white",)
    ),
    "int32 TIFFs": FolderKind(
        ramps(np.int32, (-1000, 3000), (0, 3003), suffix="tif"),
        (1, 1),
        ("values from -1000 to 3003 are scaled so that -1000 is black and 3003 is white",),
    ),
    "fractions among 12 bits": FolderKind(
        saved({"a.tif": ramp(0, 1, np.float32), "b.png": ramp(0, 4095, np.uint16), "c.png": ramp(255, 0, np.uint8)}),
        (2, 1),
        (r"1 image \(a.tif\) .* 1 is white", r"1 image \(b.png\) .* 4095 is white"),
        lambda images: (images.flatten(1).amax(1) == 255).all(),
    ),
    "NaN": FolderKind(nan_tiff, (2, 1), ("1 file skipped: nan.tif: values that are NaN or infinite",)),
    "400 megapixels": FolderKind(
        contents({"poster.png": png(20000, 20000)}),
        (2, 1),
        (r"1 file skipped: poster.png: more than 179 megapixels: make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS",),
    ),
    "empty files": FolderKind(
        contents({f"e{number}.jpg": b"" for number in range(7)}),
        (2, 1),
        ("7 files skipped: e0.jpg: empty; e1.jpg: empty; e2.jpg: empty; e3.jpg: empty; e4.jpg: empty; and 2 more$",),
    ),
    "nothing else than empty files": FolderKind(
        contents({"a.png": b"", "b.png": b"\x89PNG"}, good=0),
        refused=r"got no image among 2 files \(a.png: empty; b.png: .*\), expected images in a format that Pillow",
    ),
    "pages and pointers": FolderKind(
        contents({"page.jpg": b"<!DOCTYPE html><html>", "large.png": b"version https://git-lfs.github.com/spec/v1\n"}),
        (2, 1),
        ("2 files skipped: large.png: a Git LFS pointer; .* page.jpg: an HTML page, which a failed download leaves",),
    ),
    "programs": FolderKind(postscript, (2, 1), ("program.eps: no image that .*; program.png: no image that Pillow",)),
    "other formats": FolderKind(formats(*OTHER_FORMATS), (len(OTHER_FORMATS) - 1, 1), channels=3),
    "pictures of phones": FolderKind(
        contents({"IMG_1.HEIC": b"\x00\x00\x00\x18ftypheic"}),
        (2, 1),
        ("IMG_1.HEIC: no image that .*: save it as JPEG$",),
    ),
    "odd names": FolderKind(odd_names, (3, 1)),
    "one colour file": FolderKind(
        with_colour, (37, 4), (r"1 image \(photo.png\) in colour among 41: all become RGB",), channels=3
    ),
    "animation": FolderKind(animation, (3, 1), (r"first frame alone is taken of 1 file \(film.gif\)",)),
    "damaged EXIF": FolderKind(damaged_exif, (3, 1)),
    "files of the system": FolderKind(system_files, (3, 1)),
}
