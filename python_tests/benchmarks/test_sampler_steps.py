"""The benchmark of a step of HMC and MALA: a quick run, and the page of its file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks.page import PAGES, RESULTS
from benchmarks.samplers import steps


def without_compiling_and_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call what captures "blackjax", so that the run needs neither."""
    captured = steps.VERSIONS["CapturedPotential"]
    monkeypatch.setattr(steps, "VERSIONS", {"plain": steps.VERSIONS["plain"], "blackjax": captured})
    monkeypatch.setattr(steps, "version", lambda _: "0")
    monkeypatch.setattr(steps, "TARGET_NAMES", ("Student's t",))


def test_a_quick_run_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiling_and_peers(monkeypatch)
    for options in (["--quick"], ["--page"], ["--page", "--check"]):
        monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path), *options])
        steps.main()
    rows = json.loads((tmp_path / "sampler_steps.json").read_text())["rows"]
    assert [(row["sampler"], row["version"]) for row in rows] == [
        (sampler, version) for sampler in ("HMC", "MALA") for version in ("plain", "blackjax")
    ]
    assert all(row["microseconds"] > 0 for row in rows)
    assert all(row["over_blackjax"] == 1 for row in rows if row["version"] == "blackjax")
    assert (tmp_path / "sampler_steps.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "sampler_steps.md").write_text("other")
    with pytest.raises(SystemExit, match="is not of"):
        steps.main()


def test_the_written_page_is_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PAGES / "sampler_steps.png").exists()
    monkeypatch.setattr(sys, "argv", ["", "--page", "--check"])
    steps.main()


def test_a_quick_run_does_not_replace_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--quick"])
    with pytest.raises(SystemExit):
        steps.main()
    assert f"do not go to {RESULTS.parent.name}" in capsys.readouterr().err


def test_a_missing_peer_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["", "--quick", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        steps.main()
    assert "blackjax is not installed; pip install -r benchmarks" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
