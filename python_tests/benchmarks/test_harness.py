"""What fails is recorded, and does not lose what was measured beside it."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
import training
from measurement import MIN_ROUNDS, measure_alternating
from names import FOREACH_STEP, OUR_STEP, PLAIN_STEP
from run import OUT_OF_TIME, finish, measure_cases
from training import Measured, measure_case
from training_cases import PreparedStep, TrainingCase
from variants import Case, Run, Variant

from ald_ext.models import ModelConfig

CPU = torch.device("cpu")
NO_BUDGET = 0.0


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
    samples, failures = measure_alternating(
        {"bad": failing_at(call), "good": lambda: sum(range(100_000))}, CPU, NO_BUDGET
    )
    assert list(samples) == ["good"]
    assert len(samples["good"].seconds) == MIN_ROUNDS
    assert [(name, type(error)) for name, error in failures.items()] == [("bad", ArithmeticError)]


def test_nothing_that_works() -> None:
    assert measure_alternating({}, CPU, NO_BUDGET) == ({}, {})
    samples, failures = measure_alternating({"bad": failing_at(1)}, CPU, NO_BUDGET)
    assert (samples, list(failures)) == ({}, ["bad"])


def case_of(size: str, prepare: Any) -> Case:
    variant = Variant("ald_ext op", 4, prepare, lambda inputs, run: None)
    return Case("update", size, 10, lambda: None, [variant])


def empty_results() -> dict[str, Any]:
    return {"rows": [], "ratios": [], "left_out": []}


def broken(inputs: None) -> Run:
    raise RuntimeError("in preparation")


def test_a_case_that_fails_does_not_lose_the_others() -> None:
    cases = [case_of("first", broken), case_of("second", lambda inputs: lambda: sum(range(10_000)))]
    results, saved = empty_results(), []
    problems = measure_cases(cases, CPU, NO_BUDGET, math.inf, results, lambda now: saved.append(copy.deepcopy(now)))
    assert [row["size"] for row in results["rows"]] == ["second"]
    assert [(item["size"], item["error"]) for item in results["left_out"]] == [("first", "RuntimeError")]
    assert [len(now["rows"]) for now in saved] == [0, 1], "each case is saved as soon as it was measured"
    with pytest.raises(SystemExit, match=r"the results are written, but:\nupdate, first: .*in preparation"):
        finish(results, problems)


def test_a_case_that_comes_too_late_is_no_failure() -> None:
    results = empty_results()
    problems = measure_cases([case_of("late", broken)], CPU, NO_BUDGET, -math.inf, results, lambda now: None)
    assert [item["error"] for item in results["left_out"]] == ["TimeoutError"]
    with pytest.raises(SystemExit) as exit_:
        finish(results, problems)
    assert exit_.value.code == OUT_OF_TIME


def test_finish_without_a_fault() -> None:
    finish(empty_results(), [])


def prepared(losses: Any) -> PreparedStep:
    return PreparedStep(lambda: torch.tensor(next(losses)))


def diverging() -> Any:
    yield from (1.0, 1.0, 1.0)
    raise ArithmeticError("diverged")


def test_a_step_that_diverges_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it raises, as ours does, or goes on with a loss that is no number."""
    steps = {
        ("lae", OUR_STEP): partial(prepared, itertools.repeat(1.0)),
        ("lae", PLAIN_STEP): partial(prepared, itertools.chain([1.0, 1.0], itertools.repeat(math.nan))),
        ("lae", FOREACH_STEP): partial(prepared, itertools.repeat(2.0)),
        ("vae", OUR_STEP): partial(prepared, diverging()),
    }
    monkeypatch.setattr(training, "prepared_steps", lambda case, device: steps)
    measured = Measured()
    case = TrainingCase("small", ("lae", "vae"), ModelConfig(network="mlp"), batch_size=10)
    measure_case(case, CPU, NO_BUDGET, measured)
    assert [(row["size"], row["variant"]) for row in measured.rows] == [("lae", OUR_STEP), ("lae", FOREACH_STEP)]
    assert [(ratio["numerator"], ratio["denominator"]) for ratio in measured.ratios] == [(FOREACH_STEP, OUR_STEP)]
    left_out = {(item["size"], item["variant"]): item["error"] for item in measured.left_out}
    assert left_out == {("lae", PLAIN_STEP): "ValueError", ("vae", OUR_STEP): "ArithmeticError"}
    assert len(measured.problems) == 2
