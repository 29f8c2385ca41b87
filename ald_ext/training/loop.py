"""The training loop of every model."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..files import write_atomically
from ..models import MODELS, Autoencoder
from ..optim import PSGLD
from .checkpoints import load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .data import ImageData, load_dataset
from .pictures import pair_up, save_grid

CHECKPOINT, METRICS, CONFIG = "checkpoint.pt", "metrics.json", "config.json"
SAMPLES, RECONSTRUCTIONS = "samples.png", "reconstructions.png"
EVALUATION_BATCH = 500
PICTURE_IMAGES = 50


class TrainingDivergedError(RuntimeError):
    """The loss is not a number any more; the last checkpoint is that of the epoch before."""


@dataclass
class Run:
    """A training run between two epochs."""

    config: TrainingConfig
    model: Autoencoder
    optimizer: torch.optim.Optimizer
    data: ImageData
    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def make_optimizer(model: Autoencoder, config: TrainingConfig, num_data: int) -> torch.optim.Optimizer:
    """PSGLD for a model whose parameters are sampled, Adam for the others."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not model.langevin:
        return torch.optim.Adam(parameters, config.lr)
    return PSGLD(
        parameters,
        config.lr,
        num_data=num_data,
        temperature=config.temperature,
        alpha=config.alpha,
        eps=config.eps,
        seed=config.seed,
    )


def start_run(config: TrainingConfig) -> Run:
    """A run before its first epoch; seeds torch."""
    data = load_dataset(config.dataset, config.data_root)
    torch.manual_seed(config.seed)
    network = dataclasses.replace(config.network, channels=data.channels)
    config = dataclasses.replace(config, network=network)
    model = MODELS[config.model](network).to(config.device)
    return Run(config, model, make_optimizer(model, config, len(data.train_images)), data)


def resume_run(path: Path, epochs: int, device: str) -> Run:
    """The run of a checkpoint, to be continued up to ``epochs``; it ends bit for bit like an uninterrupted one."""
    checkpoint = load_checkpoint(path, "cpu")
    config = TrainingConfig.from_dict(checkpoint["config"])
    run = start_run(dataclasses.replace(config, epochs=epochs, device=device))
    run.model.load_state_dict(checkpoint["model"])
    run.optimizer.load_state_dict(checkpoint["optimizer"])
    run.epoch, run.seconds, run.history = checkpoint["epoch"], checkpoint["seconds"], checkpoint["history"]
    set_random_state(checkpoint["random_state"])
    return run


def random_state() -> dict[str, Tensor]:
    """torch's generators, which a VAE and uniform dequantization draw from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """The inverse of :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def batches(count: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The minibatches of an epoch, a function of seed and epoch alone. A last batch that is short is kept."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).split(batch_size)


def reconstruction_error(model: Autoencoder, images: Tensor) -> float:
    """Mean squared error on pixels in [0, 1] (RE of the paper's Table 2)."""
    total = 0.0
    with torch.no_grad():
        for batch in images.split(EVALUATION_BATCH):
            total += (model.reconstruct(batch) - batch / 255).square().sum(dtype=torch.float64).item()
    return total / images.numel()


def train_epoch(run: Run, images: Tensor, progress: tqdm[Any]) -> float:
    """One pass over the training images; the mean loss.

    Raises:
        TrainingDivergedError: a loss that is not finite.
    """
    total = 0.0
    for indices in batches(len(images), run.config.batch_size, run.config.seed, run.epoch):
        batch = images[indices.to(images.device)]
        run.optimizer.zero_grad()
        loss = run.model.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"epoch {run.epoch + 1}: the loss is {value}. Try a smaller lr (now {run.config.lr}) or a larger eps "
                f"(now {run.config.eps})."
            )
        loss.backward()
        run.optimizer.step()
        total += value * len(batch)
        progress.update(len(batch))
    return total / len(images)


def train(config: TrainingConfig, out: Path, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Trains a model; leaves config.json, checkpoint.pt, metrics.json, samples.png, reconstructions.png in ``out``.

    A checkpoint is written after every epoch; with ``resume`` the run goes on from it, bit for bit as if it had never
    stopped: epochs and device are those of ``config``, the rest comes from the checkpoint.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        FileExistsError: ``out`` holds a checkpoint, and neither ``resume`` nor ``overwrite`` is given.
        FileNotFoundError: no checkpoint to resume from, or no data.
        TrainingDivergedError: the loss stopped being finite.
    """
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"out: {str(out)!r} holds a checkpoint already, expected a new folder, --resume to continue it or "
            "--overwrite to begin again"
        )
    cuda_devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cuda_devices):
        run = resume_run(checkpoint, config.epochs, config.device) if resume else start_run(config)
        out.mkdir(parents=True, exist_ok=True)
        run.config.save(out / CONFIG)
        run_epochs(run, checkpoint)
    metrics = measure(run)
    write_atomically(out / METRICS, lambda file: file.write_text(json.dumps(metrics, indent=2) + "\n"))
    save_pictures(run, out)
    return metrics


def run_epochs(run: Run, checkpoint: Path) -> None:
    """Trains up to the configured number of epochs, with a progress bar and a checkpoint after each."""
    device = run.config.device
    train_images, test_images = run.data.train_images.to(device), run.data.test_images.to(device)
    total, done = run.config.epochs * len(train_images), run.epoch * len(train_images)
    options = {"unit": " images", "unit_scale": True, "desc": run.config.model}
    with tqdm(total=total, initial=done, mininterval=progress_interval(), **options) as progress:
        while run.epoch < run.config.epochs:
            begin = time.perf_counter()
            loss = train_epoch(run, train_images, progress)
            run.seconds += time.perf_counter() - begin
            run.epoch += 1
            test_re = reconstruction_error(run.model, test_images)
            run.history.append({"epoch": run.epoch, "loss": loss, "test_re": test_re})
            progress.set_postfix(epoch=run.epoch, loss=f"{loss:.1f}", RE=f"{test_re:.4f}")
            save_checkpoint(checkpoint, checkpoint_of(run))


def progress_interval() -> float:
    """Seconds between two updates of the progress bar: a terminal overwrites them, a log file keeps them all."""
    return 0.1 if sys.stderr.isatty() else 10.0


def checkpoint_of(run: Run) -> dict[str, Any]:
    """Everything that the next epoch depends on, and what was measured so far."""
    return {
        "config": run.config.to_dict(),
        "epoch": run.epoch,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random_state": random_state(),
        "history": run.history,
        "seconds": run.seconds,
    }


def measure(run: Run) -> dict[str, Any]:
    """What metrics.json holds."""
    images = len(run.data.train_images)
    return {
        "model": run.config.model,
        "dataset": run.config.dataset,
        "test_re": run.history[-1]["test_re"],
        "train_loss": run.history[-1]["loss"],
        "epochs": run.epoch,
        "train_images": images,
        "test_images": len(run.data.test_images),
        "seconds": run.seconds,
        "images_per_second": run.epoch * images / run.seconds,
        "device": run.config.device,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "history": run.history,
    }


def save_pictures(run: Run, out: Path) -> None:
    """Reconstructions of the first test images, and samples where the model has a prior."""
    images = run.data.test_images[:PICTURE_IMAGES].to(run.config.device)
    with torch.no_grad():
        save_grid(out / RECONSTRUCTIONS, pair_up(images / 255, run.model.reconstruct(images)))
        generator = torch.Generator(run.config.device).manual_seed(run.config.seed)
        samples = run.model.sample(PICTURE_IMAGES, generator)
    if samples is not None:
        save_grid(out / SAMPLES, samples)
