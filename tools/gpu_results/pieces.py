"""Data sets in pieces that are small enough to be brought to another machine: sheets of images in lossless WebP."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ald_ext.data import load_dataset
from ald_ext.files import write_atomically
from ald_ext.settings import require

#: Images of a sheet, in rows of 40.
SHEET, COLUMNS = 1000, 40
#: The share of a piece's images that are test images, of which no more than a data set has.
TEST_SHARE = 1 / 6


def pack(dataset: str, data_root: str | None, out: Path, num_bytes: int) -> str:
    """Write as much of a data set as fits into a file, and return the name of what is in it.

    The first training and test images are taken, which for a subset is named: cifar10-20000 has 20,000 training images.

    Args:
        dataset: what :func:`ald_ext.data.load_dataset` takes.
        data_root: the folder of torchvision's files.
        out: the folder of the file NAME.zip.
        num_bytes: the largest size of the file.
    """
    data = load_dataset(dataset, data_root)
    splits = {"train": (data.train_images, data.train_labels), "test": (data.test_images, data.test_labels)}
    sheets: dict[str, list[bytes]] = {"train": [], "test": []}
    room = num_bytes - 8 * (len(data.train_images) + len(data.test_images)) - 10_000
    for split, share in (("test", TEST_SHARE), ("train", 1.0)):
        left = room * share
        for images in splits[split][0].split(SHEET):
            sheet = as_sheet(images)
            if len(sheet) > (left if sheets[split] else room):
                break
            sheets[split].append(sheet)
            left, room = left - len(sheet), room - len(sheet)
    counts = {split: min(len(sheets[split]) * SHEET, len(images)) for split, (images, _) in splits.items()}
    require(all(counts.values()), f"pack {dataset}: bytes", num_bytes, "room for a sheet of each kind at least")
    name = Path(dataset).stem + ("" if counts["train"] == len(data.train_images) else f"-{counts['train']}")
    out.mkdir(parents=True, exist_ok=True)

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for split, (images, labels) in splits.items():
                facts = {"count": np.array(counts[split]), "channels": np.array(images.shape[1])}
                if labels is not None:
                    facts["labels"] = labels[: counts[split]].to(torch.int16).numpy()
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **facts)
                archive.writestr(f"{split}.npz", buffer.getvalue())
                for number, sheet in enumerate(sheets[split]):
                    archive.writestr(f"{split}_{number:03}.webp", sheet)

    write_atomically(out / f"{name}.zip", write)
    return name


def unpack(file: Path, folder: Path) -> Path:
    """Write the .npz file that :func:`ald_ext.data.load_dataset` reads, and return its path.

    One that is there, and not older than the piece, stays.
    """
    path = folder / f"{file.stem}.npz"
    if path.is_file() and path.stat().st_mtime >= file.stat().st_mtime:
        return path
    require(zipfile.is_zipfile(file), str(file), "no whole zip file", "one that `pack` wrote")
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        for split in ("train", "test"):
            facts = np.load(io.BytesIO(archive.read(f"{split}.npz")))
            count, channels = int(facts["count"]), int(facts["channels"])
            names = sorted(name for name in archive.namelist() if name.startswith(f"{split}_"))
            images = torch.cat([of_sheet(archive.read(name), channels) for name in names])[:count]
            arrays[f"{split}_images"] = images.permute(0, 2, 3, 1).numpy()
            if "labels" in facts:
                arrays[f"{split}_labels"] = facts["labels"]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda to: np.savez(to, **arrays))
    return path


def as_sheet(images: Tensor) -> bytes:
    """Return images (n, C, H, W) uint8 side by side as a WebP file without loss, after the last one black."""
    from PIL import Image

    rows = -(-len(images) // COLUMNS)
    tiles = torch.zeros((rows * COLUMNS, 3, *images.shape[2:]), dtype=torch.uint8)
    tiles[: len(images)] = images  # grey ones three times
    height, width = images.shape[2:]
    sheet = tiles.view(rows, COLUMNS, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, 3)
    buffer = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(buffer, "webp", lossless=True, quality=50, method=2)
    return buffer.getvalue()


def of_sheet(data: bytes, channels: int) -> Tensor:
    """Return the images of :func:`as_sheet`, (n, C, 32, 32) with the black ones at the end."""
    from PIL import Image

    sheet = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy())
    size = sheet.shape[1] // COLUMNS
    tiles = sheet.view(-1, size, COLUMNS, size, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    return tiles[:, :channels].contiguous()
