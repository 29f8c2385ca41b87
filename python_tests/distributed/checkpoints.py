"""Checkpoints of torch.distributed.checkpoint, saved by one number of processes and loaded by another."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as distributed
import torch.distributed.checkpoint as checkpoint
from distributed.wrapped import OPTIMIZERS, OPTIONS, difference, fsdp2, network, one_process, steps
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

warnings.filterwarnings("ignore", module="torch")

#: Ways of a checkpoint: nested or flattened, with names of parameters or positions.
WAYS = {
    f"{kind}, {'flattened' if flatten else 'nested'}, {'named' if named else 'positions'}": (kind, flatten, named)
    for kind, flatten, named in itertools.product(OPTIMIZERS, (False, True), (True, False))
}


def start(way: str, wrap: Callable[[nn.Module], nn.Module], **options: Any) -> tuple[nn.Module, Any, StateDictOptions]:
    kind, flatten, named = WAYS[way]
    model = wrap(network())
    params = model.named_parameters() if named else model.parameters()
    optimizer = OPTIMIZERS[kind](params, **{**OPTIONS, **options})
    return model, optimizer, StateDictOptions(flatten_optimizer_state_dict=flatten)


def save(folder: Path) -> str:
    """After 10 steps."""
    for way in WAYS:
        model, optimizer, options = start(way, fsdp2)
        steps(optimizer, model.parameters(), 10)
        model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
        path = folder / f"saved by {distributed.get_world_size()}" / way
        checkpoint.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=path)
    return ""


def resume(folder: Path, saved_by: int, wrap: Callable[[nn.Module], nn.Module]) -> dict[str, str]:
    """What differs from 20 steps of one process, after 10 more; the new optimizer has another seed and lr."""
    differences = {}
    for way, (kind, _, named) in WAYS.items():
        model, optimizer, options = start(way, wrap, seed=None, lr=0.5)
        model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
        state = {"model": model_state, "optimizer": optimizer_state}
        checkpoint.load(state, checkpoint_id=folder / f"saved by {saved_by}" / way)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=options,
        )
        steps(optimizer, model.parameters(), 10)
        differences[way] = difference(model, one_process(kind, network(), {} if named else {"first_parameter": 0}))
    return differences


def resume_of_2(folder: Path) -> dict[str, str]:
    return resume(folder, 2, fsdp2)


def resume_of_1(folder: Path) -> dict[str, str]:
    return resume(folder, 1, fsdp2)


def resume_of_2_under_ddp(folder: Path) -> dict[str, str]:
    return resume(folder, 2, DistributedDataParallel)
