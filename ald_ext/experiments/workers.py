"""Units of an experiment side by side, in processes of one thread each, under one progress bar."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

#: Called after every unit of work, with the number of units done.
Progress = Callable[[int], Any]

#: In a worker: the number of units that all workers have done.
_done: Any = None


def run_all(
    run: Callable[[Any, Progress], Result], arguments: Sequence[Any], num_workers: int, bar: Any
) -> list[Result]:
    """``run(argument, progress)`` of every argument, in the order in which they are given.

    Args:
        run: a function of a module, so that processes may import it, and with results that can be pickled; torch lends
            its file descriptors to tensors that cross, which end with the process, so there should be none.
        arguments: one a call.
        num_workers: processes; 1: everything in this one.
        bar: tqdm's, or what has its ``update`` and ``n``.
    """
    if num_workers == 1:
        return [run(argument, bar.update) for argument in arguments]
    # Spawned, because a process that was forked from one with threads may hang.
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    begin = bar.n
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=start_worker, initargs=(done,)) as pool:
        futures = [pool.submit(run, argument, count_done) for argument in arguments]
        waiting: set[Future[Result]] = set(futures)
        while waiting:
            waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION).not_done
            bar.update(begin + done.value - bar.n)
            if any(future.done() and future.exception() for future in futures):
                pool.shutdown(wait=False, cancel_futures=True)
                break
        return [future.result() for future in futures]


def start_worker(done: Any) -> None:
    global _done
    _done = done
    torch.set_num_threads(1)


def count_done(units: int) -> None:
    """Progress in a worker, which ends with the process that wants its work."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit("the process that asked for this work has ended")
    with _done.get_lock():
        _done.value += units
