"""The command that compares learning coefficients, and that its page is of its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.learning_coefficient import OURS, PAGE, RESULTS, main, page


@pytest.mark.processes
def test_a_quick_run_writes_its_file_and_page(tmp_path: Path, restore_threads: None) -> None:
    results = tmp_path / "results.json"
    main(["--quick", "--results", str(results), "--page", str(tmp_path / "page.md")])
    read = json.loads(results.read_text())
    assert (tmp_path / "page.md").read_text() == page(read)
    for row in read["values"]:
        assert row[OURS]["estimate"] > 0
    # A parameter, its gradient, its anchor, and a momentum.
    assert 3.9 < read["memory"][OURS] < 4.5
    assert torch.get_num_threads() == 1


def test_the_page_is_of_its_file() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))
