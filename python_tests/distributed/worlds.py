"""Worlds of processes that tests start: ``worlds.py MODULE FUNCTION WORLD FOLDER BACKEND`` calls it on every rank.

The ranks are forked, so that they need not import torch again. A test gets what rank 0 returned.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

TESTS = Path(__file__).parent.parent


def run_world(module: str, function: str, world: int, folder: Path, backend: str = "gloo") -> Any:
    """What the function, called with a folder on every rank, returned on rank 0; computed once in a session of pytest.

    Workers of pytest-xdist share the folder, and the first to come computes.
    """
    target, log = (folder / f"{module}.{function}.{world}.{ending}" for ending in ("json", "log"))
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            command = [sys.executable, __file__, module, function, str(world), str(folder), backend]
            path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
            with open(log, "w") as output:
                subprocess.run(command, stdout=output, stderr=output, env=environment, timeout=600, check=False)
    assert target.exists(), log.read_text()
    return json.loads(target.read_text())


def run_rank(rank: int, module: str, function: str, world: int, folder: Path, backend: str) -> None:
    """In a group whose store is a file, so that no port has to be free."""
    torch.set_num_threads(1)  # the first call after a fork makes a pool of threads anew, which two threads cannot do
    store = distributed.FileStore(str(folder / f"{module}.{function}.{world}.store"), world)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    result = getattr(importlib.import_module(module), function)(folder)
    if rank == 0:
        (folder / f"{module}.{function}.{world}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


if __name__ == "__main__":
    name, function, world, folder, backend = sys.argv[1:]
    importlib.import_module(name)
    arguments = (name, function, int(world), Path(folder), backend)
    multiprocessing.start_processes(run_rank, arguments, nprocs=int(world), start_method="fork")
