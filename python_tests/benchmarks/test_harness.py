"""What fails is recorded, and does not lose what was measured beside it."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch

from ald_ext.models import ModelConfig
from benchmarks.harness import OUT_OF_TIME, finish, measure_cases
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


def measured(cases: list[Any], deadline: float = math.inf) -> tuple[dict[str, Any], list[str], list[int]]:
    """The results, the problems, and the number of rows at each time that the results were saved."""
    results: dict[str, Any] = {"rows": [], "ratios": [], "left_out": []}
    saved: list[int] = []
    problems = measure_cases(cases, CPU, NO_BUDGET, deadline, results, lambda: saved.append(len(results["rows"])))
    return copy.deepcopy(results), problems, saved


def broken(inputs: None) -> Run:
    raise RuntimeError("in preparation")


def test_a_case_that_fails_does_not_lose_the_others() -> None:
    results, problems, saved = measured([case_of("first", broken), case_of("second", lambda inputs: working)])
    assert [(row["size"], row["bytes_per_element"]) for row in results["rows"]] == [("second", 4)]
    assert [(item["size"], item["error"]) for item in results["left_out"]] == [("first", "RuntimeError")]
    assert saved == [0, 1], "each case is saved as soon as it was measured"
    with pytest.raises(SystemExit, match=r"the results are written, but:\nupdate, first: .*in preparation"):
        finish(results, problems)


def test_a_case_that_comes_too_late_is_no_failure() -> None:
    results, problems, _ = measured([case_of("late", broken)], deadline=-math.inf)
    assert [item["error"] for item in results["left_out"]] == ["TimeoutError"]
    with pytest.raises(SystemExit) as exit_:
        finish(results, problems)
    assert exit_.value.code == OUT_OF_TIME


def test_finish_without_a_fault() -> None:
    finish({"left_out": []}, [])


def diverging() -> Any:
    yield from (1.0, 1.0, 1.0)
    raise ArithmeticError("diverged")


def test_a_step_that_diverges_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
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
    results, problems, _ = measured([case])
    assert [(row["size"], row["variant"]) for row in results["rows"]] == [("lae", OUR_STEP), ("lae", FOREACH_STEP)]
    assert [(ratio["numerator"], ratio["denominator"]) for ratio in results["ratios"]] == [(FOREACH_STEP, OUR_STEP)]
    left_out = {(item["size"], item["variant"]): item["error"] for item in results["left_out"]}
    assert left_out == {("lae", PLAIN_STEP): "ValueError", ("vae", OUR_STEP): "ArithmeticError"}
    assert len(problems) == 2
