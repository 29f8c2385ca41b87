"""Checkpoints of torch.distributed.checkpoint continue bit for bit on another number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.checkpoints import WAYS
from distributed.worlds import run_world

#: Saved by, resumed by, and how; all but the first are left to make test-all.
RESUMED = [
    (2, 1, "resume_of_2"),
    *(
        pytest.param(*resumed, marks=pytest.mark.exhaustive)
        for resumed in [(1, 2, "resume_of_1"), (2, 3, "resume_of_2"), (2, 2, "resume_of_2_under_ddp")]
    ),
]


@pytest.mark.processes
@pytest.mark.parametrize(("saved_by", "resumed_by", "function"), RESUMED)
@pytest.mark.parametrize("way", WAYS)
def test_resuming(folder: Path, saved_by: int, resumed_by: int, function: str, way: str) -> None:
    run_world("distributed.checkpoints", "save", saved_by, folder)
    assert run_world("distributed.checkpoints", function, resumed_by, folder)[way] == ""
