"""Runs tasks side by side in processes that share a device, until they are done or the time is up."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from ald_ext.data import ImageData
from ald_ext.paper.workers import start_worker
from ald_ext.training import TrainingConfig
from ald_ext.training.loop import start_run

#: Numbers of jobs side by side that are tried, and the factor by which more of them have to be faster.
TRIED, LEAST_GAIN = (1, 2, 4), 1.1
#: Seconds of each of these measurements, of the wait for jobs that were told to stop, and for a process to end.
MEASURED_SECONDS, GRACE_SECONDS, CLOSING_SECONDS = 3.0, 10.0, 1.0


@dataclass(frozen=True)
class Call:
    """A function of a module with its arguments.

    Attributes:
        alone: whether nothing runs beside it.
        after: the name of a call that has to end first, and whose error is this one's, too; "" where none has to.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    alone: bool = False
    after: str = ""


class Pool:
    """Processes of one thread each.

    Args:
        num_processes: the largest number of calls side by side.
    """

    def __init__(self, num_processes: int) -> None:
        # Spawned, as CUDA does not work in a process that was forked from one that uses it.
        self.context = multiprocessing.get_context("spawn")
        self.num_processes = num_processes
        self.stop = self.context.Event()
        self.executor = self.start()

    def start(self) -> ProcessPoolExecutor:
        """Return new processes."""
        initial = (self.context.Value("q", 0), self.stop)
        return ProcessPoolExecutor(self.num_processes, self.context, initializer=start_worker, initargs=initial)

    def submit(self, call: Call) -> Future[Any]:
        """Begin a call, in new processes if one of the old ones was killed, with which all of them end."""
        try:
            return self.executor.submit(call.function, *call.arguments)
        except BrokenProcessPool:
            self.executor = self.start()
            return self.executor.submit(call.function, *call.arguments)

    def run(
        self, calls: Sequence[Call], until: float, received: Callable[[Call, Any, BaseException | None], None]
    ) -> None:
        """Make the calls in their order, and call ``received`` with the result or the error of each that ended.

        Args:
            calls: what to run.
            until: when the calls that run are told to stop, in the time of ``time.monotonic``.
            received: is told each call's result, or None with its error.
        """
        waiting, running = list(calls), dict[Future[Any], Call]()
        while waiting or running:
            late = time.monotonic() >= until
            if late:
                if not running or time.monotonic() >= until + GRACE_SECONDS:
                    return
                waiting = []
                self.stop.set()
            while (call := self.next_call(waiting, list(running.values()))) is not None:
                waiting.remove(call)
                running[self.submit(call)] = call
            for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                call, error = running.pop(future), future.exception()
                if error is not None and self.stop.is_set():  # what was told to stop has not failed
                    continue
                received(call, None if error else future.result(), error)
                for other in [other for other in waiting if error is not None and other.after == call.name]:
                    waiting.remove(other)
                    received(other, None, error)

    def next_call(self, waiting: Sequence[Call], running: Sequence[Call]) -> Call | None:
        """Return the first call that can begin beside those that run."""
        if len(running) >= self.num_processes or any(call.alone for call in running):
            return None
        unfinished = {call.name for call in (*waiting, *running)}
        ready = (call for call in waiting if call.after not in unfinished and not (call.alone and running))
        return next(ready, None)

    def close(self) -> None:
        """End the processes, also those that are not done."""
        self.stop.set()
        processes = list((self.executor._processes or {}).values())
        self.executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(CLOSING_SECONDS)
            if process.is_alive():
                process.kill()

    def best_number(self, config: TrainingConfig, data: ImageData) -> tuple[int, dict[str, float]]:
        """Return how many jobs side by side make the most steps together, and the images per second of each number."""
        rates: dict[str, float] = {}
        best = 1
        tried = [number for number in TRIED if number <= self.num_processes]
        for warm_up, number in [(True, tried[-1]), *((False, number) for number in tried)]:
            arguments = (config, data, 0.1 if warm_up else MEASURED_SECONDS)
            futures = [self.executor.submit(images_per_second, *arguments) for _ in range(number)]
            rate = sum(future.result() for future in futures)
            if not warm_up:
                rates[str(number)] = rate
                best = number if rate > LEAST_GAIN * rates[str(best)] or number == 1 else best
        return best, rates


def images_per_second(config: TrainingConfig, data: ImageData, seconds: float) -> float:
    """Return how fast a model trains in this process, beside whatever else runs."""
    run = start_run(config, data)
    steps, step, begin = 0, 0, 0.0
    while True:
        for x, index in run.batches.epoch(0):
            step += 1
            loss = run.training_step(step, x, index)
            run.scheduler.step()
            if step < 8:  # eager steps, and the capture
                begin = time.perf_counter()
                continue
            steps += 1
            if steps % 10 == 0:
                loss.item()  # waits for the device
                if time.perf_counter() - begin >= seconds:
                    return steps * config.batch_size / (time.perf_counter() - begin)
