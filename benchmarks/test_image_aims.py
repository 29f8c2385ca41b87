"""The verdicts on what was asked of the experiments on images, from rows that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import image_aims
import pytest
from image_aims import AIMS, Aim, Bound

ROWS = {"a/lae/re": {"mean": 2.0, "paper": 3.0}, "a/vae/re": {"mean": 4.0, "paper": None}, "a/abp/re": {"mean": None}}


@pytest.mark.parametrize(
    ("aim", "verdict"),
    [
        (Aim("a/lae/re", (Bound(2),)), "must met"),
        (Aim("a/lae/re", (Bound(1.9),)), "**missed**"),
        (Aim("a/lae/re", (Bound(3),), (Bound(2),)), "goal met"),
        (Aim("a/lae/re", (Bound(3),), (Bound(1),)), "must met"),
        (Aim("a/lae/re", (Bound(1),), (Bound(2),)), "**missed**"),
        (Aim("a/lae/re", (Bound(1, "a/vae/re"),), (Bound(0.5, "a/vae/re"),)), "goal met"),
        (Aim("a/vae/re", (Bound(1, "a/lae/re"),)), "**missed**"),
        (Aim("a/vae/re", (Bound(3), Bound(1, "a/lae/re")), at_least=True), "must met"),
        (Aim("a/lae/re", (Bound(1), Bound(1, "a/vae/re")), at_least=True), "**missed**"),
        (Aim("a/abp/re", (Bound(1),)), "**missed**"),
        (Aim("a/lae/re", (Bound(1, "a/abp/re"),)), "not measured"),
        (Aim("a/lae/re", (Bound(1, "a/gan/re"),)), "not measured"),
        (Aim("a/gan/re", (Bound(1),)), "not measured"),
    ],
)
def test_verdict(aim: Aim, verdict: str) -> None:
    assert aim.verdict(ROWS) == verdict


def test_bounds_tell_whose_they_are() -> None:
    aim = Aim("a/lae/re", (Bound(3), Bound(1, "a/vae/re")), (Bound(0.5, "a/vae/re"), Bound(1, "a/gan/re")), True)
    assert aim.show(aim.must, ROWS) == "≥ 3, ≥ VAE's 4"
    assert aim.show(aim.goal, ROWS) == "≥ 0.5 · VAE's 4, ≥ GAN's"


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line an aim, from every results.json below the folder."""
    monkeypatch.setattr(image_aims, "FOLDER", tmp_path)
    (tmp_path / "some").mkdir()
    row = {"name": "mnist/lae/re", "paper": 0.0186, "mean": 0.0048, "standard_error": None, "values": [0.0048]}
    (tmp_path / "some" / "results.json").write_text(json.dumps({"rows": [row]}))
    lines = image_aims.aims_table().splitlines()
    assert len(lines) == 2 + len(AIMS)
    assert "| `mnist/lae/re` | 0.0186 | ≤ 0.0125 | ≤ 0.008 | 0.0048 | goal met |" in lines
    assert "| `mnist/vae/re` |  | ≤ 0.0165 |  |  | not measured |" in lines
