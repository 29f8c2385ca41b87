"""The README's tables: of the files that are there; what was not measured is left out."""

from __future__ import annotations

import pytest
from benchmarks_made_up import cpu_results, cuda_results, results_of, training_results

from benchmarks.page import PAGES
from tools import readme_tables
from tools.readme_tables import NO_CUDA, cuda, speed, updated


def test_ops_and_training_share_a_table() -> None:
    text = speed({"cpu": cpu_results(), "training_cpu": training_results(), "cuda": cuda_results()})
    assert "| PyTorch that allocates nothing | 12 |  |" in text
    assert "| `torch._foreach` |  | 2 |" in text
    assert text.endswith("on A CPU, 2 cores, 2 threads, avx2, torch 2.11. Above 1, ours is faster.")


def test_figures_of_a_gpu() -> None:
    text = cuda({"cuda": cuda_results(), "training_cuda": training_results(gpu=True)})
    assert "| pSGLD step of 1e8 float32 parameters | `copy_`: 4000 | 3636 | GB/s |" in text
    assert "| `ald_ext.PSGLD` in a CUDA graph | `Adam(fused=True)`: 2 | 1 | kernels a step |" in text
    assert "| `torch._foreach` | 2 |" in text
    assert "NVIDIA H100, driver 580.1 (A CPU, 2 cores" in text
    assert "SGLD` in" not in text.replace("PSGLD` in", "")


def test_one_file_of_a_gpu_alone() -> None:
    assert "GB/s" not in cuda({"training_cuda": training_results(gpu=True)})
    assert "GB/s" in cuda({"cuda": cuda_results()})
    assert cuda({"cpu": results_of([], [])}) == NO_CUDA


@pytest.mark.skipif(not PAGES.is_dir(), reason="docs/ is not here: an installed package is tested")
@pytest.mark.parametrize("name", readme_tables.BLOCKS)
def test_every_block_is_made_of_the_files_that_are_there(name: str) -> None:
    text = readme_tables.BLOCKS[name]()
    assert len(text) > 100
    assert "nan" not in text
    assert "None" not in text


def test_blocks_are_replaced() -> None:
    blocks = {"one": lambda: "new\ntext", "two": lambda: "other"}
    text = "before\n<!-- two -->\n<!-- /two -->\nbetween\n<!-- one -->\nold\n<!-- /one -->\nafter\n"
    filled = "before\n<!-- two -->\nother\n<!-- /two -->\nbetween\n<!-- one -->\nnew\ntext\n<!-- /one -->\nafter\n"
    assert updated(text, blocks) == filled
    assert updated(filled, blocks) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- three -->\n<!-- /three -->", "got the block <!-- three -->, expected some of one"),
        ("<!-- one -->\n", "expected it once"),
        ("<!-- /one -->\n<!-- one -->\n", "expected it once"),
        ("<!-- one -->\n<!-- /one -->\n" * 2, "expected it once"),
    ],
)
def test_markers_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        updated(text, {"one": lambda: "new"})
