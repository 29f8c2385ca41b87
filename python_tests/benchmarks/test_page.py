"""The page of results: verdicts computed from the figures, and what is missing said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from acceptance import REQUIREMENTS, acceptance_table
from names import BACKWARD, COPY, FORWARD, GIGABYTE, IN_TENSORS, NOISE_ALONE, OURS
from results_page import pages, stale, write_page
from tables import Results


def quantiles(median: float) -> dict[str, float]:
    return {"median": median, "p20": 0.9 * median, "p80": 1.1 * median}


def row_of(family: str, size: str, elements: int, variant: str, ns: float, count: int) -> dict[str, Any]:
    return {
        "family": family,
        "size": size,
        "elements": elements,
        "variant": variant,
        "ns_per_element": quantiles(ns),
        "bytes_per_element": count,
        "gb_per_s": count / ns,
    }


def ratio_of(family: str, size: str, numerator: str, denominator: str, value: float) -> dict[str, Any]:
    where = {"family": family, "size": size, "numerator": numerator, "denominator": denominator}
    return {**where, **quantiles(value)}


def results_of(device: str, rows: list[Any], ratios: list[Any], **more: Any) -> Results:
    machine = {"cpu": "A CPU", "cores": 2, "threads": 2, "instruction_set": "avx2", **more.pop("machine", {})}
    return {
        "device": device,
        "quick": False,
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "machine": machine,
        "versions": {"torch": "2.11", "python": "3.12", "ald_ext": "1", "compiler": "a compiler"},
        "copy_bandwidth_gb_per_s": quantiles(40.0),
        "rows": rows,
        "ratios": ratios,
        "left_out": [],
        **more,
    }


def cpu_results() -> Results:
    rows = [row_of("update", "1e7", 10**7, OURS, 0.6, 20), row_of("update", "1e7", 10**7, NOISE_ALONE, 0.3, 4)]
    ratios = [
        ratio_of("update", "1e7", OURS, "Adam(fused=True)", 1.2),
        ratio_of("update", "1e7", "in-place PyTorch", OURS, 12.0),
        ratio_of("update", "1e7", "torch.compile", OURS, 4.0),
    ]
    return results_of("cpu", rows, ratios)


def cuda_results(gpu: str) -> Results:
    elements = 81380 * 3072
    rows = [
        row_of("update", "1e8", 10**8, OURS, 0.0055, 20),
        row_of("update", "1e8", 10**8, COPY, 0.002, 8),
        row_of("marginal likelihood", GIGABYTE, elements, FORWARD, 0.0022, 8),
        row_of("marginal likelihood", GIGABYTE, elements, BACKWARD, 0.006, 16),
        row_of("marginal likelihood", GIGABYTE, elements, COPY, 0.002, 8),
    ]
    ratios = [
        ratio_of("update", "1e8", COPY, OURS, 0.002 / 0.0055),
        ratio_of("marginal likelihood", GIGABYTE, COPY, FORWARD, 0.002 / 0.0022),
        ratio_of("marginal likelihood", GIGABYTE, COPY, BACKWARD, 0.002 / 0.006),
    ]
    graph = {"size": IN_TENSORS, "variant": "ald_ext.PSGLD", "kernels_per_step": 1, "other_nodes_per_step": 0}
    graph_rows = [{**graph, "seconds": quantiles(5e-6)}, {"variant": "ald_ext.SGLD", "error": "ValueError"}]
    return results_of("cuda", rows, ratios, machine={"gpu": gpu}, cuda_graph_rows=graph_rows)


def verdicts(all_results: dict[str, Results]) -> dict[str, str]:
    table = [line.split(" | ") for line in acceptance_table(all_results).splitlines()[2:]]
    return {cells[0].removeprefix("| "): cells[-1].removesuffix(" |") for cells in table}


def test_verdicts() -> None:
    marks = verdicts({"cpu": cpu_results(), "cuda": cuda_results("NVIDIA H200")})
    assert len(marks) == len(REQUIREMENTS), "two figures have one name"
    assert marks["ours over Adam(fused=True), 1e7"] == "must met"
    assert marks["allocation-free PyTorch over ours, 1e7"] == "goal met"
    assert marks["torch.compile with a `normal_()` buffer over ours, 1e7"] == "**missed**"
    assert marks["H200: pSGLD, 1e8 float32, share of copy bandwidth"] == "must met"
    assert marks[f"H200: marginal likelihood forward, {GIGABYTE} (1 GB), share of copy bandwidth"] == "must met"
    assert marks[f"H200: marginal likelihood backward, {GIGABYTE} (1 GB), share of copy bandwidth"] == "**missed**"
    assert marks["H200: kernels a PSGLD step in a CUDA graph, 1e4 in 32 tensors"] == "goal met"
    assert marks[f"H200: dequantization forward, {GIGABYTE} (1 GB), share of copy bandwidth"] == "not measured"


def test_another_gpu_is_no_answer() -> None:
    marks = verdicts({"cuda": cuda_results("NVIDIA A100")})
    assert set(marks.values()) == {"not measured"}


def test_page_of_both_devices_is_written_and_checked(tmp_path: Path) -> None:
    for device, figures in (("cpu", cpu_results()), ("cuda", cuda_results("NVIDIA H200"))):
        (tmp_path / f"{device}.json").write_text(json.dumps(figures))
    assert stale(tmp_path) == ["cpu.md", "cuda.md", "README.md"]
    write_page(tmp_path)
    assert stale(tmp_path) == []
    assert {path.name for path in tmp_path.glob("*.png")} == {"cpu.png", "cuda.png"}
    page = (tmp_path / "README.md").read_text()
    assert "| memory: 20 bytes at 40 GB/s | 0.5 |" in page
    assert "| ald_ext.SGLD | not captured: ValueError |  |  |" in page
    assert "noise.md" not in page


def test_page_of_a_run_that_measured_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(results_of("cpu", [], [])))
    write_page(tmp_path)
    assert "The step was not measured." in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_page_of_one_device(tmp_path: Path, device: str) -> None:
    figures = cpu_results() if device == "cpu" else cuda_results("NVIDIA H200")
    (tmp_path / "noise.json").touch()
    texts = pages(tmp_path, {device: figures})
    assert "[noise.md](noise.md)" in texts[tmp_path / "README.md"]
