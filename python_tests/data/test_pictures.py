"""Folders of pictures as people have them: every kind is read right, told of, or refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL.Image", reason="needs Pillow, which reads images", exc_type=ImportError)

from corpus.pictures import FOLDERS

from ald_ext.data import load_dataset


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
