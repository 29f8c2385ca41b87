"""Running a sampler and keeping its draws: all samples, in memory or on disk, or their moments only.

Note [Shapes of samples]
    A sampler's state is (n, d) or (n, chains, d): n data, d latent variables. Draws are stacked in front of it: (draws,
    n, d) or (draws, n, chains, d). Functions that need chains take the shape without that axis for one chain.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..progress import progress_bar
from ..settings import require
from ..threads import FastestThreads, number_of_threads


@runtime_checkable
class Sampler(Protocol):
    """An object with ``step``, and, to be resumed, with ``state_dict`` and ``load_state_dict`` as torch's modules."""

    def step(self) -> Tensor:
        """Make one transition; return the new state, (n, d) or (n, chains, d), which the next step may overwrite."""


@runtime_checkable
class Sink(Protocol):
    """A receiver of draws: :class:`SampleStorage`, :class:`ald_ext.samplers.StreamingMoments`, or one's own."""

    def reserve(self, num_draws: int) -> None:
        """Prepare for so many more draws."""

    def append(self, state: Tensor) -> None:
        """Take one draw; copy what is kept of it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the sink holds."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what :meth:`state_dict` returned."""


AnySink = TypeVar("AnySink", bound="Sink | Sequence[Sink]")


def check_state_shape(name: str, state: Tensor, expected: Sequence[int] | None) -> None:
    """Raise a ValueError unless a draw is (n, d) or (n, chains, d), and shaped as those before it."""
    argument, got = f"ald_ext.samplers.{name}: state", f"shape {tuple(state.shape)}"
    if expected is not None:
        require(state.shape == tuple(expected), argument, got, f"{tuple(expected)}")
    require(state.ndim in (2, 3), argument, got, "(n, d) or (n, chains, d)")


class SampleStorage:
    """All draws in one preallocated tensor, on a device, or in a .npy file that is mapped into memory.

    Args:
        capacity: number of draws for which there is room; None stands for as many as the first run announces. In
            memory, but not in a file, room is made for more later.
        device: device of the tensor; None stands for the sampler's.
        dtype: dtype of what is kept; None stands for the sampler's.
        path: a .npy file for the draws, created anew; draws that are still to come read as zeros.

    Raises:
        ValueError: a draw of another shape, a file that is full, or a dtype that numpy lacks.
    """

    def __init__(
        self,
        capacity: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        path: Path | str | None = None,
    ) -> None:
        name = "ald_ext.samplers.SampleStorage"
        require(capacity is None or capacity >= 1, f"{name}: capacity", capacity, "an integer > 0")
        fits = path is None or (Path(path).suffix == ".npy" and device is None)
        got = f"{str(path)!r} with device={device}"
        require(fits, f"{name}: path", got, "a name that ends in .npy, without a device")
        self.capacity, self.device, self.dtype = capacity, device, dtype
        self.path = None if path is None else Path(path)
        self.count = 0
        self._buffer: Tensor | None = None
        self._file: np.memmap[Any, Any] | None = None
        self._announced = 0

    def __len__(self) -> int:
        return self.count

    @property
    def samples(self) -> Tensor:
        """The draws so far, (count, n, d) or (count, n, chains, d): a view, not a copy. RuntimeError without draws."""
        if self._buffer is None:
            raise RuntimeError("ald_ext.samplers.SampleStorage: samples: got none yet, expected a draw at least")
        return self._buffer[: self.count]

    def reserve(self, num_draws: int) -> None:
        """Make room for so many more draws: at once, or with the first draw, which tells their shape."""
        self._announced = self.count + num_draws
        if self._buffer is not None and self._announced > len(self._buffer):
            self._grow(self._announced)

    def append(self, state: Tensor) -> None:
        """Store one draw, (n, d) or (n, chains, d)."""
        check_state_shape("SampleStorage", state, None if self._buffer is None else self._buffer.shape[1:])
        if self._buffer is None:
            self._allocate(self.capacity or max(self._announced, 1), state)
        elif self.count == len(self._buffer):
            self._grow(2 * self.count)
        assert self._buffer is not None
        self._buffer[self.count].copy_(state.detach())
        self.count += 1

    def _allocate(self, capacity: int, state: Tensor) -> None:
        shape, dtype = (capacity, *state.shape), self.dtype or state.dtype
        if self.path is None:
            self._buffer = torch.empty(shape, dtype=dtype, device=self.device or state.device)
        else:
            try:
                numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
            except TypeError as error:
                name = "ald_ext.samplers.SampleStorage: dtype"
                raise ValueError(f"{name}: got {dtype}, expected one that numpy has, as torch.float32") from error
            self._map(np.lib.format.open_memmap(self.path, "w+", numpy_dtype, shape))

    def _map(self, file: np.memmap[Any, Any]) -> None:
        self._file, self._buffer = file, torch.from_numpy(file)

    def _grow(self, capacity: int) -> None:
        assert self._buffer is not None
        got = f"{capacity} draws for a file with room for {len(self._buffer)}"
        require(self.path is None, "ald_ext.samplers.SampleStorage: capacity", got, "capacity= to be given")
        larger = self._buffer.new_empty((capacity, *self._buffer.shape[1:]))
        larger[: self.count] = self._buffer[: self.count]
        self._buffer = larger

    def flush(self) -> None:
        """Write a file's draws to the disk."""
        if self._file is not None:
            self._file.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return the draws, or only their number if a file keeps them."""
        self.flush()
        samples = None if self._buffer is None or self.path is not None else self.samples.clone()
        return {"count": self.count, "samples": samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the draws of :meth:`state_dict`; later draws in a file will be overwritten."""
        self.count = state["count"]
        if self.count == 0:
            return
        if self.path is not None:
            self._map(np.load(self.path, mmap_mode="r+"))
        else:
            self._allocate(max(self.capacity or 0, self.count), state["samples"][0])
            self.samples.copy_(state["samples"])


class Collector:
    """A run of a sampler, which leaves out ``burn_in`` steps, then gives every ``thinning``-th state to the sinks.

    Steps are counted over all calls of :meth:`run`, so run(5) twice equals run(10), also if another process continues
    from :meth:`state_dict`; bit for bit if the sampler's own state allows it.

    Args:
        sampler: see :class:`Sampler`.
        burn_in: number of steps before the first that can be kept.
        thinning: number of steps for each draw.
        into: one sink or several.
        progress: whether to show a progress bar.
        fastest_threads: whether to run on the CPU with the number of threads that is fastest at the moment, so that a
            network's last bits may differ from run to run: see Note [Number of threads] in ald_ext.threads. The
            sampler's state is copied, and loaded again after steps that are timed.

    Raises:
        ValueError: a bad number.
        ImportError: progress without tqdm.
        TypeError: ``fastest_threads`` for a sampler that cannot be resumed.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        into: Sink | Sequence[Sink],
        burn_in: int = 0,
        thinning: int = 1,
        progress: bool = False,
        fastest_threads: bool = False,
    ) -> None:
        require(burn_in >= 0, "ald_ext.samplers.Collector: burn_in", burn_in, "an integer >= 0")
        require(thinning >= 1, "ald_ext.samplers.Collector: thinning", thinning, "an integer > 0")
        adapting = getattr(sampler, "adaptation_steps_left", 0)
        if burn_in < adapting:
            warnings.warn(
                f"ald_ext.samplers.Collector: burn_in: {burn_in} steps, but the sampler adapts for {adapting} more, in "
                f"which its states are no samples: pass burn_in={adapting} or more",
                stacklevel=2,
            )
        self.sampler, self.burn_in, self.thinning, self.progress = sampler, burn_in, thinning, progress
        self.sinks: list[Sink] = [into] if isinstance(into, Sink) else list(into)
        self.num_steps = 0
        self.threads, self.fastest_threads = FastestThreads(), fastest_threads
        self._on_cpu = False  # until a state shows it
        if fastest_threads:
            self._check_resumable()

    def run(self, num_samples: int) -> None:
        """Draw ``num_samples`` more, after what is left of the burn-in."""
        require(num_samples >= 0, "ald_ext.samplers.Collector: num_samples", num_samples, "an integer >= 0")
        for sink in self.sinks:
            sink.reserve(num_samples)
        # A run ends right after a draw, or, if it was interrupted, somewhere between two.
        since_last_draw = max(self.num_steps - self.burn_in, 0) % self.thinning
        num_steps = max(self.burn_in - self.num_steps, 0) + num_samples * self.thinning - since_last_draw
        with self.threads.in_use():
            for _ in progress_bar(range(num_steps), show=self.progress, unit="step"):
                self._step()

    def _step(self) -> None:
        if self.fastest_threads and self._on_cpu and self.threads.due:
            sampler: Any = self.sampler
            kept = copy.deepcopy(sampler.state_dict())
            with torch.random.fork_rng(devices=[]):
                self.threads.choose(sampler.step, lambda: sampler.load_state_dict(copy.deepcopy(kept)))
        state = self.threads.step(self.sampler.step)
        self._on_cpu = state.device.type == "cpu"
        self.num_steps += 1
        after_burn_in = self.num_steps - self.burn_in
        if after_burn_in > 0 and after_burn_in % self.thinning == 0:
            for sink in self.sinks:
                sink.append(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of sampler, sinks and counters. TypeError if the sampler cannot be resumed."""
        self._check_resumable()
        return {
            "num_steps": self.num_steps,
            "threads": self.threads.number,
            "burn_in": self.burn_in,
            "thinning": self.thinning,
            "sampler": self.sampler.state_dict(),  # type: ignore[attr-defined]
            "sinks": [sink.state_dict() for sink in self.sinks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError for another burn-in, thinning or number of sinks."""
        self._check_resumable()
        saved = (state["burn_in"], state["thinning"], len(state["sinks"]))
        expected = (self.burn_in, self.thinning, len(self.sinks))
        got = f"(burn_in, thinning, number of sinks) = {saved}"
        require(saved == expected, "ald_ext.samplers.Collector: state", got, f"{expected}")
        self.num_steps, self.threads.number = state["num_steps"], state.get("threads")
        # A sampler may compute something anew from its state, whose last bits depend on the number, too.
        most = torch.get_num_threads()
        with number_of_threads(min(self.threads.number or most, most)):
            self.sampler.load_state_dict(state["sampler"])  # type: ignore[attr-defined]
        for sink, sink_state in zip(self.sinks, state["sinks"], strict=True):
            sink.load_state_dict(sink_state)

    def _check_resumable(self) -> None:
        if not (hasattr(self.sampler, "state_dict") and hasattr(self.sampler, "load_state_dict")):
            raise TypeError(
                f"ald_ext.samplers.Collector: sampler: got {type(self.sampler).__name__}, "
                "expected one with state_dict and load_state_dict, to be resumed"
            )


@overload
def collect(sampler: Sampler, num_samples: int, *, into: None = None, **options: Any) -> Tensor: ...
@overload
def collect(sampler: Sampler, num_samples: int, *, into: AnySink, **options: Any) -> AnySink: ...
def collect(
    sampler: Sampler, num_samples: int, *, into: Sink | Sequence[Sink] | None = None, **options: Any
) -> Tensor | Sink | Sequence[Sink]:
    """Draw from a sampler in one call; a :class:`Collector` is for runs that continue.

    Args:
        sampler: see :class:`Sampler`.
        num_samples: number of samples to keep.
        into: one sink or several; None keeps all draws.
        options: options of :class:`Collector`: burn_in, thinning, progress and fastest_threads.

    Returns:
        ``into``, or without it all draws, (num_samples, n, d) or (num_samples, n, chains, d), on the sampler's device.
    """
    storage = SampleStorage()
    Collector(sampler, into=storage if into is None else into, **options).run(num_samples)
    return storage.samples if into is None else into
