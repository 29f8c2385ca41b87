"""Files of arrays as people have them: every kind is read right, told of, or refused; damage never goes unseen."""

from __future__ import annotations

import re
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.arrays import ARRAYS, BROKEN, GREY, MEDMNIST, write_kind

from ald_ext.data import ImageData, load_dataset


def assert_equal(data: ImageData, expected: ImageData) -> None:
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        mine, theirs = getattr(data, name), getattr(expected, name)
        assert (mine is None) == (theirs is None), name
        assert mine is None or torch.equal(mine, theirs), name


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(tmp_path: Path, kind: str) -> None:
    path = write_kind(ARRAYS[kind], tmp_path / "file")
    if ARRAYS[kind].refused:
        with pytest.raises(ValueError, match=rf"^dataset '{path}':? .*{ARRAYS[kind].refused}") as refusal:
            load_dataset(str(path))
        assert len(str(refusal.value).splitlines()) == 1
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(str(path))
    told = [str(warning.message) for warning in caught]
    assert len(told) == len(ARRAYS[kind].told), told
    for text, pattern in zip(told, ARRAYS[kind].told, strict=True):
        assert re.search(pattern, text), (text, pattern)
    if same_as := ARRAYS[kind].same_as:
        same = {key: array.astype(np.uint8) if "images" in key else array for key, array in same_as.items()}
        assert_equal(data, load_dataset(str(write_kind(same, tmp_path / "same"))))


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused_in_one_line_before_memory_is_taken(tmp_path: Path, kind: str) -> None:
    make, pattern = BROKEN[kind]
    path = tmp_path / "file.npz"
    path.write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=pattern) as refusal:
        load_dataset(str(path))
    assert str(refusal.value).startswith(f"dataset '{path}': ")
    assert len(str(refusal.value)) < 300 + len(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_no_bit_flip_loads_as_something_else(tmp_path: Path) -> None:
    """Every bit of headers and directory, and some of the data: refused, or no matter."""
    path = write_kind({key: array[:2] for key, array in MEDMNIST.items()}, tmp_path / "file")
    whole, expected = path.read_bytes(), load_dataset(str(path))
    refused = 0
    for bit in np.random.default_rng(0).permutation(8 * len(whole))[:800].tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert_equal(load_dataset(str(path)), expected)
        except ValueError as error:
            refused += str(error).startswith(f"dataset '{path}'")
    assert refused > 500


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for form in (MEDMNIST, GREY):
        path = write_kind(form if isinstance(form, dict) else ARRAYS[".npy"], tmp_path / "file")
        whole = path.read_bytes()
        for length in range(0, len(whole), len(whole) // 20):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"^dataset '{path}'"):
                load_dataset(str(path))
