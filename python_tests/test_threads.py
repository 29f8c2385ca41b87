"""The number of threads: what is chosen and when, by a clock that is set by hand; and that timing changes no result."""

from __future__ import annotations

import ctypes
import math
import signal
from collections.abc import Iterator

import pytest
import torch

from ald_ext import threads
from ald_ext.threads import GAIN, WAIT, WAIT_IF_SLOW, FastestThreads
from benchmarks.training import busy_machine


class Machine:
    """Work whose time is given by torch's number of threads; and a clock that it moves."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.steps, self.undone = seconds, 0.0, 0, 0

    def clock(self) -> float:
        return self.now

    def step(self) -> int:
        self.now += self.seconds[torch.get_num_threads()]
        self.steps += 1
        return self.steps

    def undo(self) -> None:
        self.undone += 1


@pytest.fixture(autouse=True)
def _four_threads(restore_threads: Iterator[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Are torch's, as if it had chosen so itself."""
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "INITIAL_NUMBER", 4)
    for name in threads.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def run_steps(choice: FastestThreads, machine: Machine, seconds: float) -> None:
    """As a loop does, for that time at least; choices are not counted."""
    worked = 0.0
    while worked < seconds:
        if choice.due:
            choice.choose(machine.step, machine.undo)
        before = machine.now
        choice.step(machine.step)
        worked += machine.now - before


def begin(seconds: dict[int, float]) -> tuple[FastestThreads, Machine]:
    machine = Machine(seconds)
    return FastestThreads(clock=machine.clock), machine


QUIET, BUSY = {4: 0.01, 2: 0.015, 1: 0.03}, {4: 0.5, 2: 0.06, 1: 0.03}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (QUIET, 4),
        (BUSY, 1),
        ({4: 0.03, 2: 0.01, 1: 0.03}, 2),
        ({4: 0.0101, 2: 0.01, 1: 0.03}, 4),  # about as fast
    ],
)
def test_the_fastest_is_chosen_at_first(seconds, expected):
    choice, machine = begin(seconds)
    with choice.in_use():
        assert choice.number == 4
        assert choice.due
        choice.choose(machine.step, machine.undo, first=True)
        assert choice.number == torch.get_num_threads() == expected
        assert not choice.due
        assert machine.undone == machine.steps + 1  # once more, with the number that was chosen
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [2, 1]), (6, [6, 4, 2, 1]), (8, [8, 4, 2, 1])])
def test_candidates(monkeypatch, most, expected):
    torch.set_num_threads(most)
    monkeypatch.setattr(threads, "INITIAL_NUMBER", most)
    choice, _ = begin({})
    with choice.in_use():
        assert choice.candidates == expected
        assert choice.due is (most > 1)


def test_hopeless_numbers_are_not_tried():
    """On many cores one thread may take a hundred times as long."""
    choice, machine = begin({4: 0.01, 2: 0.05})  # a step of one thread would be a KeyError
    with choice.in_use():
        choice.choose(machine.step, machine.undo)
        assert choice.number == 4


def test_a_machine_that_becomes_busy_is_noticed():
    choice, machine = begin(QUIET)
    with choice.in_use():
        run_steps(choice, machine, 1000)
        cost = choice.cost
        assert (choice.number, choice.worked > 999) == (4, True)  # once chosen, all threads need no second look
        machine.seconds = BUSY
        run_steps(choice, machine, 3)
        assert choice.number == 1
        assert cost < 0.5


def test_a_slow_machine_is_not_looked_at_all_the_time():
    """Slow for any number: the next look comes after ten times the time of the last, and then this is how it is."""
    choice, machine = begin(QUIET)
    with choice.in_use():
        run_steps(choice, machine, 100)
        machine.seconds = {number: 5 * seconds for number, seconds in QUIET.items()}
        looks, choose = [], choice.choose

        def note_and_choose(*arguments):
            looks.append(machine.now)
            choose(*arguments)

        choice.choose = note_and_choose
        run_steps(choice, machine, 1000)
        assert len(looks) == 1
        assert choice.number == 4


def test_waiting_times_follow_the_cost():
    choice, machine = begin(BUSY)
    with choice.in_use():
        choice.choose(machine.step, machine.undo)
        assert choice.cost == machine.now
        choice.worked = WAIT * choice.cost
        assert choice.due  # the machine may have become quiet
        choice.worked = WAIT * choice.cost * 0.99
        assert not choice.due
        choice.slow = True
        assert choice.due
        choice.worked = WAIT_IF_SLOW * choice.cost * 0.99
        assert not choice.due


def test_a_machine_that_becomes_quiet_is_noticed():
    choice, machine = begin(BUSY)
    with choice.in_use():
        run_steps(choice, machine, 1)
        assert choice.number == 1
        machine.seconds = QUIET
        run_steps(choice, machine, WAIT * choice.cost + 1)
        assert choice.number == 4


def test_choosing_takes_a_hundredth_of_the_time():
    choice, machine = begin({4: 0.02, 2: 0.015, 1: 0.01})
    with choice.in_use():
        run_steps(choice, machine, 1)
        begun, undone = machine.now, machine.undone
        run_steps(choice, machine, 1000)
        assert machine.undone > undone + 50
        assert 1000 < machine.now - begun < 1010 + choice.cost


def test_noise_does_not_change_a_number_that_is_in_use():
    choice, machine = begin(QUIET)
    with choice.in_use():
        choice.choose(machine.step, machine.undo, first=True)
        machine.seconds = {**QUIET, 2: QUIET[4] / GAIN * 1.001}
        choice.choose(machine.step, machine.undo)
        assert choice.number == 4
        machine.seconds = {**QUIET, 2: QUIET[4] / GAIN * 0.999}
        choice.choose(machine.step, machine.undo)
        assert choice.number == 2


def test_a_trial_that_is_interrupted_is_taken_back():
    choice, machine = begin(QUIET)

    def interrupted() -> None:
        if machine.step() == 3:
            raise KeyboardInterrupt

    with choice.in_use():
        with pytest.raises(KeyboardInterrupt):
            choice.choose(interrupted, machine.undo)
        assert machine.undone == machine.steps == 3
        assert choice.number == torch.get_num_threads() == 4


def test_a_trial_ends_where_taking_back_takes_long():
    """As of a sampler with a large state and quick steps."""
    choice, machine = begin(dict.fromkeys((4, 2, 1), 1e-6))

    def slow_undo() -> None:
        machine.now += 1.0

    with choice.in_use():
        choice.choose(machine.step, slow_undo)
    assert machine.steps == 3


# ---- who chose ----


def assert_fixed(choice: FastestThreads, number: int) -> None:
    before = torch.get_num_threads()
    with choice.in_use():
        assert choice.number == torch.get_num_threads() == number
        choice.worked, choice.cost, choice.slow = math.inf, 0.0, True
        assert not choice.due
    assert torch.get_num_threads() == before


def test_a_number_that_is_asked_for_is_kept():
    assert_fixed(FastestThreads(3), 3)
    assert_fixed(FastestThreads(8), 8)


@pytest.mark.parametrize("name", threads.ENVIRONMENT)
def test_the_environments_number_is_kept(monkeypatch, name):
    monkeypatch.setenv(name, "4")
    assert_fixed(FastestThreads(), 4)


def test_a_number_that_was_set_in_torch_is_kept():
    torch.set_num_threads(2)
    assert_fixed(FastestThreads(), 2)


def test_an_earlier_number_goes_on_as_far_as_there_are_threads(monkeypatch):
    choice = FastestThreads()
    choice.number = 2
    with choice.in_use():
        assert torch.get_num_threads() == 2
    choice.number = 64
    with choice.in_use():
        assert choice.number == torch.get_num_threads() == 4


def test_torch_gets_its_number_back_after_an_error():
    choice = FastestThreads()
    choice.number = 1
    with pytest.raises(ZeroDivisionError), choice.in_use():
        _ = 1 / 0
    assert torch.get_num_threads() == 4


# ---- the benchmark ----


def test_the_benchmark_compares_medians_of_runs_in_alternation(capsys):
    runs: list[int | None] = []
    rates = {1: [5.0, 4.0, 90.0], 2: [10.0, 8.0, 9.0], None: [8.1, 1.0, 8.1]}

    def rate(number: int | None) -> float:
        runs.append(number)
        return rates[number].pop(0)

    assert busy_machine.share_of_best(rate, [1, 2], 3) == pytest.approx(0.9)
    assert runs == [1, 2, None, None, 2, 1, 1, 2, None]
    assert "   2 threads:       9 images/s (8 to 10)" in capsys.readouterr().out


def test_the_busy_core_is_given_back():
    with busy_machine.busy_core() as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_dynamic_teams_are_switched_off(monkeypatch):
    """With fewer threads than torch asked for, the gradients of oneDNN's convolutions wait for ever."""
    openmp = ctypes.CDLL(None)
    if not hasattr(openmp, "omp_set_dynamic"):
        pytest.skip("torch has no OpenMP here")
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    openmp.omp_set_dynamic(1)
    try:
        with FastestThreads().in_use():
            assert openmp.omp_get_dynamic() == 0
        monkeypatch.setattr(threads.ctypes, "CDLL", lambda name: object())
        with pytest.raises(ValueError, match="threads: got OMP_DYNAMIC=true"), FastestThreads().in_use():
            pass
    finally:
        openmp.omp_set_dynamic(0)
