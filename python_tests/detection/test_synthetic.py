"""Synthetic anomalies: each kind does what it says, draws follow the seed, and symmetries are left out."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

pytest.importorskip("sklearn", reason="the detector needs the extra train", exc_type=ImportError)

from ald_ext.detection import synthetic, synthetic_anomalies
from ald_ext.detection.synthetic import KINDS


def noise(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 2, 12, 12), dtype=torch.uint8, generator=generator)


def test_each_kind_is_what_it_says():
    images = noise(6)
    kinds = synthetic_anomalies(images, seed=3)
    assert list(kinds) == list(KINDS)
    for altered in kinds.values():
        assert (altered.dtype, altered.shape) == (torch.uint8, images.shape)
        assert (altered != images).flatten(1).any(1).all()
    assert torch.equal(kinds["upside-down"].rot90(2, (2, 3)), images)
    assert torch.equal(kinds["mirrored"].flip(3), images)
    for image, turned, shuffled in zip(images, kinds["turned"], kinds["shuffled"], strict=True):
        assert any(torch.equal(turned.rot90(times, (1, 2)), image) for times in (1, -1))
        assert any(torch.equal(shuffled.roll(by, (1, 2)), image) for by in ((6, 0), (0, 6), (6, 6)))
    others = images.roll(1, 0)
    assert torch.equal(kinds["stitched"][:, :, :6], images[:, :, :6])
    assert torch.equal(kinds["stitched"][:, :, 6:], others[:, :, :6].flip(2))
    overlaid = kinds["overlaid"]
    assert ((overlaid == images) | (overlaid == others)).all()
    for name in ("pasted", "erased"):  # within a rectangle of at most half the width, in all channels
        changed = (kinds[name] != images).any(1)
        assert (changed.any(1).sum(1) <= 6).all()
        assert (changed.any(2).sum(1) <= 6).all()


def test_the_seed_decides():
    images, state = noise(4), torch.get_rng_state()
    first, again, other = (synthetic_anomalies(images, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in KINDS)
    assert not torch.equal(first["warped"], other["warped"])


def test_a_symmetry_is_left_out(monkeypatch):
    """Images that are their own mirror images; as brightness varies alone, a mirrored one is as near as before."""
    half = noise(1).expand(60, -1, -1, -1)[..., :6] // torch.arange(2, 62).view(-1, 1, 1, 1)
    images = torch.cat([half, half.flip(3)], 3).to(torch.uint8)
    kinds = synthetic_anomalies(images[::2], images[1::2])
    assert "mirrored" not in kinds
    assert {"turned", "upside-down", "shuffled"} <= set(kinds)
    monkeypatch.setattr(synthetic, "BATCH", 7)
    assert list(synthetic_anomalies(images[::2], images[1::2])) == list(kinds)


@pytest.mark.parametrize(
    ("images", "reference", "message"),
    [
        (noise(2).float(), None, "images: got float32 of shape (2, 2, 12, 12), expected uint8 (n, C, H, W)"),
        (noise(2).numpy(), None, "images: got ndarray, uint8 of shape (2, 2, 12, 12), expected uint8 (n, C, H, W)"),
        (noise(2).to("meta"), None, "images: got a tensor on meta, uint8 of shape (2, 2, 12, 12)"),
        (noise(1), None, "images: got uint8 of shape (1, 2, 12, 12)"),
        (noise(2)[..., :5], None, "images: got uint8 of shape (2, 2, 12, 5)"),
        (noise(2), noise(3)[:, :1], "reference: got uint8 of shape (3, 1, 12, 12), expected uint8 of shape (m, 2, 12"),
        (noise(2) * 0, noise(3) * 0, "images: got images of which no alteration is told apart"),
    ],
)
def test_errors(images, reference, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        synthetic_anomalies(images, reference)
