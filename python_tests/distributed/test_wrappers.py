"""The same noise under every wrapper: parameters after 20 steps equal those of one process, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distributed.worlds import run_world
from distributed.wrapped import FLAGS, OPTIMIZERS, PLACEMENTS, WRAPPERS

#: One world at once; the others are left to make test-all.
WORLDS = [pytest.param(world, marks=[] if world == 2 else [pytest.mark.exhaustive]) for world in (1, 2, 3, 4)]
EVERY_WORLD = pytest.mark.parametrize("world", WORLDS)

CELLS = [
    f"{wrapper}/{kind}/{implementation}"
    for wrapper in [*WRAPPERS, "FSDP2, columns", "ZeRO", "in the backward pass"]
    for kind in OPTIMIZERS
    for implementation in FLAGS
]
LAYOUTS = [
    f"{placement}/{dtype}{layout}"
    for placement in PLACEMENTS
    for dtype in ("torch.float32", "torch.bfloat16")
    for layout in ("", ", permuted")
]


@EVERY_WORLD
@pytest.mark.parametrize("cell", CELLS)
def test_wrappers(folder: Path, world: int, cell: str) -> None:
    assert run_world("distributed.wrapped", "table", world, folder)[cell] == ""


@EVERY_WORLD
@pytest.mark.parametrize("cell", LAYOUTS)
def test_placements(folder: Path, world: int, cell: str) -> None:
    """Of one tensor on a mesh of two dimensions, uneven and empty shards included."""
    assert run_world("distributed.wrapped", "table", world, folder)[cell] == ""


def test_dtensors_on_cuda(folder: Path, cuda: torch.device) -> None:
    found = run_world("distributed.wrapped", "on_cuda", 1, folder, "nccl")
    assert found == dict.fromkeys(found, "")
