"""The training loop of every model."""

from __future__ import annotations

import contextlib
import copy
import itertools
import platform
import resource
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageData
from ..files import FolderLock, remove_leftovers, write_atomically, write_json
from ..models.saving import write_tensors
from ..progress import progress_bar
from ..settings import require
from ..threads import FastestThreads
from .checkpoints import load_checkpoint
from .config import TrainingConfig
from .divergence import TrainingDivergedError
from .evaluation import (
    averaged_reconstruction_error,
    evaluating,
    random_state_kept,
    reconstruction_error,
    values_of_data,
)
from .interruption import TrainingInterrupted
from .pictures import curves, grid, pair_up, save_picture
from .ranks import Ranks
from .run import MakeModel, Run, Totals, start_run

CHECKPOINT, METRICS, CONFIG = "checkpoint.pt", "metrics.json", "config.json"
SAMPLES, RECONSTRUCTIONS, CURVES = "samples.png", "reconstructions.png", "curves.png"
FILES = (CHECKPOINT, METRICS, CONFIG, SAMPLES, RECONSTRUCTIONS, CURVES)
TENSORBOARD = "tensorboard"
PICTURE_IMAGES = 50

#: Whether to show a progress bar; or a function to call instead with the number of images of every step.
Progress = bool | Callable[[int], object]


class Loop:
    """A run with its folder, progress bar and log.

    Args:
        run: the run to continue.
        out: its folder; None writes nothing.
        progress: whether to show a bar, or a function to call instead.
    """

    def __init__(self, run: Run, out: Path | None, progress: Progress = True) -> None:
        self.run, self.out = run, out
        writes = run.ranks.rank == 0
        self.show_progress = progress is True and writes
        self.report_images = progress if callable(progress) and writes else None
        self.threads = FastestThreads(run.ranks.threads(run.config.threads))
        if run.threads_by_step and torch.device(run.config.device).type == "cpu":
            self.threads.number = run.threads_by_step[-1][1]
        # A checkpoint between two epochs is written after the scalars of its step, one inside an epoch before them.
        first_step = run.step + 1 if run.history and run.batch == 0 else run.step
        wanted = run.config.tensorboard and writes
        self.log = open_log(out / TENSORBOARD, first_step) if wanted and out is not None else None

    def close(self) -> None:
        """Write what is left of the log."""
        if self.log is not None:
            self.log.close()

    def train(self) -> None:
        """Train up to the configured number of epochs.

        Raises:
            TrainingDivergedError: the loss stopped being finite, or exploded.
            TrainingInterrupted: SIGINT or SIGTERM came; the checkpoint is of the step at which it came.
            OSError: a checkpoint could not be written; the one before is as it was.
        """
        run = self.run
        total = run.config.length(len(run.data.train_images))[2]
        done = min(total, run.epoch * len(run.data.train_images) + run.totals.images)  # the last epoch may not be whole
        options = {"total": total, "initial": done, "desc": run.config.model, "unit": " images", "unit_scale": True}
        bar = progress_bar(show=self.show_progress, **options)
        if self.report_images is not None:
            self.report_images(done)
        run.ranks.broadcast(run.model)
        with run.ranks.interruption, bar as self.bar:
            while run.epoch < run.config.num_epochs:
                self._train_epoch()
                self._finish_epoch()
            self._stop_if_asked()

    def _train_epoch(self) -> None:
        self._since = time.perf_counter()
        run = self.run
        left = run.config.length(len(run.data.train_images))[1] - run.step
        minibatches = run.batches.epoch(run.epoch, run.batch)
        with contextlib.closing(minibatches):  # ends its thread, if it has one
            for x, index in itertools.islice(minibatches, left):
                self._make_step(x, index)
                self._stop_if_asked()
        self._take_time()

    def _make_step(self, x: Tensor, index: Tensor) -> None:
        run, every = self.run, self.run.config.checkpoint_every
        self._choose_threads(x, index)
        count, share = run.batches.size(run.batch), run.batches.share(run.batch)
        loss = self.threads.step(lambda: run.training_step(run.step + 1, x, index, share))
        run.scheduler.step()
        run.step += 1
        run.batch += 1
        run.totals.add(count, loss, run.model.diagnostics)
        if run.ensemble is not None and run.step % run.config.ensemble_every == 0:
            run.ensemble.append(run.model)
        self.bar.update(count)
        if self.report_images is not None:
            self.report_images(count)
        if every is not None and run.step % every == 0:
            self._take_time()
            self._save()

    def _choose_threads(self, x: Tensor, index: Tensor) -> None:
        """Choose their number when that is due, and save a checkpoint with the number of the steps after it."""
        run = self.run
        if self.threads.due and torch.device(run.config.device).type == "cpu":
            kept = copy.deepcopy(run.learned())
            self.threads.choose(
                lambda: run.training_step(run.step + 1, x, index),
                lambda: run.restore_learned(copy.deepcopy(kept)),
                first=not run.threads_by_step,
            )
        number = torch.get_num_threads()
        if not run.threads_by_step or run.threads_by_step[-1][1] != number:
            run.threads_by_step.append([run.step, number])
            if run.step:
                self._take_time()
                self._save()

    def _finish_epoch(self) -> None:
        run = self.run
        run.training_step.watch.check(run.step, run.model, run.optimizer)
        run.epoch += 1
        last = run.epoch == run.config.num_epochs
        row = {"epoch": run.epoch, "step": run.step, "lr": float(run.optimizer.param_groups[0]["lr"])}
        row |= run.totals.means()
        if last or run.epoch % run.config.evaluate_every == 0:
            row["test_re"] = run.ranks.once(lambda: reconstruction_error(run.model, run.data.test_images))
            self.bar.set_postfix(epoch=run.epoch, loss=f"{row['loss']:.1f}", RE=f"{row['test_re']:.4f}")
        run.history.append(row)
        run.seconds_after_epoch.append(run.seconds)
        run.batch, run.totals = 0, Totals()
        if self.log is not None:
            for name, value in row.items():
                self.log.add_scalar(name, value, run.step)
        if not last and run.config.pictures_every and run.epoch % run.config.pictures_every == 0:
            run.ranks.once(self.save_pictures)
        if last or run.config.checkpoint_every is None:
            self._save()

    def _stop_if_asked(self) -> None:
        number = self.run.ranks.agreed_signal(self.run.step)
        if number is None:
            return
        stopped = f"stopped by signal {number} at step {self.run.step}"
        if self.out is not None:
            self._take_time()
            self._save()
            stopped += "; the checkpoint holds all of it, --resume goes on"
        raise TrainingInterrupted(stopped, number)

    def _take_time(self) -> None:
        if self.run.config.device.startswith("cuda"):
            torch.cuda.synchronize(self.run.config.device)
        now = time.perf_counter()
        self.run.seconds += now - self._since
        self._since = now

    def _save(self) -> None:
        self.run.training_step.watch.check(self.run.step, self.run.model, self.run.optimizer)
        if self.out is not None:
            path = self.out / CHECKPOINT
            self.run.ranks.once(lambda: write_tensors(path, self.run.state()))
        self._since = time.perf_counter()

    def finish(self) -> dict[str, Any]:
        """Write metrics and pictures of the finished run, and return the metrics."""
        assert self.out is not None
        metrics = measure(self.run)
        write_json(self.out / METRICS, metrics)
        self.save_pictures()
        return metrics

    def save_pictures(self) -> None:
        """Save reconstructions of the first test images, samples if the model has a prior, and the curves."""
        if self.out is None:
            return
        run, folder = self.run, self.out
        images = run.data.test_images[:PICTURE_IMAGES]
        reconstructions = values_of_data(run.model, images, run.model.reconstruct)
        pictures = {RECONSTRUCTIONS: pair_up(run.model.to_brightness(images), reconstructions)}
        if run.model.has_prior:
            generator = torch.Generator(run.config.device).manual_seed(run.config.seed)
            with evaluating(run.model):
                pictures[SAMPLES] = run.model.sample(PICTURE_IMAGES, generator)
        for name, shown in pictures.items():
            table = grid(shown)
            save_picture(folder / name, table)
            if self.log is not None:
                self.log.add_image(Path(name).stem, table, run.step, dataformats="HWC")
        write_atomically(folder / CURVES, lambda file: curves(run.history, run.config.model, file))


def prepare(out: Path, config: TrainingConfig, lock: FolderLock) -> None:
    """Make a run's folder with its config.json, and remove what a killed run left. BlockingIOError if one is alive."""
    out.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    for name in FILES:
        remove_leftovers(out / name)
    config.save(out / CONFIG)


def open_log(folder: Path, first_step: int) -> Any:
    """Return a log for TensorBoard without an earlier run's events from ``first_step`` on. ImportError without one."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"tensorboard: {error}. Install it: pip install tensorboard") from error
    return SummaryWriter(str(folder), purge_step=first_step)  # type: ignore[no-untyped-call]


def train(
    config: TrainingConfig,
    out: str | Path,
    *,
    data: ImageData | None = None,
    make_model: MakeModel | None = None,
    resume: bool = False,
    changed: Collection[str] = (),
    overwrite: bool = False,
    progress: Progress = True,
) -> dict[str, Any]:
    """Train a model, and leave config.json, checkpoint.pt, metrics.json and pictures in ``out``.

    Where torch.distributed has a process group, all its processes call this with the same arguments but for the device:
    they train one model together, dividing each minibatch, and only the first of them writes and shows progress.

    Args:
        config: the settings.
        out: folder of the results.
        data: images to use instead of the data set ``config.dataset``.
        make_model: function that makes the model of a ModelConfig, for networks of your own; ``config.model`` names its
            class.
        resume: continue from the checkpoint in ``out``, bit for bit as if the run had never stopped, if the numbers of
            threads are the same (Note [Number of threads] in ald_ext.threads). The training images must be the
            checkpoint's, and so must the settings except for epochs, device, and what does not change the result. The
            schedule "cosine" ends with the last epoch, so another number of epochs stretches it from here on, unless
            ``schedule_epochs`` keeps its length.
        changed: names of further settings that may differ from the checkpoint's, such as "lr" after a divergence or
            "seed". The run is then another one from here on; metrics.json keeps each change with its step.
        overwrite: begin again where ``out`` holds a checkpoint.
        progress: whether to show a progress bar; or a function that is called with the number of images of every step,
            and first with the number of those that were done before.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        FileExistsError: ``out`` holds a checkpoint, and neither ``resume`` nor ``overwrite`` is given.
        BlockingIOError: another process is training in ``out``.
        FileNotFoundError: no checkpoint to resume from, or no data.
        ValueError: settings that are bad or do not fit the data, or the checkpoint of another run.
        OSError: ``out`` cannot be written to, or the disk is full; an earlier checkpoint is as it was.
        ConnectionError: another process of the group failed, or is gone.
        TrainingDivergedError: the loss stopped being finite, or exploded; an earlier checkpoint is as it was.
        TrainingInterrupted: SIGINT or SIGTERM came; the checkpoint holds all that was done.
    """
    require(str(out), "out", "''", "a folder")
    out = Path(out)
    require(out.is_dir() or not out.exists(), "out", f"{str(out)!r}, which is a file", "a folder")
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"out: {str(out)!r} holds a checkpoint already, expected a new folder, --resume to continue it or "
            "--overwrite to begin again"
        )
    if unread := config.in_vain(own_networks=make_model is not None):
        warnings.warn(unread, stacklevel=2)
    with random_state_kept(), contextlib.closing(FolderLock(out)) as lock:
        Ranks().once(lock.acquire)
        state = load_checkpoint(checkpoint) if resume else None
        run = start_run(config, data, make_model, state, changed)
        run.ranks.once(lambda: prepare(out, run.config, lock))
        if state is not None and (told := run.news(state)):
            warnings.warn(told, stacklevel=2)
            run.ranks.once(
                lambda: write_tensors(checkpoint, run.state())
            )  # so that the next --resume keeps the changes
        with contextlib.closing(Loop(run, out, progress)) as loop, loop.threads.in_use():
            try:
                loop.train()
            except TrainingDivergedError as error:
                if not checkpoint.exists():
                    raise
                way_on = f"`ald-ext train --out {out} --resume --lr {config.lr / 4:g}`"
                in_python = 'train(…, resume=True, changed={"lr"})'
                raise TrainingDivergedError(
                    f"{error} {way_on}, or {in_python}, goes on from the checkpoint."
                ) from error
            return run.ranks.once(loop.finish)


def fit(
    config: TrainingConfig, data: ImageData, *, make_model: MakeModel | None = None, progress: Progress = False
) -> Run:
    """Train a model in memory, and write nothing; with several processes as :func:`train`.

    Args:
        config: the settings; ``dataset`` is not used.
        data: training and test images.
        make_model: see :func:`train`.
        progress: see :func:`train`.

    Returns:
        The run, with ``model`` and ``ensemble``.

    Raises:
        ValueError: settings that are bad or do not fit the data.
        TrainingDivergedError: the loss stopped being finite, or exploded.
        TrainingInterrupted: SIGINT or SIGTERM came.
        ConnectionError: another process of the group failed, or is gone.
    """
    if unread := config.in_vain(own_networks=make_model is not None):
        warnings.warn(unread, stacklevel=2)
    with random_state_kept():
        run = start_run(config, data, make_model)
        loop = Loop(run, None, progress)
        with loop.threads.in_use():
            loop.train()
    return run


def measure(run: Run) -> dict[str, Any]:
    """Return what metrics.json holds."""
    images, last = len(run.data.train_images), run.history[-1]
    passed = run.config.length(images)[2]
    if "test_re" not in last:  # a run of more epochs was resumed to end here
        last["test_re"] = reconstruction_error(run.model, run.data.test_images)
    return {
        "model": run.config.model,
        "dataset": run.config.dataset,
        "test_re": last["test_re"],
        "test_re_ensemble": averaged_reconstruction_error(run.model, run.ensemble, run.data.test_images),
        "train_loss": last["loss"],
        "epochs": run.epoch,
        "steps": run.step,
        "train_images": images,
        "test_images": len(run.data.test_images),
        "seconds": run.seconds,
        "images_per_second": passed / run.seconds,
        "peak_memory_bytes": peak_memory(run.config.device),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "device": run.config.device,
        "processes": run.ranks.count,
        "captured": run.training_step.captured,
        "why_not_captured": run.eager_because,
        "compiled": run.training_step.compiled,
        "threads": torch.get_num_threads(),
        "threads_by_step": run.threads_by_step,
        "changes": run.changes,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "history": run.history,
        "seconds_after_epoch": run.seconds_after_epoch,
    }


def peak_memory(device: str) -> int:
    """Return the peak memory of the GPU, or else of the process, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
