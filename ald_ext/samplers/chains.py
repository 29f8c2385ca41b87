"""Chains that are divided among the processes of torch.distributed, and brought together again.

Note [Chains on many processes]
    Chains are counted over all processes: chain c is the same chain, with the same noise, wherever it runs. A sampler
    is told by ``first_chain`` which of them its first one is (datapoint.py, Note [Noise of datapoint samplers]), so
    that with one seed 2 + 2 chains on two processes are bit for bit the 4 of one. Nothing is sent while they run.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..files import write_atomically
from ..reference import compute_dtype
from ..settings import require
from .collection import SampleStorage
from .diagnostics import with_chains
from .equal_chains import check_chains_differ
from .npy_files import map_draws
from .streaming import StreamingMoments

#: What one process has of its chains.
Result = TypeVar("Result", Tensor, StreamingMoments)

FILE_NAME = re.compile(r"chains-(\d+)-(\d+)\.npy")


def chains_of_rank(num_chains: int, group: dist.ProcessGroup | None = None) -> range:
    """Return which of ``num_chains`` chains this process runs: a range, as even as can be; all without a group.

    Its ``start`` is the ``first_chain`` of a sampler, and its length the number of chains in the sampler's z.

    Args:
        num_chains: number of chains of all processes.
        group: the process group; None stands for that of torch.distributed.init_process_group, if there is one.

    Raises:
        ValueError: fewer chains than processes, or a group without this process.
    """
    rank, processes = _place("chains_of_rank", group)
    expected = f"{processes} at least, one for each process"
    require(num_chains >= processes, "ald_ext.samplers.chains_of_rank: num_chains", num_chains, expected)
    return range(rank * num_chains // processes, (rank + 1) * num_chains // processes)


def gather_chains(result: Result, group: dist.ProcessGroup | None = None) -> Result:
    """Return the chains of all processes as one result, in the order of ranks; all processes have to call it.

    Moments are joined by :meth:`StreamingMoments.merge`, so that they are bit for bit those of one process. Without a
    process group the result has the chains of this process.

    Args:
        result: draws (draws, n, d) or (draws, n, chains, d), or :class:`StreamingMoments` of them, as many draws on
            every process; left unchanged.
        group: the process group; None stands for that of torch.distributed.init_process_group, if there is one.

    Returns:
        Draws (draws, n, all chains, d) or StreamingMoments, on every process, on the device of its own result.

    Raises:
        ValueError: results that do not fit together, chains with equal draws (ald_ext.samplers.equal_chains, Note
            [Equal chains]), or a group without this process.
    """
    if isinstance(result, Tensor):
        gathered = _all_gather(result.detach().clone(), result.device, group)
        draws = [with_chains("gather_chains", part) for part in gathered]  # so that all processes see what is wrong
        _check_fit("gather_chains: result", {f"rank {rank}": part for rank, part in enumerate(draws)})
        return with_chains("gather_chains", torch.cat(draws, 2))
    own, moments = result.state_dict(), list[StreamingMoments]()
    device = next((value.device for value in own.values() if isinstance(value, Tensor)), torch.device("cpu"))
    for rank, state in enumerate(_all_gather(own, device, group)):
        argument, expected = f"ald_ext.samplers.gather_chains: result: rank {rank}", f"{result.count}, as here"
        require(state["count"] == result.count, argument, f"{state['count']} draws a chain", expected)
        moments.append(StreamingMoments(covariance=state["keeps_covariance"], num_batches=state["num_batches"]))
        moments[-1].load_state_dict(state)
    for further in moments[1:]:
        moments[0].merge(further, along="chains")
    return moments[0]


def save_chains(folder: Path | str, draws: Tensor, *, first_chain: int = 0) -> Path:
    """Write the draws of some chains as a .npy file of a folder, whole or not at all, and return its path.

    Every process writes a file of its own and waits for nobody; :func:`load_chains` reads them all. Draws of 16-bit
    floats are written as float32.

    Args:
        folder: made if it is not there.
        draws: (draws, n, d) or (draws, n, chains, d).
        first_chain: the index of the first of these chains, counted over all processes.

    Raises:
        ValueError: another shape, chains with equal draws, or first_chain < 0.
        OSError: the file cannot be written.
    """
    require(first_chain >= 0, "ald_ext.samplers.save_chains: first_chain", first_chain, "an integer >= 0")
    array = with_chains("save_chains", draws)
    numbers = array.to("cpu", compute_dtype(array.dtype)).numpy()
    path = Path(folder) / f"chains-{first_chain:04}-{first_chain + array.shape[2] - 1:04}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: np.save(file, numbers))
    return path


def load_chains(folder: Path | str, num_chains: int | None = None, **options: Any) -> SampleStorage:
    """Return the draws of all files that :func:`save_chains` wrote into a folder, with the chains in order.

    Args:
        folder: the folder.
        num_chains: number of chains that have to be there; None stands for as many as there are.
        options: options of :class:`SampleStorage`: device, dtype and path, the last for draws that exceed the memory.

    Returns:
        A storage whose ``samples`` are (draws, n, chains, d).

    Raises:
        ValueError: chains that are missing or in two files, files that are damaged or do not fit together, or chains
            with equal draws (ald_ext.samplers.equal_chains, Note [Equal chains]).
    """
    argument = f"ald_ext.samplers.load_chains: folder: {folder}"
    named = [(match, path) for path in Path(folder).iterdir() if (match := FILE_NAME.fullmatch(path.name))]
    files, found = {}, 0
    for first, last, path in sorted((int(match[1]), int(match[2]), path) for match, path in named):
        expected = f"chain {found} to come next, and every chain in one file"
        require(first == found, argument, f"chains {first} to {last} in {path.name}", expected)
        numbers = torch.from_numpy(map_draws(path, argument, "c", "save_chains"))
        part = files[path.name] = with_chains("load_chains", numbers)
        found, chains = last + 1, part.shape[2]
        expected = f"{found - first}, as its name says"
        require(first + chains == found, f"{argument}: {path.name}", f"{chains} chains", expected)
    expected = f"{num_chains or '1 at least'}, in files chains-FIRST-LAST.npy"
    require(found == (num_chains or max(found, 1)), argument, f"{found} chains", expected)
    _check_fit("load_chains: folder", files)
    parts = list(files.values())
    storage = SampleStorage(len(parts[0]), **options)
    for draw in range(len(parts[0])):
        storage.append(torch.cat([part[draw] for part in parts], 1))
    check_chains_differ("ald_ext.samplers.load_chains: folder", storage.samples)
    return storage


def _place(name: str, group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Return the rank of this process and the number of processes; 0 and 1 without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    rank = dist.get_rank(group)
    require(rank >= 0, f"ald_ext.samplers.{name}: group", "one without this process", "a group of this process")
    return rank, dist.get_world_size(group)


def _all_gather(value: Any, device: torch.device, group: dist.ProcessGroup | None) -> list[Any]:
    """Return copies of the values of all ranks, a tensor or a dict with tensors, on a device of this process."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    gathered = [buffer.getvalue()] * _place("gather_chains", group)[1]
    if len(gathered) > 1:
        dist.all_gather_object(gathered, buffer.getvalue(), group=group)
    return [torch.load(io.BytesIO(part), map_location=device, weights_only=True) for part in gathered]


def _check_fit(name: str, parts: dict[str, Tensor]) -> None:
    """Raise a ValueError unless draws (draws, n, chains, d) differ in the number of chains at most."""
    kinds = {place: (*part.shape[:2], part.shape[3], part.dtype) for place, part in parts.items()}
    (first, expected), *others = kinds.items()
    for place, kind in others:
        argument = f"ald_ext.samplers.{name}: {place}"
        require(kind == expected, argument, f"(draws, n, d, dtype) = {kind}", f"{expected}, as of {first}")
