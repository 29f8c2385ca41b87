"""Runs the seeds or jobs of an experiment side by side, in processes of one thread each, under one progress bar."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

#: Called after every unit of work, with the number of units done.
Progress = Callable[[int], Any]

#: In a worker: the number of units that all workers have done, and the event that tells them to stop.
_done: Any = None
_stop: Any = None


def run_all(
    run: Callable[[Any, Progress], Result], arguments: Sequence[Any], num_workers: int, bar: Any
) -> list[Result]:
    """Return ``run(argument, progress)`` of every argument, in their order.

    Args:
        run: a function of a module, so that processes can import it. Its results are pickled; they may not hold
            tensors, to which torch lends file descriptors that end with their process.
        arguments: one a call.
        num_workers: the number of processes; with 1 everything runs in this one.
        bar: the progress bar of tqdm, or something with its ``update`` and ``n``.

    Raises:
        Exception: whatever a call raised, after those that run beside it have stopped.
        BrokenProcessPool: a process was killed.
    """
    if num_workers == 1:
        return [run(argument, bar.update) for argument in arguments]
    # Spawned, because a process that was forked from one with threads may hang.
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    begin = bar.n
    with ProcessPoolExecutor(num_workers, context, initializer=start_worker, initargs=(done, stop)) as pool:
        try:
            futures = [pool.submit(run, argument, count_done) for argument in arguments]
            waiting: set[Future[Result]] = set(futures)
            while waiting:
                waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION).not_done
                bar.update(begin + done.value - bar.n)
                for future in futures:
                    if future.done():
                        future.result()  # raises its error
            return [future.result() for future in futures]
        except BaseException:  # an interruption too: running calls stop, waiting ones do not begin
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def start_worker(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    torch.set_num_threads(1)


def count_done(units: int) -> None:
    """Count a worker's progress; if it is told to stop or its parent has ended, raise SIGTERM, on which training
    writes its checkpoint."""
    parent = multiprocessing.parent_process()
    with _done.get_lock():
        _done.value += units
    if _stop.is_set() or (parent is not None and not parent.is_alive()):
        signal.raise_signal(signal.SIGTERM)
