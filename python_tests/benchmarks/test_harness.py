"""What fails is recorded, and does not lose what was measured beside it."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ald_ext.files import write_json
from ald_ext.models import ModelConfig
from benchmarks import harness
from benchmarks.harness import OUT_OF_TIME, measure
from benchmarks.measurement import MIN_ROUNDS, Run, measure_alternating
from benchmarks.names import FOREACH_STEP, OUR_STEP, OURS, PLAIN_STEP
from benchmarks.speed.cases import SpeedCase, Variant
from benchmarks.training import cases
from benchmarks.training.cases import TrainingCase

CPU = torch.device("cpu")
NO_BUDGET = 0.0


def working() -> int:
    return sum(range(10_000))


def failing_at(call: int) -> Run:
    """Does nothing but raise at this call, the first being 1."""
    calls = itertools.count(1)

    def run() -> None:
        if next(calls) >= call:
            raise ArithmeticError(f"call {call}")

    return run


@pytest.mark.parametrize("call", [1, 3, 20])
def test_a_variant_that_fails_is_left_out(call: int) -> None:
    """While its calls are counted, or later."""
    samples, failures = measure_alternating({"bad": failing_at(call), "good": working}, CPU, NO_BUDGET)
    assert list(samples) == ["good"]
    assert len(samples["good"].seconds) == MIN_ROUNDS
    assert [(name, type(error)) for name, error in failures.items()] == [("bad", ArithmeticError)]


def test_nothing_that_works() -> None:
    assert measure_alternating({}, CPU, NO_BUDGET) == ({}, {})
    samples, failures = measure_alternating({"bad": failing_at(1)}, CPU, NO_BUDGET)
    assert (samples, list(failures)) == ({}, ["bad"])


def case_of(size: str, prepare: Any) -> SpeedCase:
    variants = [Variant(OURS, 4, prepare, lambda inputs, run: None)]
    return SpeedCase("update", size, 10, lambda: None, variants)


def measured(folder: Path, cases: list[Any], deadline: float = math.inf) -> tuple[dict[str, Any], Any]:
    """What the file holds, and what the command exits with, None for success."""
    arguments = argparse.Namespace(device="cpu", quick=True, origin="a test", deadline=deadline)
    try:
        measure(folder / "cpu.json", arguments, cases, NO_BUDGET, {})
        code = None
    except SystemExit as exit_:
        code = exit_.code
    return json.loads((folder / "cpu.json").read_text()), code


def broken(inputs: None) -> Run:
    raise RuntimeError("in preparation")


def test_a_case_that_fails_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(
        harness, "write_json", lambda path, values: saved.append(len(values["rows"])) or write_json(path, values)
    )
    results, code = measured(tmp_path, [case_of("first", broken), case_of("second", lambda inputs: working)])
    assert [(row["size"], row["bytes_per_element"]) for row in results["rows"]] == [("second", 4)]
    assert [(item["size"], item["error"]) for item in results["left_out"]] == [("first", "RuntimeError")]
    assert saved == [0, 1], "each case is saved as soon as it was measured"
    assert re.match(r"the results are written, but:\nupdate, first: .*in preparation", code)


def test_a_case_that_comes_too_late_is_no_failure(tmp_path: Path) -> None:
    results, code = measured(tmp_path, [case_of("late", broken)], deadline=-math.inf)
    assert [item["error"] for item in results["left_out"]] == ["TimeoutError"]
    assert code == OUT_OF_TIME


def test_a_run_without_a_fault(tmp_path: Path) -> None:
    results, code = measured(tmp_path, [case_of("good", lambda inputs: working)])
    assert (len(results["rows"]), results["left_out"], code) == (1, [], None)


def diverging() -> Any:
    yield from (1.0, 1.0, 1.0)
    raise ArithmeticError("diverged")


def test_a_step_that_diverges_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it raises, as ours does, or goes on with a loss that is no number."""
    losses = {
        ("lae", OUR_STEP): itertools.repeat(1.0),
        ("lae", PLAIN_STEP): itertools.chain([1.0, 1.0], itertools.repeat(math.nan)),
        ("lae", FOREACH_STEP): itertools.repeat(2.0),
        ("vae", OUR_STEP): diverging(),
    }

    def prepare_step(case: TrainingCase, model: str, variant: str) -> tuple[Run, None]:
        return partial(next, losses[model, variant]), None

    monkeypatch.setattr(cases, "prepare_step", prepare_step)
    monkeypatch.setattr(
        TrainingCase, "variants", lambda case, model: [variant for of, variant in losses if of == model]
    )
    case = TrainingCase("small", ("lae", "vae"), ModelConfig(network="mlp"), batch_size=10)
    results, code = measured(tmp_path, [case])
    assert [(row["size"], row["variant"]) for row in results["rows"]] == [("lae", OUR_STEP), ("lae", FOREACH_STEP)]
    assert [(ratio["numerator"], ratio["denominator"]) for ratio in results["ratios"]] == [(FOREACH_STEP, OUR_STEP)]
    left_out = {(item["size"], item["variant"]): item["error"] for item in results["left_out"]}
    assert left_out == {("lae", PLAIN_STEP): "ValueError", ("vae", OUR_STEP): "ArithmeticError"}
    assert len(code.splitlines()) == 3, "a heading and two problems"
