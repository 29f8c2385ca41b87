"""The number of threads that torch uses on the CPU: the one with which repeated work is fastest.

Note [Number of threads]
    OpenMP's threads wait for each other at the end of every loop that they share. Where another process has one of the
    cores, all of them wait for the thread that shares it, and one thread alone may be several times as fast; on a quiet
    machine all cores are. So training, and :class:`ald_ext.samplers.Collector` where it is asked to, time some steps
    with torch's number of threads, a half of it, a quarter and so on down to 1, and take the fastest: at first, when
    steps take much longer than they did, and from time to time while fewer threads than torch's are in use, as the
    machine may have become quiet. This takes at most a hundredth of the time, and a tenth while steps are slow.

    Convolutions give other last bits with other numbers of threads (their gradients are summed by thread); this
    package's own kernels do not. So that results depend on nothing but the numbers in use, steps that are timed are
    undone, and the numbers are saved: a checkpoint lists each with the step at which it began, and is written anew at a
    change. A run that is resumed continues with its number, bit for bit as without the interruption, until another
    number is clearly faster. Two runs with the same settings are equal if their lists are, which is certain where the
    number is fixed. A model or a potential that counts its calls outside of its state counts those that are undone.

    The way in which threads wait is left alone. If they slept (OMP_WAIT_POLICY=PASSIVE), two would take almost twice as
    long on a quiet machine, and on a busy one they would still be three times slower than one; and libgomp reads that
    setting when torch is imported, for the whole process. OMP_DYNAMIC=true, with which OpenMP may start fewer threads
    than torch asks for, is switched off for the run: the gradients of oneDNN's convolutions would wait for the missing
    threads for ever.

    Nothing is chosen where the user chose: by an option, by OMP_NUM_THREADS or MKL_NUM_THREADS, or by
    torch.set_num_threads, if it was called after this package was imported and before the run. Torch's number is never
    exceeded, and is set again at the end of the run.
"""

from __future__ import annotations

import ctypes
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

#: Torch's number when this package was imported.
INITIAL_NUMBER = torch.get_num_threads()
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

#: Steps with each number are timed for so many seconds, after a first one that does not count; but a long first step,
#: in which one-time work matters little, is enough.
TRIAL_SECONDS, LONG_STEP_SECONDS = 0.05, 0.25
#: A number that is so many times slower than the best ends the search, as each halving at most doubles the time.
HOPELESS = 4.0
#: How many times faster another number must be: at first, and later, when noise would change results for nothing.
FIRST_GAIN, GAIN = 1.03, 1.15
#: Steps are averaged over so many seconds, and are slow if they take so many times as long as at their best.
STRETCH_SECONDS, SLOW = 1.0, 1.5
#: Time between two choices relative to the time that the former took: while steps are slow, and otherwise.
WAIT_IF_SLOW, WAIT = 10.0, 100.0


@contextmanager
def number_of_threads(number: int) -> Iterator[None]:
    """Set torch's number of threads inside, and the earlier one afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def switch_off_dynamic_teams() -> None:
    """Undo OMP_DYNAMIC=true for this thread, see Note [Number of threads]. ValueError where OpenMP is out of reach."""
    if os.environ.get("OMP_DYNAMIC", "").strip().lower() in ("true", "1"):
        try:
            ctypes.CDLL(None).omp_set_dynamic(0)
        except (AttributeError, OSError, TypeError) as error:
            raise ValueError(
                "threads: got OMP_DYNAMIC=true in the environment, with which convolutions may hang, expected it unset"
            ) from error


class FastestThreads:
    """The choice of the number of threads that is fastest for work in steps. See Note [Number of threads].

    Args:
        fixed: a number to use without a choice; None to choose.
        clock: function that returns the time in seconds.

    Attributes:
        number: number in use, or last in use; None if there is none yet. It may be set to continue with it.
    """

    def __init__(self, fixed: int | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.fixed, self.clock = fixed, clock
        self.number: int | None = None
        self.candidates: list[int] = []
        self.cost: float | None = None  # seconds of the last choice
        self._begin_watching()

    def _begin_watching(self) -> None:
        self.worked, self.slow, self.best = 0.0, False, math.inf  # best: seconds a step, of the best stretch
        self._begin_stretch()

    def _begin_stretch(self) -> None:
        self.stretch_seconds, self.stretch_steps = 0.0, 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the number inside: the earlier one or torch's, until another is chosen."""
        switch_off_dynamic_teams()
        most = torch.get_num_threads()
        chosen_by_user = most != INITIAL_NUMBER or any(os.environ.get(name) for name in ENVIRONMENT)
        if self.fixed is not None or chosen_by_user:
            self.candidates = [self.fixed or most]
        else:
            self.candidates = [most, *(2**power for power in reversed(range(most.bit_length())) if 2**power < most)]
        self.number = min(self.number or most, most) if len(self.candidates) > 1 else self.candidates[0]
        with number_of_threads(self.number):
            yield

    def step(self, work: Callable[[], Result]) -> Result:
        """Return the result of ``work()``, a step, and note its time."""
        begun = self.clock()
        result = work()
        seconds = self.clock() - begun
        self.worked += seconds
        self.stretch_seconds += seconds
        self.stretch_steps += 1
        if self.stretch_seconds >= STRETCH_SECONDS:
            mean = self.stretch_seconds / self.stretch_steps
            self.best = min(self.best, mean)
            self.slow = mean > SLOW * self.best
            self._begin_stretch()
        return result

    @property
    def due(self) -> bool:
        """Whether :meth:`choose` must be called before the next step."""
        if len(self.candidates) <= 1:
            return False
        if self.cost is None:
            return True
        if self.slow:
            return self.worked >= WAIT_IF_SLOW * self.cost
        return self.number != self.candidates[0] and self.worked >= WAIT * self.cost

    def choose(self, step: Callable[[], object], undo: Callable[[], object], *, first: bool = False) -> None:
        """Time steps with each number, and use the fastest.

        Args:
            step: function that makes a step.
            undo: function that undoes it.
            first: whether nothing was done yet whose bits another number would have changed.
        """
        assert self.number is not None
        begun = self.clock()
        seconds: dict[int, float] = {}
        try:
            for number in self.candidates:
                torch.set_num_threads(number)
                seconds[number] = self._time(step, undo)
                if seconds[number] > HOPELESS * min(seconds.values()):
                    break
            fastest = min(seconds, key=seconds.__getitem__)
            if seconds[fastest] * (FIRST_GAIN if first else GAIN) < seconds.get(self.number, math.inf):
                self.number = fastest
        finally:  # after Ctrl-C, too
            torch.set_num_threads(self.number)
            undo()  # once more, as the bits of what it computes may depend on the number, too
        self.cost = self.clock() - begun
        self._begin_watching()

    def _time(self, step: Callable[[], object], undo: Callable[[], object]) -> float:
        """Return the seconds that a step takes."""
        times: list[float] = []
        first = self.clock()
        while sum(times[1:]) < TRIAL_SECONDS and self.clock() - first < LONG_STEP_SECONDS:
            begun = self.clock()
            step()
            times.append(self.clock() - begun)
            undo()
        return statistics.mean(times[1:] or times)
