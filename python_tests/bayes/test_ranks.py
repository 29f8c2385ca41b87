"""Chains of a network on several processes are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bayes.rank_chains import collect
from distributed.worlds import run_world

from ald_ext.bayes import PosteriorSamples

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(("function", "chains"), [("one_chain_each", 2), ("three_chains", 3)])
def test_chains_of_ranks_are_those_of_one_process(function: str, chains: int, tmp_path: Path):
    for folder in ("ranks", "alone"):
        (tmp_path / folder).mkdir()
    assert run_world("bayes.rank_chains", function, 2, tmp_path / "ranks") == [0]
    alone = collect(tmp_path / "alone", chains=chains)
    ranks = PosteriorSamples.load(tmp_path / "ranks" / "samples")
    assert ranks.chains == alone.chains == list(range(chains))
    assert len(ranks) == len(alone) == 5 * chains
    for one, other in zip(ranks, alone, strict=True):
        assert all(map(torch.equal, one.values(), other.values()))
    key = ("step", "chain")
    assert sorted(ranks.trace, key=lambda row: [row[k] for k in key]) == sorted(
        alone.trace, key=lambda row: [row[k] for k in key]
    )
