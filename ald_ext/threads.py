"""How many threads torch uses on the CPU: as many as repeated work is fastest with.

Note [Number of threads]
    OpenMP's threads wait for each other at the end of every loop that they share. Where another process has one of the
    cores, all of them wait for the thread that shares it, and one thread alone may be several times as fast; on a quiet
    machine all cores are. So training, and :class:`ald_ext.samplers.Collector` where it is asked to, time some steps
    with torch's number of threads, a half of it, a quarter and so on down to 1, and take the fastest: at first, when
    steps take much longer than they did, and from time to time where fewer threads than torch's are in use, as the
    machine may have become quiet. That takes at most a hundredth of the time, and a tenth while steps are slow.

    Convolutions give other last bits with other numbers of threads (their gradients are summed by thread); this
    package's own kernels do not. So that results depend on nothing but the numbers in use, steps that are timed are
    taken back, and the numbers are part of what is saved: a checkpoint lists each with the step at which it began, and
    is written anew at a change. A run that is resumed goes on with its number, bit for bit as it would have gone on,
    until another one is clearly faster. Two runs of the same settings are the same if their lists are, which they are
    for certain where the number is fixed. A model or a potential that counts its calls, outside of what is saved,
    counts those that are taken back.

    The threads' waiting is left as it is. If they slept instead (OMP_WAIT_POLICY=PASSIVE), two would take almost twice
    as long on a quiet machine, and on a busy one they would still be three times slower than one; and libgomp reads
    that setting when torch is imported, for the whole process.

    Nothing is chosen where the user did: by an option, by OMP_NUM_THREADS or MKL_NUM_THREADS, or by
    torch.set_num_threads, if that was called after this package was imported and before the run. Torch's number is
    never exceeded, and is set again at the end of the run.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

#: Torch's number, if nobody changes it.
INITIAL_NUMBER = torch.get_num_threads()
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

#: Steps of each number are timed until they took so long together, after one that is left out, unless it takes so long
#: that what only a first step does matters little.
TRIAL_SECONDS, LONG_STEP_SECONDS = 0.05, 0.25
#: So much slower than the best, a number ends the search: each halving at most doubles the time.
HOPELESS = 4.0
#: How much faster another number is to be: at first, and later, when noise would change results for nothing.
FIRST_GAIN, GAIN = 1.03, 1.15
#: Steps are averaged over so many seconds, and are slow if they take so much longer than at their best.
STRETCH_SECONDS, SLOW = 1.0, 1.5
#: Time between two choices over the time that the former took: where steps are slow, and otherwise.
WAIT_IF_SLOW, WAIT = 10.0, 100.0


@contextmanager
def number_of_threads(number: int) -> Iterator[None]:
    """So many inside; what it was before, afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chosen_by_user() -> bool:
    """Whether the number of threads is, as far as can be seen."""
    return torch.get_num_threads() != INITIAL_NUMBER or any(os.environ.get(name) for name in ENVIRONMENT)


class FastestThreads:
    """Keeps torch's number of threads at what is fastest for work in steps. See Note [Number of threads].

    Args:
        fixed: the number, which is then not chosen.
        clock: in seconds.

    Attributes:
        number: in use, or last in use; it may be set to go on with that one. None: none yet.
    """

    def __init__(self, fixed: int | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.fixed, self.clock = fixed, clock
        self.number: int | None = None
        self.candidates: list[int] = []
        self.cost: float | None = None  # seconds of the last choice
        self._begin_watching()

    def _begin_watching(self) -> None:
        self.worked = 0.0
        self.slow = False
        self.best = math.inf  # seconds a step, of the best stretch
        self._begin_stretch()

    def _begin_stretch(self) -> None:
        self.stretch_seconds, self.stretch_steps = 0.0, 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Torch has the number inside, which is the earlier one or torch's, until another is chosen."""
        most = torch.get_num_threads()
        if self.fixed is not None or chosen_by_user():
            self.candidates = [self.fixed or most]
        else:
            self.candidates = [most, *(2**power for power in reversed(range(most.bit_length())) if 2**power < most)]
        self.number = min(self.number or most, most) if len(self.candidates) > 1 else self.candidates[0]
        with number_of_threads(self.number):
            yield

    def step(self, work: Callable[[], Result]) -> Result:
        """The result of ``work()``, a step, whose time is noted."""
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
        """Whether :meth:`choose` is to be called before the next step."""
        if len(self.candidates) <= 1:
            return False
        if self.cost is None:
            return True
        if self.slow:
            return self.worked >= WAIT_IF_SLOW * self.cost
        return self.number != self.candidates[0] and self.worked >= WAIT * self.cost

    def choose(self, step: Callable[[], object], undo: Callable[[], object], *, first: bool = False) -> None:
        """Times steps with each number, and sets the fastest.

        Args:
            step: the work.
            undo: takes a step back.
            first: nothing was done yet whose bits another number would have changed.
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
            undo()  # anew: what it computes may have bits of the number, too
        self.cost = self.clock() - begun
        self._begin_watching()

    def _time(self, step: Callable[[], object], undo: Callable[[], object]) -> float:
        """Seconds a step."""
        times: list[float] = []
        first = self.clock()
        while sum(times[1:]) < TRIAL_SECONDS and self.clock() - first < LONG_STEP_SECONDS:
            begun = self.clock()
            step()
            times.append(self.clock() - begun)
            undo()
        return statistics.mean(times[1:] or times)
