"""One seed for the replicas of an optimizer, other seeds for independent chains.

Note [Seeds of replicas]
    Where torch.distributed is initialized, optimizers of one class, of the same parameters (Note [Identity of a
    parameter]) and of one chain belong to each other; of several in a process, the n-th to the n-th of the others. They
    have one seed: that of the rank that was first to write it to the store of the process group. This is no collective
    operation: no rank waits, whichever of them make an optimizer. An optimizer that was made before the process group
    takes that seed at its first step. In the first step of each after it was made or its state was loaded, seeds and
    step counters are compared with those of the rank that was first. So are the values of parameters without names, in
    all optimizers of one seed: their positions might mean other parameters on another rank.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import Counter
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from .. import ops

#: The seeds of all chains seen so far: torch.compile can look into a dictionary, but not into a hash.
CHAIN_SEEDS: dict[tuple[int, int], int] = {}


def chain_seed(seed: int, chain: int) -> int:
    """The seed of a chain: half of the BLAKE2b hash, of 8 bytes, little-endian, of the text "[seed, chain]"."""
    if (seed, chain) not in CHAIN_SEEDS:
        CHAIN_SEEDS[seed, chain] = int.from_bytes(bytes.fromhex(digest([seed, chain])), "little") >> 1
    return CHAIN_SEEDS[seed, chain]


def digest(value: Any) -> str:
    """16 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


class Replicas:
    """What an optimizer has in common with those of other ranks.

    Args:
        kind: what is equal on all ranks that replicate the parameters.
    """

    #: The process group, and how many optimizers of a kind this process has made since.
    _made: tuple[Any, Counter[str]] = (lambda: None, Counter())

    def __init__(self, kind: Any) -> None:
        group = distributed.distributed_c10d._get_default_group()
        if Replicas._made[0]() is not group:
            Replicas._made = (weakref.ref(group), Counter())
        name, made = digest(kind), Replicas._made[1]
        made[name] += 1
        self.name, self.comparisons = f"ald_ext/{name}/{made[name]}", 0

    def first(self, key: str, value: Any) -> Any:
        """What the first rank has written, which is ``value`` if none has."""
        store = distributed.distributed_c10d._get_default_store()
        try:
            return json.loads(store.compare_set(f"{self.name}/{key}", "", json.dumps(value)))
        except NotImplementedError:  # of torch's fake process group, where nobody else is
            return value

    def compare(self, optimizer: str, **values: Any) -> None:
        """Compare seeds, step counters and values of parameters with those of the first rank.

        Raises:
            RuntimeError: they differ.
        """
        firsts = self.first(f"comparison {self.comparisons}", values)
        for name, value in values.items():
            if value != firsts[name]:
                raise RuntimeError(
                    f"ald_ext.{optimizer}: {name}: got {value} on rank {distributed.get_rank()}, expected "
                    f"{firsts[name]} as on the rank that was first: {WAYS_OUT[name]}"
                )
        self.comparisons += 1


#: What to do where something differs.
WAYS_OUT = {
    "seed": "give all replicas one seed, or none; or chain=rank for independent chains",
    "step": "load the state of the optimizer on all ranks or on none",
    "values": "replicas have equal parameters, as DistributedDataParallel makes them; for parts of one model, call "
    "ald_ext.name_parameters(model) before the optimizer is made; for independent chains, give chain=rank",
}


def in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def values_of(params: list[Tensor]) -> str:
    """A digest of shapes and of all bits, exact on every device."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        int(param.detach().view(integers[param.element_size()]).sum(dtype=torch.int64))
        for param in params
        if param.dtype in ops.PARAMETER_DTYPES and param.device.type != "meta"
    ]
    return digest([[list(param.shape) for param in params], sums])
