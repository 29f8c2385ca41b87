"""Replicas agree on a seed, chains do not, and what cannot be right is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from distributed.worlds import run_world
from distributed.wrapped import FLAGS

from ald_ext import ops


@pytest.fixture
def found(folder: Path) -> dict[str, list[Any]]:
    """By rank."""
    return run_world("distributed.replicas", "findings", 2, folder)


def test_unseeded_replicas_stay_equal(found: dict[str, list[Any]]) -> None:
    """Though their generators differ, and one uses its own once more."""
    first, second = found["seeds of two optimizers"]
    assert first == second
    assert first[0] != first[1]
    assert found["parameters after 50 steps"][0] == found["parameters after 50 steps"][1]


def test_optimizers_made_before_the_process_group_agree_at_their_first_step(found: dict[str, list[Any]]) -> None:
    (drawn, error, agreed), (also_drawn, also_error, also_agreed) = found["made early"]
    assert drawn != also_drawn
    assert error == also_error == ""
    assert agreed == also_agreed


def test_a_compiled_first_step_takes_the_seed_of_the_replicas(found: dict[str, list[Any]]) -> None:
    first, second = found["made early, compiled"]
    assert first == second


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("case", ["prefix", "replaced after 0", "replaced after 1", "compiled"])
def test_one_process_does_the_same(found: dict[str, list[Any]], case: str, flags: dict[str, bool]) -> None:
    """With names of a wrapped model and a prefix, parameters that FSDP2 put in the place of others, a compiled step."""
    assert found[f"{case}, {json.dumps(flags)}"] == ["", ""]


@pytest.mark.parametrize("first", [0, 1, 5])
def test_redundant_optimizers_continue(found: dict[str, list[Any]], first: int) -> None:
    """Of so many parameters in a first group, of which a rank may have none, from the state that rank 0 collected."""
    assert found[f"ZeRO, {first}"] == ["", ""]


def test_nobody_waits_for_ranks_that_make_no_optimizer(found: dict[str, list[Any]]) -> None:
    assert found["alone"] == ["", ""]


def test_different_seeds_are_an_error_at_the_first_step(found: dict[str, list[Any]]) -> None:
    """On the rank that was not the first; it names both seeds, and nothing has changed."""
    assert sorted(map(bool, found["different seeds"])) == [False, True]
    rank = 0 if found["different seeds"][0] else 1
    message = found["different seeds"][rank]
    assert f"ald_ext.SGLD: seed: got [{rank}] on rank {rank}, expected [{1 - rank}]" in message
    assert "chain=rank" in message
    assert found["different seeds, counter"][rank] == 0


def test_a_state_that_one_rank_loads(found: dict[str, list[Any]]) -> None:
    assert sorted(map(bool, found["loaded on one rank"])) == [False, True]
    assert any("step: got [" in text and "on all ranks" in text for text in found["loaded on one rank"])
    assert found["loaded on all"] == [["", 11], ["", 11]]


def test_chains_are_independent(found: dict[str, list[Any]]) -> None:
    """The noise of a chain is that of one process with the same chain."""
    (same, first), (also_same, second) = found["chains"]
    assert same
    assert also_same
    assert first != second
    assert found["chains with seeds"] == ["", ""]


def test_parts_without_names_are_refused(found: dict[str, list[Any]]) -> None:
    """Different parameters would have the same noise."""
    assert any("values: got" in text and "name_parameters" in text for text in found["ZeRO without names"])
    for use_orig_params in (True, False):
        for message in found[f"FSDP1 without names, {use_orig_params}"]:
            assert "expected ald_ext.name_parameters(model) after the model was wrapped" in message


@pytest.mark.parametrize("flags", ["{}", '{"foreach": true}', '{"fused": false}'])
def test_a_partial_gradient_is_refused_and_changes_nothing(found: dict[str, list[Any]], flags: str) -> None:
    for message, unchanged in found[f"partial gradient, {flags}"]:
        assert "parameter 3: got a gradient placed (Partial(sum)," in message
        assert "redistribute" in message
        assert unchanged


def test_steps_of_dtensors_are_counted_for_autograd(found: dict[str, list[Any]]) -> None:
    for message in found["overwritten"]:
        assert "modified by an inplace operation" in message


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_processes_draw_different_seeds() -> None:
    """Also a child's child, and the parent."""
    seeds = [ops.draw_seed()]
    for _ in range(2):
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writing, b"%d" % ops.draw_seed())
            finally:
                os._exit(0)
        os.wait()
        seeds.append(int(os.read(reading, 100)))
        os.close(reading)
        os.close(writing)
    assert len(set(seeds)) == 3
