"""Noise of minibatches: SGHMC is heated by it, SGNHT is not, and the page is of its file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks.page import PAGES
from benchmarks.samplers.gradient_noise import DESIGNS, OPTIMIZERS, Regression, main, sd_ratios

#: At which the sd under SGHMC is about 1.3 times too large, where features are independent.
LR, STEPS, BURN_IN = 4.6e-3, 1200, 400


def ratios(design: str, optimizer: str) -> list[tuple[float, float]]:
    """Sampled over exact sd of each weight, and its standard error."""
    make = OPTIMIZERS[optimizer]
    found = sd_ratios(Regression.of_design(DESIGNS[design]), lambda params: make(params, LR), STEPS, BURN_IN)
    return list(zip(*found, strict=True))


def test_minibatches_heat_sghmc_and_not_sgnht() -> None:
    assert all(abs(ratio - 1.3) < 0.05 + 5 * error for ratio, error in ratios("independent", "SGHMC"))
    assert all(abs(ratio - 1) < 5 * error for ratio, error in ratios("independent", "SGNHT"))


def test_correlated_noise_is_taken_up_for_the_most_part() -> None:
    sghmc, sgnht = (max(abs(ratio - 1) for ratio, _ in ratios("correlated", name)) for name in ("SGHMC", "SGNHT"))
    assert sgnht < sghmc / 3


def test_a_quick_run_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in (["--quick"], ["--page"], ["--page", "--check"]):
        monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path), *options])
        main()
    assert "SGNHT" in (tmp_path / "gradient_noise.md").read_text()
    assert (tmp_path / "gradient_noise.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "gradient_noise.md").write_text("other")
    with pytest.raises(SystemExit, match="is not of"):
        main()


def test_the_written_page_is_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PAGES / "gradient_noise.png").exists()
    monkeypatch.setattr(sys, "argv", ["", "--page", "--check"])
    main()


def test_a_quick_run_does_not_replace_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--quick"])
    with pytest.raises(SystemExit):
        main()
    assert "--quick: its rough figures do not go to benchmarks/results" in capsys.readouterr().err
