"""Folders of images of any format, size and mode."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ..progress import progress_bar
from ..settings import require
from .image_data import IMAGE_SIZE, Pictures, Source
from .image_files import Picture, read_picture
from .pixel_values import LOW_CONTRAST, black_and_white, describe_scale, doubts_about, to_eight_bits

#: What subfolders hold by their names in lower case.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
#: Files of the system, in lower case, that lie among pictures; they are ignored as hidden files are.
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
#: Number of files that a note names.
NAMED_FILES = 5
#: Transparent images are put on white where that has at least this multiple of the contrast that they have on black.
WHITE_IF_BETTER_BY = 2.0


@dataclass
class FolderImages:
    """The images of a folder as they are read, before what all of them decide: grey or colour, scale, and ground.

    Attributes:
        pixels: (N, 3, 32, 32) uint8, of which the first is the grey value of a grey image.
        kept: the index of each image among the names; the others were skipped.
        skipped: the names of files that are no images, with the reason.
        pictures: images of which more than the pixels is needed, by their place in ``pixels``.
        grey: whether each image is grey.
    """

    pixels: np.ndarray
    kept: list[int] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    pictures: dict[int, Picture] = field(default_factory=dict)
    grey: list[bool] = field(default_factory=list)


def read_image_folder(folder: Path) -> Source:
    """Return the images below a folder, in all formats that Pillow reads, their centred squares resized to 32 x 32.

    EXIF orientation is respected, and of an animation the first frame is taken. Images with more than 8 bits are scaled
    by the range of all of them. Transparent pixels are put on black, or on white where black would hide what is drawn.
    The images are grey if all of them are, otherwise RGB. Hidden files are ignored, and files that are no images or
    broken are skipped.

    Subfolders train and test, or train and val, if there are both, are the split, and nothing beside them is read;
    with test there, val is not read either. Case does not matter, and names may be training, testing, valid and
    validation, too. If all images lie in subfolders, one level deep, the labels are the indices of the sorted
    subfolders.

    Raises:
        ValueError: no image, none for one of the splits, or an unclear split.
        ImportError: Pillow is missing.
    """
    place = f"dataset {str(folder)!r}"
    splits, notes = find_splits(folder, place)
    names_of = {split: sorted(visible_files(folder / subfolder)) for split, subfolder in splits.items()}
    names = [(PurePosixPath(splits[split]) / name).as_posix() for split in splits for name in names_of[split]]
    if list(splits.values()) == [""]:
        notes += deeper_splits(names)
    found = read_images(folder, names)
    reasons = listed([f"{name}: {reason}" for name, reason in found.skipped.items()], "; ")
    images = images_alike(found, names, notes)
    parts: dict[str, Pictures] = {}
    classes: dict[str, list[str] | None] = {}
    begin = 0
    for split, subfolder in splits.items():
        end = begin + len(names_of[split])
        rows = [row for row, index in enumerate(found.kept) if begin <= index < end]
        got = f"no image among {end - begin} files" + (f" ({reasons})" if reasons else "")
        require(rows, f"dataset {str(folder / subfolder)!r}", got, "images in a format that Pillow reads")
        parts[split] = Pictures(images[rows[0] : rows[-1] + 1], None, [names[found.kept[row]] for row in rows])
        classes[split] = classes_of([names_of[split][found.kept[row] - begin] for row in rows])
        begin = end
    if found.skipped:
        notes.append(f"{counted(len(found.skipped), 'file')} skipped: {reasons}")
    notes += doubts_about(images)
    for split, labels in zip(parts, label_together(list(classes.values())), strict=True):
        parts[split] = parts[split]._replace(labels=labels)
    return Source(parts["train"], parts.get("test"), tuple(found.skipped), tuple(notes))


def counted(count: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """Return the first items, and how many more there are."""
    more = len(items) - NAMED_FILES
    return separator.join([*items[:NAMED_FILES], *([f"and {more} more"] if more > 0 else [])])


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the user's own."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def find_splits(folder: Path, place: str) -> tuple[dict[str, str], list[str]]:
    """Return the subfolders with images to train on and, if there is one, to test on; {"train": ""} without a split.

    Raises:
        ValueError: two subfolders for one split, or nothing to train on.
    """
    entries = sorted(entry.name for entry in folder.iterdir() if not is_hidden(entry.name))
    folders = [name for name in entries if (folder / name).is_dir()]
    found: dict[str, list[str]] = {}
    for name in folders:
        if name.lower() in SPLITS:
            found.setdefault(SPLITS[name.lower()], []).append(name)
    named = " and ".join(name for names in found.values() for name in names)
    alone = len(folders) == sum(map(len, found.values()))
    if "train" not in found or (len(found) == 1 and not alone):
        expected = "train beside them, or the folder of one of them"
        require(not (found and alone), place, f"{named} without train", expected)
        if named:
            return {"train": ""}, [f"{named} and the folders beside are no split, and all are read"]
        return {"train": ""}, like_splits(folders)
    for split, names in found.items():
        require(len(names) == 1, place, " and ".join(names), f"one folder for {split}")
    train, test, validation = (found.get(split, [""])[0] for split in ("train", "test", "validation"))
    notes, splits = [], {"train": train}
    if test or validation:
        splits["test"] = test or validation
    if validation and test:
        notes.append(f"the images of {validation} are used neither to train nor to test, as there is {test}")
    elif validation:
        notes.append(f"the images of {validation} are taken as the test images, as there is no folder test")
    beside = [name for name in entries if name not in (train, test, validation)]
    if beside:
        notes.append(f"not read, as there is {train}: {listed(beside)}")
    return splits, notes


def like_splits(folders: list[str]) -> list[str]:
    """Return what a user should know of folders such as training_set and test_set, which are no split."""
    like = {name: SPLITS[word] for name in folders for word in re.split("[^a-z]+", name.lower()) if word in SPLITS}
    if len({"train", *like.values()}) == 1 or "train" not in like.values():
        return []
    return [f"{listed(list(like))} are no split, and all are read; name them train and test to have them apart"]


def deeper_splits(names: list[str]) -> list[str]:
    """Return what a user should know of folders train and test that lie deeper, where they are no split."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        parts = name.split("/")[:-1]
        for depth, part in enumerate(parts):
            if part.lower() in SPLITS:
                found.setdefault("/".join(parts[:depth]), {})[SPLITS[part.lower()]] = part
    split = {parent: roles for parent, roles in found.items() if "train" in roles and len(roles) > 1}
    return [
        f"the images of {' and '.join(roles.values())} in {parent} are mixed; give {parent} to have them apart"
        for parent, roles in list(split.items())[:1]
    ]


def classes_of(names: list[str]) -> list[str] | None:
    """Return the class of each file, its folder; None unless all lie in folders, one level deep."""
    return [name.split("/")[0] for name in names] if all(name.count("/") == 1 for name in names) else None


def label_together(classes: list[list[str] | None]) -> list[Tensor | None]:
    """Return the index of each image's class among all sorted classes; None for a part without classes."""
    indices = {name: index for index, name in enumerate(sorted({n for part in classes for n in part or ()}))}
    return [None if part is None else torch.tensor([indices[name] for name in part]) for part in classes]


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
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        relative = Path(parent).relative_to(top)
        for name in files:
            if not is_hidden(name):
                yield (relative / name).as_posix()


def raise_error(error: OSError) -> None:
    """Raise the error of os.walk, which would otherwise skip a folder that cannot be read."""
    raise error


def read_images(folder: Path, names: list[str]) -> FolderImages:
    """Return the images in the files of these names."""
    found = FolderImages(np.empty((len(names), 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images and of broken metadata, name no file
        for index, name in enumerate(progress_bar(names, desc="reading images", delay=1, leave=False)):
            try:
                picture = read_picture(folder / name)
            except ValueError as error:
                found.skipped[name] = str(error)
                continue
            row = len(found.kept)
            if picture.extremes is None:
                found.pixels[row] = picture.pixels
            if picture.extremes or picture.alpha is not None or picture.more_frames or picture.upper_bits:
                found.pictures[row] = picture
            found.kept.append(index)
            found.grey.append(len(picture.pixels) == 1)
    return found


def images_alike(found: FolderImages, names: list[str], notes: list[str]) -> Tensor:
    """Return the images (N, C, 32, 32): scaled alike, on one ground, and all of them grey or all in colour."""
    pixels = found.pixels[: len(found.kept)]

    def told(rows: Sequence[int], noun: str = "image") -> str:
        return f"{counted(len(rows), noun)} ({listed([names[found.kept[row]] for row in rows])})"

    deep = {row: picture for row, picture in found.pictures.items() if picture.extremes}
    for mode in sorted({picture.mode for picture in deep.values()}):
        rows = [row for row, picture in deep.items() if picture.mode == mode]
        lows, highs = zip(*(deep[row].extremes or () for row in rows), strict=True)
        whole = all(deep[row].whole for row in rows)
        scale = black_and_white(min(lows), max(highs), whole) or (min(lows), max(highs))
        for row in rows:
            pixels[row] = to_eight_bits(deep[row].pixels, scale)
        if scale != (0, 65535):
            notes.append(f"{told(rows)} of more than 8 bits: {describe_scale(min(lows), max(highs), scale)}")
    upper = [row for row, picture in found.pictures.items() if picture.upper_bits]
    highest = max((int(pixels[row].max()) for row in upper), default=255)
    if highest < 128:
        reach = f"the upper 8 bits of 16, which are read, reach only {highest} of 255"
        notes.append(f"{told(upper)}: {reach}; save them as 8 bits, scaled")
    alpha = {row: picture.alpha for row, picture in found.pictures.items() if picture.alpha is not None}

    ground = "black"

    def on_white(row: int) -> np.ndarray:
        return (pixels[row] + (255 - alpha[row].astype(np.int16))).clip(0, 255)

    if sum(on_white(row).std() for row in alpha) > WHITE_IF_BETTER_BY * sum(pixels[row].std() for row in alpha):
        ground = "white"
        for row in alpha:
            pixels[row] = on_white(row)
        notes.append(f"{told(list(alpha))} with transparent pixels put on white, as black would hide what is drawn")
    hidden = [row for row in alpha if np.ptp(pixels[row]) < LOW_CONTRAST <= np.ptp(alpha[row]) // 2]
    if hidden:
        notes.append(f"transparent pixels are {ground}, on which {told(hidden)} can hardly be seen; save these opaque")
    animated = [row for row, picture in found.pictures.items() if picture.more_frames]
    if animated:
        notes.append(f"the first frame alone is taken of {told(animated, 'file')}")
    colour = [row for row, is_grey in enumerate(found.grey) if not is_grey]
    if len(colour) < len(pixels):  # by their pixels, since formats such as GIF have no grey
        colour = [row for row in colour if (pixels[row] != pixels[row][0]).any()]
    grey = sorted(set(range(len(pixels))).difference(colour))
    if grey and colour:
        fewer = f"{told(colour)} in colour" if len(colour) <= len(grey) else f"{told(grey)} in grey"
        notes.append(f"{fewer} among {len(pixels)}: all become RGB")
    return torch.from_numpy(pixels[:, : 3 if colour else 1]).contiguous()
