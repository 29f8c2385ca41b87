"""Files of arrays as people have them, one entry a kind: what they hold, what is told, and what is right."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .pictures import random_pixels

GREY, COLOUR = random_pixels(12, 8, 8), random_pixels(12, 8, 9, 3)
NUMBERS = np.arange(12, dtype=np.int64)
OBJECTS = np.array([{}] * 12, dtype=object)


@dataclass(frozen=True)
class ArrayKind:
    """Args:
    arrays: by their keys, of a .npz file; or one of a .npy file.
    told: a pattern for each warning, in order.
    same_as: arrays in the form of MedMNIST that hold the same, where they are given.
    refused: a pattern for the error, where there is one.
    """

    arrays: dict[str, np.ndarray] | np.ndarray
    told: tuple[str, ...] = ()
    same_as: dict[str, np.ndarray] = field(default_factory=dict)
    refused: str = ""


def scaled(told: str, *, of: np.ndarray, same: np.ndarray) -> ArrayKind:
    return ArrayKind(
        {"train_images": of}, (f"^dataset .*: train_images: values from .* {told}",), {"train_images": same}
    )


def without_labels(labels: np.ndarray) -> ArrayKind:
    arrays = {"train_images": GREY, "train_labels": labels}
    return ArrayKind(arrays, ("train_labels are left out: got .*expected integers",), {"train_images": GREY})


def refused(pattern: str, **arrays: np.ndarray) -> ArrayKind:
    return ArrayKind(arrays, refused=pattern)


MEDMNIST = {"train_images": GREY, "train_labels": NUMBERS, "test_images": GREY[:3], "test_labels": NUMBERS[:3]}
KERAS = dict(zip(("x_train", "y_train", "x_test", "y_test"), MEDMNIST.values(), strict=True))
VALIDATION = {"train_images": GREY, "val_images": GREY[:3], "val_labels": NUMBERS[:3]}
TWELVE_BITS = (GREY.astype(np.uint16) << 4) + 15

#: The kinds by their names.
ARRAYS = {
    "MedMNIST": ArrayKind(MEDMNIST, (), MEDMNIST),
    "Keras": ArrayKind(KERAS, ("x_train is taken as train_images, y_train is taken as train_labels, .*",), MEDMNIST),
    "images and labels": ArrayKind(
        {"Images": GREY, "labels": NUMBERS},
        ("Images is taken as train_images, labels is taken as train_labels",),
        {"train_images": GREY, "train_labels": NUMBERS},
    ),
    "one array of images": ArrayKind(
        {"arr_0": GREY, "arr_1": NUMBERS},
        ("arr_0 is taken as train_images", "not read: arr_1$"),
        {"train_images": GREY},
    ),
    ".npy": ArrayKind(GREY, (), {"train_images": GREY}),
    ".npy of fractions": ArrayKind(GREY / 255, ("the array: values from 0 to 1",), {"train_images": GREY}),
    "validation images": ArrayKind(
        {**MEDMNIST, "val_images": GREY}, ("val_images are used neither to train nor to test",), MEDMNIST
    ),
    "validation images to test on": ArrayKind(
        VALIDATION,
        ("val_images are taken as the test images, as there are no test_images",),
        {"train_images": GREY, "test_images": GREY[:3], "test_labels": NUMBERS[:3]},
    ),
    "channels first": ArrayKind(
        {"train_images": COLOUR.transpose(0, 3, 1, 2)},
        (r"train_images of shape \(12, 3, 8, 9\) is taken as channels first",),
        {"train_images": COLOUR},
    ),
    "fractions": scaled("0 is black and 1 is white", of=(GREY / 255).astype(np.float32), same=GREY),
    "half precision": scaled("1 is white", of=(GREY > 99).astype(np.float16), same=(GREY > 99) * np.uint8(255)),
    "whole numbers as floats": scaled("0 is black and 255 is white", of=GREY.astype(np.float64), same=GREY),
    "int64": scaled("0 is black and 255 is white", of=GREY.astype(np.int64), same=GREY),
    "booleans": scaled("0 is black and 1 is white", of=GREY > 99, same=(GREY > 99) * np.uint8(255)),
    "12 bits": scaled("0 is black and 4095 is white", of=TWELVE_BITS, same=np.rint(TWELVE_BITS / 4095 * 255)),
    "big-endian": scaled("0 is black and 255 is white", of=GREY.astype(">i4"), same=GREY),
    "labels (N, 14)": without_labels(np.ones((12, 14), int)),
    "labels of floats": without_labels(np.zeros(12)),
    "labels as text": without_labels(np.array(["cat"] * 12)),
    "labels as objects": without_labels(OBJECTS),
    "objects beside": ArrayKind({"train_images": GREY, "meta": OBJECTS}, ("not read: meta$",), {"train_images": GREY}),
    "all black": ArrayKind({"train_images": 0 * GREY}, ("all pixels of all 12 images are black",)),
    "all alike": ArrayKind({"train_images": np.repeat(GREY[:1], 5, 0)}, ("all 5 images are alike",)),
    "masks of 0 and 1": ArrayKind({"train_images": GREY % 2}, ("the pixels lie between 0 and 1 of 0 to 255",)),
    "nothing": refused("got the keys none, expected train_images among them"),
    "no images": refused("got the keys table, expected train_images among them, or a single", table=GREY[0]),
    "two arrays of images": refused("got the keys a, b, expected train_images among them", a=GREY, b=GREY),
    "two keys for one": refused("got the keys train_images, x_train, expected one", train_images=GREY, x_train=GREY),
    "test images alone": refused("got the keys x_test, expected train_images among them", x_test=GREY),
    "-1 to 1": refused(
        "train_images: got float64, numbers from -1 to 1, expected uint8", train_images=GREY / 127.5 - 1
    ),
    "NaN": refused("got float64, numbers from nan to nan, expected uint8", train_images=GREY * np.nan),
    "beyond 16 bits": refused("whole numbers from 0 to 2.*expected uint8", train_images=GREY.astype(int) << 20),
    "complex": refused("got complex128 of shape", train_images=GREY * 1j),
    "rows of pixels": refused(
        r"got uint8 of shape \(12, 64\), expected images \(N, H", train_images=GREY.reshape(12, 64)
    ),
    "one colour image": refused(r"got shape \(8, 9, 3\), .* for one image in colour \(1, H", train_images=COLOUR[0]),
    "four channels": refused(r"got shape \(4, 8, 8, 4\), .* C = 1 or 3", train_images=random_pixels(4, 8, 8, 4)),
    "either layout": refused(r"got shape \(4, 3, 8, 3\), .* one size", train_images=random_pixels(4, 3, 8, 3)),
    "films": refused(r"got uint8 of shape \(4, 8, 8, 1, 3\)", train_images=random_pixels(4, 8, 8, 1, 3)),
    "no image": refused(r"got uint8 of shape \(0, 8, 8\), expected at least one image", train_images=GREY[:0]),
    "no pixels": refused(r"got uint8 of shape \(12, 0, 8\), expected at least one image", train_images=GREY[:, :0]),
    "no test image": refused(r"test_images: .* at least one", train_images=GREY, test_images=GREY[:0]),
    "another dtype to test": refused("test_images: got dtype float64", train_images=GREY, test_images=GREY * 1.0),
    "colour to test": refused("test_images: got 3 channels, expected 1 as in", train_images=GREY, test_images=COLOUR),
    "one image": refused("got 1 image, expected at least 2, one to hold out", train_images=GREY[:1]),
    "fewer labels": refused(
        r"train_labels: got shape \(3,\), expected \(12,\)", train_images=GREY, train_labels=NUMBERS[:3]
    ),
    "one label": refused(r"train_labels: got shape \(\), expected", train_images=GREY, train_labels=np.array(3)),
    "objects": refused("train_images: got Python objects, which are not unpickled", train_images=OBJECTS),
    "many keys": refused(
        "got the keys k0, k1, .{90,100}…, expected", **dict.fromkeys(map("k{}".format, range(99)), GREY)
    ),
}


def npy(header: bytes, data: bytes = b"") -> bytes:
    """A .npy file with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def declaring(shape: str, dtype: str = "|u1") -> bytes:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()


def zipped(contents: bytes, name: str = "train_images.npy", **options: int) -> bytes:
    """A .npz file with one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr(name, contents)
    return buffer.getvalue()


def declaring_unpacked(size: int) -> bytes:
    """A .npz file whose directory declares that its member unpacks to this size."""
    contents = bytearray(zipped(bytes(1000)))
    place = contents.index(b"PK\x01\x02") + 24
    contents[place : place + 4] = struct.pack("<I", size)
    return bytes(contents)


def twice() -> bytes:
    """A .npz file with two members of one name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("train_images.npy", "train_imageX.npy"):
            archive.writestr(name, npy(declaring("(2, 8, 8)"), bytes(128)))
    return buffer.getvalue().replace(b"train_imageX", b"train_images")


#: Bytes that are no file of images, and a pattern for what is said of them.
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", r"no .npz or .npy file \(empty\)"),
    "text": (lambda: b"hello", "no .npz or .npy file"),
    "an HTML page": (lambda: b"<!DOCTYPE html><html></html>", r"no .npz or .npy file \(an HTML page"),
    "a declared 95 GiB": (
        lambda: zipped(npy(declaring("(10000000000, 1, 1)"), bytes(100))),
        r"got \d+ bytes, expected 100000000\d+, as its header declares uint8 of shape \(10000000000, 1, 1\)",
    ),
    "a declared 95 GiB in a .npy": (
        lambda: npy(declaring("(10000000000, 1, 1)"), bytes(100)),
        r"as its header declares",
    ),
    "beyond 64 bits": (lambda: zipped(npy(declaring(f"({10**30}, 9)"))), "as its header declares"),
    "a negative size": (lambda: zipped(npy(declaring("(-2, -8, 8)"), bytes(128))), "no header of an array"),
    "a size of True": (lambda: zipped(npy(declaring("(True, 8, 8)"), bytes(64))), "no header of an array"),
    "more than declared": (lambda: zipped(npy(declaring("(2, 8, 8)"), bytes(129))), "as its header declares"),
    "no header": (lambda: zipped(b"hello"), r"train_images: is corrupt.* \(no header of an array"),
    "a header of nothing": (lambda: zipped(npy(b"\xff(((")), "no header of an array"),
    "a nested header": (lambda: zipped(npy(b"(" * 9000)), "no header of an array"),
    "3 GB of zeros": (
        lambda: declaring_unpacked(3 * 2**30),
        r"got 3 GiB unpacked, expected at most 1 GiB, the larger of 1 GiB and 100 times",
    ),
    "a billion points": (
        lambda: zipped(npy(declaring("(20000000, 1, 1)"), bytes(20000000)), compression=zipfile.ZIP_DEFLATED),
        r"train_images: got 57.2 GiB of images of 32 x 32, expected at most 1 GiB",
    ),
    "two of one name": (twice, "two arrays of one name"),
}


def write_kind(kind: ArrayKind | dict[str, np.ndarray], path: Path) -> Path:
    """Writes a kind of :data:`ARRAYS`; returns the file, whose suffix is .npz or .npy."""
    arrays = kind if isinstance(kind, dict) else kind.arrays
    target = path.with_suffix(".npz" if isinstance(arrays, dict) else ".npy")
    with open(target, "wb") as file:
        np.savez(file, **arrays) if isinstance(arrays, dict) else np.save(file, arrays)
    return target
