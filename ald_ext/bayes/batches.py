"""Minibatches without end, which a resumed run continues where the other stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..settings import require, shortened


def generator_states(loader: Any) -> dict[str, Any]:
    """Return the states of torch's default generators, and of a loader's own."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    own = getattr(loader, "generator", None)
    return {**states, "loader": None if own is None else own.get_state()}


def restore_generators(loader: Any, states: dict[str, Any]) -> None:
    """Restore :func:`generator_states`."""
    torch.set_rng_state(states["cpu"].cpu())
    if states["cuda"]:
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    if states["loader"] is not None:
        loader.generator.set_state(states["loader"].cpu())


def map_tensors(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """Return a minibatch with a function of each of its tensors in their places."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def num_rows(batch: Any) -> int:
    """Return the number of data of a minibatch, as its first tensor tells; 0 if none does."""
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 0)


def dataset_length(loader: Any) -> int | None:
    """Return the number of data of a loader's dataset; None for a loader or dataset that does not know it."""
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if hasattr(dataset, "__len__") else None  # type: ignore[arg-type]


class BatchStream(Iterator[Any]):
    """The minibatches of a loader, epoch after epoch, with the tensors on a device.

    Note [Resumed epochs]
        The generators' states from the start of an epoch are kept, and how many minibatches it has given since. A
        resumed stream starts the epoch anew from these states, passes over that many, and restores the generators'
        present states. So it gives the same minibatches if torch's generators are the only source of randomness.

    Args:
        loader: a DataLoader, or anything that gives minibatches each time it is iterated over.
        device: of the tensors.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        require(isinstance(loader, Iterable), "ald_ext.bayes: loader", shortened(loader), "minibatches")
        self.loader, self.device = loader, device
        self._iterator: Iterator[Any] | None = None
        self._start: dict[str, Any] = {}
        self._count = 0

    def __next__(self) -> Any:
        while True:
            if self._iterator is None:
                self._start, self._count = generator_states(self.loader), 0
                self._iterator = iter(self.loader)
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._iterator = None
                expected = "minibatches each time it is iterated over"
                require(self._count, "ald_ext.bayes: loader", "no minibatches", expected)
                continue
            self._count += 1
            return map_tensors(lambda leaf: leaf.to(self.device), batch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is, and the present states of generators."""
        started = self._iterator is not None
        present = generator_states(self.loader)
        return {"start": self._start if started else present, "count": self._count * started, "present": present}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        restore_generators(self.loader, state["start"])
        self._iterator = None
        for _ in range(state["count"]):
            next(self)
        restore_generators(self.loader, state["present"])
