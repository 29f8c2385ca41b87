"""The README's tables from files that are made up: what was not measured is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import readme_figures
from names import FOREACH_STEP, MLP_CASE, OUR_STEP
from readme_figures import NO_CUDA, cuda, speed, training
from results_page import load_results, load_training, write_page
from tables import Results
from test_results_page import cpu_results, cuda_results, quantiles, ratio_of, results_of

PROVENANCE = {"gpu": "NVIDIA H100", "gpu_driver": "580.1"}


def step_row(model: str, variant: str, seconds: float) -> dict[str, Any]:
    row = {"family": MLP_CASE, "size": model, "variant": variant, "note": None, "seconds": quantiles(seconds)}
    return {**row, "images_per_s": quantiles(100 / seconds), "rounds": 15, "calls_per_sample": 1}


def training_results() -> Results:
    rows = [step_row("lae", OUR_STEP, 1e-3), step_row("lae", FOREACH_STEP, 2e-3)]
    ratios = [ratio_of(MLP_CASE, "lae", FOREACH_STEP, OUR_STEP, 2.0)]
    return results_of("cuda", rows, ratios, machine=PROVENANCE, settings=[], origin="make gpu-check")


def test_figures_of_a_gpu(tmp_path: Path) -> None:
    """Page and README of the files that are there, with where they come from."""
    kernels = {**cuda_results("NVIDIA H100"), "origin": "an afternoon on a lent machine"}
    kernels["machine"] |= PROVENANCE
    for name, results in (("cpu", cpu_results()), ("cuda", kernels), ("training_cuda", training_results())):
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    text = cuda(load_results(tmp_path)["cuda"], load_training(tmp_path)["training_cuda"])
    assert "| pSGLD step of 1e8 float32 parameters | `copy_`: 4000 | 3636 | GB/s, bytes" in text
    assert "| training step of an LAE, MLP of 5M parameters, batch 100 | PyTorch, foreach step: 2 | 1 | ms" in text
    assert "dequantization" not in text
    write_page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "## CUDA" in page
    assert "## Training" in page
    for each in (text, page):
        assert "NVIDIA H100, driver 580.1 (A CPU, 2 cores" in each
        assert "torch 2.11" in each
        assert "commit 0123456789ab. From an afternoon on a lent machine." in each
        assert "commit 0123456789ab. From make gpu-check." in each


def test_one_file_alone() -> None:
    assert "training step" not in cuda(cuda_results("NVIDIA H100"), None)
    assert "GB/s" not in cuda(None, training_results())


def test_kernels_of_a_captured_step() -> None:
    results = cuda_results("NVIDIA H100")
    results["cuda_graph_rows"] += [{"variant": "Adam(fused=True)", "kernels_per_step": 2}]
    assert "| `ald_ext.PSGLD` in a CUDA graph | `Adam(fused=True)`: 2 | 1 | kernels" in cuda(results, None)


def test_without_a_gpu() -> None:
    assert cuda(None, None) == NO_CUDA
    assert cuda(results_of("cuda", [], [], machine=PROVENANCE), None) == NO_CUDA


def test_ratios_that_were_not_measured() -> None:
    assert "| plain PyTorch over ours |  |" in speed(cpu_results())
    table = training(training_results())
    assert table.splitlines()[2:] == ["| the same: `torch._foreach` over ours | 2.00 |"]


def test_readme_holds_every_block() -> None:
    assert readme_figures.updated_readme()
