"""Running a sampler and keeping its draws: all samples, in memory or on disk, or their moments only.

Note [Shapes of samples]
    A sampler's state is (n, d) or (n, chains, d): n data, d latent variables. Draws are stacked in front of it: (draws,
    n, d) or (draws, n, chains, d). Functions that need chains take the shape without that axis for one chain.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..progress import progress_bar
from ..settings import from_dict, require
from ..threads import FastestThreads, number_of_threads
from .datapoint import DatapointSampler
from .faults import DrawMonitor
from .npy_files import map_draws


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


def with_room(capacity: int, values: Tensor) -> Tensor:
    """Return a tensor of ``capacity`` rows, of which the first are ``values``."""
    larger = values.new_empty((capacity, *values.shape[1:]))
    larger[: len(values)] = values
    return larger


def check_state_shape(name: str, state: Tensor, expected: Sequence[int] | None) -> None:
    """Raise a ValueError unless a draw is (n, d) or (n, chains, d), and shaped as those before it."""
    argument, got = f"ald_ext.samplers.{name}: state", f"shape {tuple(state.shape)}"
    if expected is not None:
        require(state.shape == tuple(expected), argument, got, f"{tuple(expected)}")
    require(state.ndim in (2, 3), argument, got, "(n, d) or (n, chains, d)")


@dataclass
class StorageState:
    """What :meth:`SampleStorage.state_dict` returns; earlier versions did not save shape, dtype and diverging."""

    count: int
    samples: Tensor | None = None
    diverging: Tensor | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


@dataclass
class CollectorState:
    """What :meth:`Collector.state_dict` returns; earlier versions did not save threads and monitor."""

    num_steps: int
    burn_in: int
    thinning: int
    sampler: Any
    sinks: list[Any]
    threads: int | None = None
    monitor: dict[str, Any] | None = None


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
        self._diverging: Tensor | None = None
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

    @property
    def diverging(self) -> Tensor | None:
        """Whether a step has diverged since the draw before, (count, n) or (count, n, chains) bool; None if unknown.

        A :class:`Collector` knows it of samplers that have ``divergences``.
        """
        return None if self._diverging is None else self._diverging[: self.count]

    def reserve(self, num_draws: int) -> None:
        """Make room for so many more draws: at once, or with the first draw, which tells their shape."""
        self._announced = self.count + num_draws
        if self._buffer is not None and self._announced > len(self._buffer):
            self._grow(self._announced)

    def append(self, state: Tensor, diverging: Tensor | None = None) -> None:
        """Store one draw, (n, d) or (n, chains, d), and whether it comes after a divergence, (n) or (n, chains)."""
        check_state_shape("SampleStorage", state, None if self._buffer is None else self._buffer.shape[1:])
        if self._buffer is None:
            self._allocate(self.capacity or max(self._announced, 1), state)
        elif self.count == len(self._buffer):
            self._grow(2 * self.count)
        assert self._buffer is not None
        if self.count == 0 and diverging is not None:
            shape = (len(self._buffer), *diverging.shape)
            self._diverging = torch.zeros(shape, dtype=torch.bool, device=self._buffer.device)
        if diverging is None:
            self._diverging = None
        elif self._diverging is not None:
            self._diverging[self.count] = diverging
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
            self._file = np.lib.format.open_memmap(self.path, "w+", numpy_dtype, shape)
            self._buffer = torch.from_numpy(self._file)

    def _grow(self, capacity: int) -> None:
        assert self._buffer is not None
        got = f"{capacity} draws for a file with room for {len(self._buffer)}"
        require(self.path is None, "ald_ext.samplers.SampleStorage: capacity", got, "capacity= to be given")
        self._buffer = with_room(capacity, self.samples)
        if (diverging := self.diverging) is not None:
            self._diverging = with_room(capacity, diverging)

    def flush(self) -> None:
        """Write a file's draws to the disk."""
        if self._file is not None:
            self._file.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return the draws, or only their number, shape and dtype if a file keeps them."""
        self.flush()
        state = StorageState(self.count, diverging=None if self.diverging is None else self.diverging.clone())
        if self._file is not None:
            state.shape, state.dtype = self._file.shape, self._file.dtype.str
        elif self._buffer is not None:
            state.samples = self.samples.clone()
        return vars(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the draws of :meth:`state_dict`; later draws in a file will be overwritten.

        Raises:
            ValueError: no such state, or a file that is not its own or is damaged. Nothing has changed then.
            OSError: the file cannot be read.
        """
        argument = "ald_ext.samplers.SampleStorage: state"
        saved = from_dict(StorageState, state, argument)
        count, draws, diverging, file = saved.count, saved.samples, saved.diverging, None
        if self.path is not None and count > 0:
            require(draws is None, argument, "draws", "only their number, as path= names a file of them")
            file = map_draws(self.path, "ald_ext.samplers.SampleStorage: path", "r+", "such a storage")
            shape, dtype = saved.shape or file.shape, saved.dtype or file.dtype.str
            fits, found = (file.shape, file.dtype.str) == (shape, dtype), f"{file.shape}, {file.dtype.str!r}"
            require(fits, f"{argument}: shape, dtype", f"{shape}, {dtype!r}", f"{found}, as of {self.path.name}")
            draws = torch.from_numpy(file)
        if draws is not None:
            dense = draws.layout == torch.strided and not draws.is_meta
            fits = draws.ndim in (3, 4) and dense and draws.dtype == (self.dtype or draws.dtype)
            got = f"draws of shape {tuple(draws.shape)}, {draws.dtype}, {draws.device}"
            require(fits, argument, got, f"(draws, n, d) or (draws, n, chains, d), {self.dtype or 'of any dtype'}")
            fits = 0 < count <= len(draws) if self.path else count == len(draws)
            require(fits, f"{argument}: count", f"{count} of {len(draws)} draws", "as many as there are")
            if diverging is not None:
                kind, expected = (diverging.shape, diverging.dtype), ((count, *draws.shape[1:-1]), torch.bool)
                require(
                    kind == expected and not diverging.is_meta,
                    f"{argument}: diverging",
                    f"{tuple(kind[0])}, {kind[1]}",
                    f"{expected}",
                )
            if self.path is None:
                draws = with_room(max(self.capacity or 0, count), draws.detach().to(self.device or draws.device))
            self._diverging = None if diverging is None else with_room(len(draws), diverging.to(draws.device))
            self._file, self._buffer = file, draws
        else:
            require(count == 0, argument, "no draws", "draws, or path= of the file that keeps them")
        self.count = count


class Collector:
    """A run of a sampler, which leaves out ``burn_in`` steps, then gives every ``thinning``-th state to the sinks.

    Steps are counted over all calls of :meth:`run`, so run(5) twice equals run(10), also if another process continues
    from :meth:`state_dict`; bit for bit if the sampler's own state allows it.

    At its end, a run tells by a UserWarning how many draws are not finite, and where, or else how many transitions
    diverged after the burn-in, by a sampler's ``divergences``: the number so far in each chain, (n, [chains]) int64.

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
        self.sampler, self.burn_in, self.thinning, self.progress = sampler, burn_in, thinning, progress
        self.sinks: list[Sink] = [into] if isinstance(into, Sink) else list(into)
        self.num_steps = 0
        self.monitor = DrawMonitor(sampler)
        self.threads, self.fastest_threads = FastestThreads(), fastest_threads
        self._on_cpu = False  # until a state shows it
        if fastest_threads:
            self._check_resumable()

    def run(self, num_samples: int) -> None:
        """Draw ``num_samples`` more, after what is left of the burn-in."""
        self._run(num_samples)
        self.monitor.tell("Collector", stacklevel=3)

    def _run(self, num_samples: int) -> None:
        require(num_samples >= 0, "ald_ext.samplers.Collector: num_samples", num_samples, "an integer >= 0")
        adapting, left = getattr(self.sampler, "adaptation_steps_left", 0), max(self.burn_in - self.num_steps, 0)
        if left < adapting and num_samples > 0:
            warnings.warn(
                f"ald_ext.samplers.Collector: burn_in: {left} steps are left, but the sampler adapts for {adapting} "
                f"more, in which its states are no samples: pass burn_in={self.burn_in + adapting - left} or more",
                stacklevel=3,  # the line that calls run or collect
            )
        for sink in self.sinks:
            sink.reserve(num_samples)
        # A run ends right after a draw, or, if it was interrupted, somewhere between two.
        since_last_draw = max(self.num_steps - self.burn_in, 0) % self.thinning
        num_steps = max(self.burn_in - self.num_steps, 0) + num_samples * self.thinning - since_last_draw
        step = self.sampler.step
        # A subclass may have an attribute ``steps`` of its own, such as a count.
        if isinstance(self.sampler, DatapointSampler) and callable(self.sampler.steps) and not self.fastest_threads:
            step = self.sampler.steps(num_steps).__next__
        with self.threads.in_use():
            for _ in progress_bar(range(num_steps), show=self.progress, unit="step"):
                self._step(step)

    def _step(self, step: Callable[[], Tensor]) -> None:
        if self.num_steps >= self.burn_in:
            self.monitor.start()
        if self.fastest_threads and self._on_cpu and self.threads.due:
            sampler: Any = self.sampler
            kept = copy.deepcopy(sampler.state_dict())
            with torch.random.fork_rng(devices=[]):
                self.threads.choose(sampler.step, lambda: sampler.load_state_dict(copy.deepcopy(kept)))
        state = self.threads.step(step)
        self._on_cpu = state.device.type == "cpu"
        self.num_steps += 1
        after_burn_in = self.num_steps - self.burn_in
        if after_burn_in > 0 and after_burn_in % self.thinning == 0:
            diverging = self.monitor.take(state)
            for sink in self.sinks:
                sink.append(state, diverging) if isinstance(sink, SampleStorage) else sink.append(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of sampler, sinks and counters. TypeError if the sampler cannot be resumed."""
        self._check_resumable()
        return {
            "num_steps": self.num_steps,
            "threads": self.threads.number,
            "burn_in": self.burn_in,
            "thinning": self.thinning,
            "monitor": self.monitor.state_dict(),
            "sampler": self.sampler.state_dict(),  # type: ignore[attr-defined]
            "sinks": [sink.state_dict() for sink in self.sinks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError for another burn-in, thinning or number of sinks."""
        self._check_resumable()
        argument = "ald_ext.samplers.Collector: state"
        saved = from_dict(CollectorState, state, argument)
        options = (saved.burn_in, saved.thinning, len(saved.sinks))
        expected = (self.burn_in, self.thinning, len(self.sinks))
        got = f"(burn_in, thinning, number of sinks) = {options}"
        require(options == expected, argument, got, f"{expected}")
        # A sampler may compute something anew from its state, whose last bits depend on the number, too.
        most = torch.get_num_threads()
        with number_of_threads(min(saved.threads or most, most)):
            self.sampler.load_state_dict(saved.sampler)  # type: ignore[attr-defined]
        for sink, sink_state in zip(self.sinks, saved.sinks, strict=True):
            sink.load_state_dict(sink_state)
        if saved.monitor is not None:
            self.monitor.load_state_dict(saved.monitor)
        self.num_steps, self.threads.number = saved.num_steps, saved.threads

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
    collector = Collector(sampler, into=storage if into is None else into, **options)
    collector._run(num_samples)
    collector.monitor.tell("Collector", stacklevel=3)
    return storage.samples if into is None else into
