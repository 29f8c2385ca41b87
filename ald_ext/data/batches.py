"""Minibatches of images on the device of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

#: Number of minibatches that are prepared ahead where the images do not stay on the device.
BATCHES_AHEAD = 3
#: Largest share of a GPU's free memory that images may take to stay there.
RESIDENT_SHARE = 0.25


def batches(count: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Return the indices of an epoch's minibatches, a function of seed and epoch alone; the last may be shorter."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).split(batch_size)


class Batches:
    """Minibatches of a set of images, in an order that is a function of seed and epoch alone.

    The images are kept on the device and indexed there if they fit. Otherwise a thread gathers the next minibatches,
    and for a GPU copies them from pinned memory, on a stream of its own, while the model computes. The minibatches are
    the same.

    Args:
        images: (N, C, H, W) uint8, on the CPU.
        batch_size: m, from 1 to N.
        seed: seed of the order.
        device: device of the minibatches.
        resident: whether to keep the images on the device; None does so on the CPU, and on a GPU if they take at most a
            quarter of its free memory.
        rank: number of this process among those that divide every minibatch.
        num_ranks: number of these processes.

    Raises:
        ValueError: ``batch_size`` is less than 1 or more than the number of images.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        *,
        resident: bool | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        if not 1 <= batch_size <= len(images):
            raise ValueError(
                f"batch_size: got {batch_size}, expected 1 to {len(images)}, the number of training images"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.rank, self.num_ranks = rank, num_ranks
        self.resident = fits(images, self.device) if resident is None else resident
        self.images = images.to(self.device) if self.resident else images
        copies = not self.resident and self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if copies else None

    @property
    def batches_per_epoch(self) -> int:
        """The number of minibatches of an epoch, a short last one included."""
        return -(-len(self.images) // self.batch_size)

    def size(self, batch: int) -> int:
        """Return the number of images in minibatch ``batch`` of an epoch, on all processes together."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def share(self, batch: int) -> float:
        """Return the share of the images of minibatch ``batch`` that are this process's; it may be 0."""
        begin, end = self.part(self.size(batch))
        return (end - begin) / self.size(batch)

    def part(self, size: int) -> tuple[int, int]:
        """Return where this process's part of a minibatch begins and ends."""
        return size * self.rank // self.num_ranks, size * (self.rank + 1) // self.num_ranks

    def epoch(self, epoch: int, first: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Iterate over the minibatches ``first``, ``first + 1``, … of an epoch.

        Yields:
            Images and their index, (m, C, H, W) uint8 and (m,) int64, on the device. The last m may be smaller. Of
            several processes each has its part; where that has no image, all of the minibatch.

        Raises:
            ValueError: ``first`` is negative or more than the number of minibatches.
        """
        if not 0 <= first <= self.batches_per_epoch:
            raise ValueError(
                f"first: got {first}, expected 0 to {self.batches_per_epoch}, the number of minibatches of an epoch"
            )
        chosen = batches(len(self.images), self.batch_size, self.seed, epoch)[first:]
        own = [index[slice(*self.part(len(index)))] for index in chosen]
        own = [part if len(part) else index for part, index in zip(own, chosen, strict=True)]
        return self.indexed(own) if self.resident else self.prefetched(own)

    def indexed(self, chosen: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Iterate over minibatches of images that are on the device."""
        if not chosen:
            return
        # One copy for the epoch: copying the index of every minibatch would make the CPU wait for the GPU.
        for index in torch.cat(list(chosen)).to(self.device).split([len(index) for index in chosen]):
            yield self.images[index], index

    def prefetched(self, chosen: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Iterate over minibatches that a thread prepares; it ends with the iterator."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="ald_ext-batches")
        pending: deque[Future[tuple[Tensor, Tensor, torch.cuda.Event | None]]] = deque()
        try:
            for index in chosen:
                pending.append(thread.submit(self.fetch, index))
                if len(pending) > BATCHES_AHEAD:
                    yield self.received(*pending.popleft().result())
            while pending:
                yield self.received(*pending.popleft().result())
        finally:
            thread.shutdown(cancel_futures=True)

    def fetch(self, index: Tensor) -> tuple[Tensor, Tensor, torch.cuda.Event | None]:
        """Return a minibatch on the device, and the event of its copy. Runs in the thread."""
        if self.stream is None:
            return self.images[index].to(self.device), index.to(self.device), None
        # torch does not use pinned memory again before the copy out of it is done.
        x = torch.empty((len(index), *self.images.shape[1:]), dtype=self.images.dtype, pin_memory=True)
        torch.index_select(self.images, 0, index, out=x)
        with torch.cuda.stream(self.stream):
            x = x.to(self.device, non_blocking=True)
            index = index.pin_memory().to(self.device, non_blocking=True)
            return x, index, self.stream.record_event()

    def received(self, x: Tensor, index: Tensor, copied: torch.cuda.Event | None) -> tuple[Tensor, Tensor]:
        """Return the minibatch, ready for the stream that computes."""
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in (x, index):
                tensor.record_stream(stream)
        return x, index


def fits(images: Tensor, device: torch.device) -> bool:
    """Return whether images can stay on the device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= free * RESIDENT_SHARE
