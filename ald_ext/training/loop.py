"""The training loop of every model."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from ..data.batches import Batches
from ..data.datasets import ImageData, load_dataset
from ..files import remove_leftovers, write_atomically, write_json
from ..models import LatentVariableModel, ModelConfig, ParameterEnsemble, find_model_class
from ..models.latent_variable_model import as_config_of
from ..models.saving import first_line, model_contents
from ..progress import progress_bar
from ..threads import FastestThreads, number_of_threads
from .checkpoints import load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .evaluation import averaged_reconstruction_error, evaluating, reconstruction_error, values_of_data
from .interruption import Interruption, TrainingInterrupted
from .optimizers import make_optimizer, make_scheduler
from .pictures import curves, grid, pair_up, save_picture
from .step import TrainingStep, why_not_captured
from .tensorboard import TensorBoardLog

CHECKPOINT, METRICS, CONFIG = "checkpoint.pt", "metrics.json", "config.json"
SAMPLES, RECONSTRUCTIONS, CURVES = "samples.png", "reconstructions.png", "curves.png"
FILES = (CHECKPOINT, METRICS, CONFIG, SAMPLES, RECONSTRUCTIONS, CURVES)
TENSORBOARD = "tensorboard"
PICTURE_IMAGES = 50
#: Images that initial values which depend on data are found with.
INITIAL_IMAGES = 500
#: The dataset of runs on data that were passed in and have no name.
GIVEN_DATA = "(given in Python)"

MakeModel = Callable[[ModelConfig], LatentVariableModel]

#: Whether to show a progress bar; or called instead with the number of images of every step.
Progress = bool | Callable[[int], object]


@dataclass
class Totals:
    """Sums over an epoch of the loss and of what else the model tells of it."""

    images: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, count: int, loss: Tensor, diagnostics: dict[str, Tensor]) -> None:
        """A minibatch's means."""
        self.images += count
        for name, value in {"loss": loss, **diagnostics}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
            self.sums[name].add_(value.detach(), alpha=count)

    def means(self) -> dict[str, float]:
        """Over the images since the epoch began."""
        return {name: value.item() / self.images for name, value in self.sums.items()}


@dataclass
class Run:
    """A training run between two steps."""

    config: TrainingConfig
    model: LatentVariableModel
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    data: ImageData
    batches: Batches
    training_step: TrainingStep
    eager_because: str | None
    ensemble: ParameterEnsemble | None
    epoch: int = 0
    batch: int = 0  # of the epoch: minibatches done
    step: int = 0
    seconds: float = 0.0
    totals: Totals = field(default_factory=Totals)
    history: list[dict[str, float]] = field(default_factory=list)
    #: Steps that were done when a number of threads came into use, and the number. See Note [Number of threads].
    threads_by_step: list[list[int]] = field(default_factory=list)
    #: Of training, at the end of each epoch. Not in the history, which is the same whenever a run is repeated.
    seconds_after_epoch: list[float] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what was measured so far."""
        return {
            **model_contents(self.model),
            **self.learned(),
            "config": self.config.to_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "num_data": len(self.data.train_images),
            "scheduler": self.scheduler.state_dict(),
            "totals": dataclasses.asdict(self.totals),
            "history": self.history,
            "ensemble": {"samples": []} if self.ensemble is None else self.ensemble.state_dict(),
            "seconds": self.seconds,
            "seconds_after_epoch": self.seconds_after_epoch,
            "threads_by_step": self.threads_by_step,
        }

    def learned(self) -> dict[str, Any]:
        """What a step changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random_state": random_state(self.config.device),
        }

    def restore_learned(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`learned`. RuntimeError for a model of other networks."""
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        set_random_state(state["random_state"], self.config.device)

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`. ValueError for the state of another run."""
        saved = TrainingConfig.from_dict(state["config"])
        self.config.check_resumes(saved)
        begun = state["epoch"] + (state["batch"] > 0)
        epochs = self.config.num_epochs
        if epochs < begun:
            raise ValueError(f"resume: epochs: got {epochs}, expected >= {begun}, those of the checkpoint")
        try:
            self.restore_learned(state)
        except RuntimeError as error:
            raise ValueError(f"resume: the checkpoint is of other networks ({first_line(error)})") from error
        self.scheduler.load_state_dict(state["scheduler"])
        if self.ensemble is not None:
            self.ensemble.load_state_dict(state["ensemble"])
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.totals, self.history = Totals(**state["totals"]), state["history"]
        self.seconds = state["seconds"]
        self.seconds_after_epoch = state.get("seconds_after_epoch", [])  # checkpoints of earlier versions have none
        self.threads_by_step = state.get("threads_by_step", [])


def start_run(config: TrainingConfig, data: ImageData | None = None, make_model: MakeModel | None = None) -> Run:
    """A run before its first step; seeds torch.

    Raises:
        ValueError: settings that do not fit each other or the data. OSError: data that cannot be read.
    """
    dataset = config.dataset
    if data is None:
        data = load_dataset(dataset, config.data_root, download=config.download)
    else:
        dataset = data.name or GIVEN_DATA
    if not len(data.test_images):
        raise ValueError("data: got no test images, expected one at least, to evaluate the model on")
    num_data = len(data.train_images)
    torch.manual_seed(config.seed)
    model_class = find_model_class(config.model)
    network = dataclasses.replace(config.network, shape=tuple(data.train_images.shape[1:]), num_data=num_data)
    network = as_config_of(model_class.config_class, network)
    config = dataclasses.replace(config, network=network, epochs=config.num_epochs, dataset=dataset)
    batches = Batches(data.train_images, config.batch_size, config.seed, config.device)
    model = (make_model or model_class)(network).to(config.device)
    with number_of_threads(1):  # so that these bits do not depend on it
        model.initialize(data.train_images[:INITIAL_IMAGES].to(config.device))
    eager_because = why_not_captured(model, config)
    optimizer = make_optimizer(model, config, num_data, capturable=eager_because is None)
    return Run(
        config=config,
        model=model,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config, config.num_epochs * batches.batches_per_epoch),
        data=data,
        batches=batches,
        training_step=TrainingStep(model, optimizer, config, captured=eager_because is None),
        eager_because=eager_because,
        ensemble=ParameterEnsemble(config.ensemble_size) if model.langevin and config.ensemble_size else None,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a state, but what depends on the device stays this optimizer's: a captured step has its lr there."""
    own = [{"lr": group["lr"], "capturable": group["capturable"]} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        lr = kept["lr"]
        kept["lr"] = lr.fill_(float(group["lr"])) if isinstance(lr, Tensor) else float(group["lr"])
        group.update(kept)


def random_state(device: str) -> dict[str, Tensor]:
    """torch's generators, which a VAE and uniform dequantization draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: str) -> None:
    """The inverse of :func:`random_state`."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


class Loop:
    """A run with its folder, progress bar and log.

    Args:
        run: to be carried on.
        out: its folder; None: nothing is written.
        progress: show a bar, or a function instead of it.
    """

    def __init__(self, run: Run, out: Path | None, progress: Progress = True) -> None:
        self.run, self.out = run, out
        self.show_progress = progress is True
        self.report_images = progress if callable(progress) else None
        self.threads = FastestThreads(run.config.threads)
        if run.threads_by_step and torch.device(run.config.device).type == "cpu":
            self.threads.number = run.threads_by_step[-1][1]
        # A checkpoint between two epochs is of after the scalars of its step, one inside an epoch of before.
        first_step = run.step + 1 if run.history and run.batch == 0 else run.step
        wanted = run.config.tensorboard and out is not None
        self.log = TensorBoardLog((out or Path()) / TENSORBOARD, first_step, wanted)

    def close(self) -> None:
        """Writes what is left of the log."""
        self.log.close()

    def train(self) -> None:
        """Trains up to the configured number of epochs.

        Raises:
            TrainingDivergedError: the loss stopped being finite, or exploded.
            TrainingInterrupted: by SIGINT or SIGTERM; the checkpoint is of the step at which it came.
            OSError: a checkpoint could not be written; the one before is as it was.
        """
        run = self.run
        images = len(run.data.train_images)
        done = run.epoch * images + run.totals.images
        total = run.config.num_epochs * images
        options = {"total": total, "initial": done, "desc": run.config.model, "unit": " images", "unit_scale": True}
        bar = progress_bar(show=self.show_progress, **options)
        if self.report_images is not None:
            self.report_images(done)
        with Interruption() as self.interruption, bar as self.bar:
            while run.epoch < run.config.num_epochs:
                self._train_epoch()
                self._finish_epoch()
            self._stop_if_asked()

    def _train_epoch(self) -> None:
        self._since = time.perf_counter()
        minibatches = self.run.batches.epoch(self.run.epoch, self.run.batch)
        with contextlib.closing(minibatches):  # which ends its thread, if it has one
            for x, index in minibatches:
                self._make_step(x, index)
                self._stop_if_asked()
        self._take_time()

    def _make_step(self, x: Tensor, index: Tensor) -> None:
        run, every = self.run, self.run.config.checkpoint_every
        self._choose_threads(x, index)
        loss = self.threads.step(lambda: run.training_step(run.step + 1, x, index))
        run.scheduler.step()
        run.step += 1
        run.batch += 1
        run.totals.add(len(x), loss, run.model.diagnostics)
        if run.ensemble is not None and run.step % run.config.ensemble_every == 0:
            run.ensemble.append(run.model)
        self.bar.update(len(x))
        if self.report_images is not None:
            self.report_images(len(x))
        if every is not None and run.step % every == 0:
            self._take_time()
            self._save()

    def _choose_threads(self, x: Tensor, index: Tensor) -> None:
        """Where it is time to; the checkpoint has the number with which the steps after it are made."""
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
            row["test_re"] = reconstruction_error(run.model, run.data.test_images)
            self.bar.set_postfix(epoch=run.epoch, loss=f"{row['loss']:.1f}", RE=f"{row['test_re']:.4f}")
        run.history.append(row)
        run.seconds_after_epoch.append(run.seconds)
        run.batch, run.totals = 0, Totals()
        self.log.scalars(run.step, row)
        if not last and run.config.pictures_every and run.epoch % run.config.pictures_every == 0:
            self.save_pictures()
        if last or run.config.checkpoint_every is None:
            self._save()

    def _stop_if_asked(self) -> None:
        number = self.interruption.signal_number
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
            save_checkpoint(self.out / CHECKPOINT, self.run.state())
        self._since = time.perf_counter()

    def save_pictures(self) -> None:
        """Reconstructions of the first test images, samples where the model has a prior, and the curves."""
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
            self.log.picture(run.step, Path(name).stem, table)
        write_atomically(folder / CURVES, lambda file: curves(run.history, run.config.model, file))


def train(
    config: TrainingConfig,
    out: str | Path,
    *,
    data: ImageData | None = None,
    make_model: MakeModel | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = True,
) -> dict[str, Any]:
    """Trains a model; leaves config.json, checkpoint.pt, metrics.json and pictures in ``out``.

    Args:
        config: settings.
        out: folder of the results.
        data: instead of those that ``config.dataset`` names.
        make_model: the model of a ModelConfig, for networks of your own; ``config.model`` names its class.
        resume: go on from the checkpoint in ``out``, bit for bit as if the run had never stopped, if the numbers of
            threads are the same (Note [Number of threads] in ald_ext.threads). The settings must be the checkpoint's
            but for epochs, device, and what does not change the result. (The schedule "cosine" ends with the last
            epoch, so with another number of epochs it is another schedule.)
        overwrite: begin again where ``out`` holds a checkpoint.
        progress: show a progress bar; or a function that is called with the number of images of every step, and first
            with that of those that were done before.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        FileExistsError: ``out`` holds a checkpoint, and neither ``resume`` nor ``overwrite`` is given.
        FileNotFoundError: no checkpoint to resume from, or no data.
        ValueError: settings that are bad or do not fit the data, or the checkpoint of another run.
        OSError: ``out`` cannot be written to, or the disk is full; an earlier checkpoint is as it was.
        TrainingDivergedError: the loss stopped being finite, or exploded.
        TrainingInterrupted: SIGINT or SIGTERM came; the checkpoint holds all that was done.
    """
    out = Path(out)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"out: {str(out)!r} holds a checkpoint already, expected a new folder, --resume to continue it or "
            "--overwrite to begin again"
        )
    state = load_checkpoint(checkpoint) if resume else None
    with torch.random.fork_rng(cuda_devices()):
        run = start_run(config, data, make_model)
        if state is not None:
            run.restore(state)
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            remove_leftovers(out / name)
        run.config.save(out / CONFIG)
        with contextlib.closing(Loop(run, out, progress)) as loop, loop.threads.in_use():
            loop.train()
            metrics = measure(run)
            write_json(out / METRICS, metrics)
            loop.save_pictures()
    return metrics


def fit(
    config: TrainingConfig,
    data: ImageData,
    *,
    make_model: MakeModel | None = None,
    progress: Progress = False,
) -> Run:
    """Trains a model in memory: nothing is written.

    Args:
        config, data, make_model, progress: as of :func:`train`; ``config.dataset`` is not looked at.

    Returns:
        The run, with ``model`` and ``ensemble``.

    Raises:
        ValueError, TrainingDivergedError, TrainingInterrupted: as :func:`train`.
    """
    with torch.random.fork_rng(cuda_devices()):
        run = start_run(config, data, make_model)
        loop = Loop(run, None, progress)
        with loop.threads.in_use():
            loop.train()
    return run


def cuda_devices() -> list[int]:
    """All GPUs, whose random states a run is to leave as they were."""
    return list(range(torch.cuda.device_count()))


def measure(run: Run) -> dict[str, Any]:
    """What metrics.json holds."""
    images, last = len(run.data.train_images), run.history[-1]
    if "test_re" not in last:  # a run of more epochs that is resumed to end here
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
        "images_per_second": run.epoch * images / run.seconds,
        "peak_memory_bytes": peak_memory(run.config.device),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "device": run.config.device,
        "captured": run.training_step.captured,
        "why_not_captured": run.eager_because,
        "threads": torch.get_num_threads(),
        "threads_by_step": run.threads_by_step,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "history": run.history,
        "seconds_after_epoch": run.seconds_after_epoch,
    }


def peak_memory(device: str) -> int:
    """Of the GPU, or else of the process, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
