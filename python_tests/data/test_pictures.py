"""Folders of pictures as people have them: every kind is read right, told of, or refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.pictures import FOLDERS, Image, grey, numbered, random_pixels, save

from ald_ext.data import load_dataset, load_pictures


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(tmp_path: Path, kind: str) -> None:
    folder = FOLDERS[kind]
    folder.write(tmp_path)
    if folder.refused:
        with pytest.raises(ValueError, match=folder.refused) as refusal:
            load_dataset(str(tmp_path))
        assert len(str(refusal.value).splitlines()) == 1
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(str(tmp_path))
    told = [str(warning.message) for warning in caught]
    assert len(told) == len(folder.told), told
    for text, pattern in zip(told, folder.told, strict=True):
        assert re.search(pattern, text), (text, pattern)
    assert {warning.filename for warning in caught} <= {__file__}
    assert (len(data.train_images), len(data.test_images), data.channels) == (*folder.counts, folder.channels)
    assert folder.right(torch.cat([data.train_images, data.test_images]))


def test_all_pictures_of_a_folder_with_their_names(tmp_path: Path) -> None:
    names = numbered(11, "cat/{}.png") + numbered(9, "dog/größe {}.png")
    grey(tmp_path, *names)
    images, labels, found = load_pictures(str(tmp_path))
    assert list(found) == sorted(names)
    assert labels is not None
    assert labels.tolist() == [0] * 11 + [1] * 9
    data = load_dataset(str(tmp_path))
    held_out = load_pictures(str(tmp_path), held_out=True)
    assert len(held_out.images) == 2
    assert torch.equal(held_out.images, data.test_images)
    for image, name in zip(held_out.images, held_out.names, strict=True):
        assert torch.equal(image, images[list(found).index(name)])
    save(tmp_path / "test" / "one.png", random_pixels(32, 32))
    (tmp_path / "cat").rename(tmp_path / "train")
    with pytest.warns(UserWarning, match="not read, as there is train: dog"):
        assert load_pictures(str(tmp_path)).names == ["test/one.png"]


def test_a_single_picture_can_be_used_but_not_trained_on(tmp_path: Path) -> None:
    grey(tmp_path, "one.png")
    assert load_pictures(str(tmp_path)).names == ["one.png"]
    with pytest.raises(ValueError, match=r"got 1 image, expected at least 2, one to hold out"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_pictures_are_converted_to_the_channels_of_a_model(tmp_path: Path, kind: str) -> None:
    pixels = random_pixels(4, 32, 32, 3)
    for number, image in enumerate(pixels):
        save(tmp_path / "folder" / f"{number}.png", image)
    np.savez(tmp_path / "file.npz", train_images=pixels)
    source = str(tmp_path / "folder" if kind == "folder" else tmp_path / "file.npz")
    with pytest.warns(UserWarning, match=r"^dataset .*: converted to grey, which the model takes$"):
        images = load_pictures(source, channels=1).images
    expected = torch.stack([torch.from_numpy(np.array(Image.fromarray(image).convert("L"))) for image in pixels])
    assert (images[:, 0].int() - expected.int()).abs().max() <= 1
    np.savez(tmp_path / "grey.npz", train_images=images[:, 0].numpy())
    with pytest.warns(UserWarning, match=r"converted to RGB"):
        assert torch.equal(load_pictures(str(tmp_path / "grey.npz"), channels=3).images, images.expand(-1, 3, -1, -1))


def test_rows_of_a_file_are_numbered(tmp_path: Path) -> None:
    images = random_pixels(20, 32, 32)
    np.savez(tmp_path / "file.npz", train_images=images)
    assert list(load_pictures(str(tmp_path / "file.npz")).names) == list(range(20))
    held_out = load_pictures(str(tmp_path / "file.npz"), held_out=True)
    assert np.array_equal(held_out.images[:, 0].numpy(), images[list(held_out.names)])
