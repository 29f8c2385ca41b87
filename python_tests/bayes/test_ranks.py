"""Chains of a network on several processes are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bayes.rank_chains import collect
from distributed.worlds import run_world

from ald_ext.bayes import PosteriorSamples

pytestmark = pytest.mark.processes


def in_order(trace: list[dict[str, float]]) -> list[dict[str, float]]:
    return sorted(trace, key=lambda row: (row["step"], row["chain"]))


def test_chains_of_ranks_are_those_of_one_process(tmp_path: Path):
    *chains_of_ranks, (first, second) = run_world("bayes.rank_chains", "both", 2, tmp_path)
    assert chains_of_ranks == [[0], [0]]
    assert first == second  # the learning coefficient, of one seed
    for chains in (2, 3):
        alone = collect(tmp_path / "alone" / str(chains), chains=chains)
        ranks = PosteriorSamples.load(tmp_path / str(chains) / "samples")
        assert ranks.chains == alone.chains == list(range(chains))
        assert len(ranks) == len(alone) == 5 * chains
        for one, other in zip(ranks, alone, strict=True):
            assert all(map(torch.equal, one.values(), other.values()))
        assert in_order(ranks.trace) == in_order(alone.trace)
