"""The page of the speed: figures as the files have them, and what is missing left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks_made_up import cpu_results, cuda_results, results_of, training_results

from benchmarks import page
from benchmarks.names import GIGABYTE
from benchmarks.page import Results, overview, speed_page, spread


def line_of(table: str, name: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return line.strip("| ").split(" | ")[1:]


def test_overview_tells_times_over_ours() -> None:
    """Also where the file has ours over the other, whose quantiles change places."""
    table = overview({"cpu": cpu_results(), "training_cpu": training_results()}, "cpu", spread)
    assert table.splitlines()[0] == "| time over ours | update, 1e7 | training an LAE, MLP of 5M parameters |"
    assert line_of(table, "`Adam(fused=True)` (of training: a VAE)") == ["0.8 (0.64 to 1)", "1.25 (1 to 1.56)"]
    assert line_of(table, "PyTorch that allocates nothing")[0] == "12 (9.6 to 15)"
    assert line_of(table, "`torch._foreach`") == ["", "2 (1.6 to 2.5)"]
    assert overview({"cpu": cpu_results()}, "cuda", spread) == ""


def test_page_of_both_devices() -> None:
    training = {"training_cpu": training_results(), "training_cuda": training_results(gpu=True)}
    text = speed_page({"cpu": cpu_results(), "cuda": cuda_results(), **training})
    assert "| memory: 20 bytes at 40 GB/s | 0.5 |" in text
    assert "| ald_ext.PSGLD | 5 (4 to 6.25); 1 + 0 |" in text
    assert "NVIDIA H100, driver 580.1 (A CPU, 2 cores" in text
    assert "commit 0123456789ab. From an afternoon on a lent machine." in text
    assert "`copy_` of a large buffer: 4000 GB/s" in text
    assert line_of(text, "ald_ext op, forward alone") == ["90.9 (72.7 to 114)"], f"a share of copy_ at {GIGABYTE}"
    assert "| ours | 1 (0.8 to 1.25); 100000 |" in text
    assert "Parameters of encoder and decoder, in millions: lae 5." in text
    for word in ("must", "goal", "missed"):
        assert word not in text


def test_a_page_is_written_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["page", "--results", str(tmp_path), *options])
        page.main()

    (tmp_path / "cpu.json").write_text(json.dumps(cpu_results()))
    with pytest.raises(SystemExit, match="got a text that is not of the files"):
        command("--check")
    command()
    command("--check")
    assert {path.name for path in tmp_path.iterdir()} == {"cpu.json", "speed.md", "speed_cpu.png"}


@pytest.mark.parametrize("quick", [False, True])
def test_page_of_a_run_that_measured_nothing(quick: bool) -> None:
    nothing: Results = results_of([], [], copy_bandwidth_gb_per_s={"median": 1.0}, quick=quick)
    text = speed_page({"cpu": nothing})
    assert "The step was not measured." in text
    assert ("A quick run: its figures are rough." in text) is quick
