"""What an experiment on images is: jobs, what is measured of each, and where things are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data import ImageData
from ...metrics import FeatureExtractor, GaussianStatistics, cached_statistics, make_extractor
from ...models import MODELS, ParameterEnsemble
from ...models.config import config_from_dict
from ...training import TrainingConfig
from ...training.pictures import save_grid
from ..pictures import Figure
from ..results import Difference, Job, Picture
from .settings import (
    FEWER_TRAINED_IMAGES,
    KIND_SETTINGS,
    MODEL_SETTINGS,
    MOST_EPOCHS,
    TRAINED_IMAGES,
    ImageSettings,
    kind_of,
    with_options,
)


@dataclass(frozen=True)
class JobOutcome:
    """What a job gave, as plain values: it is kept as JSON.

    Attributes:
        values: numbers for rows, by metric.
        pictures: those that were written.
        curves: lists of numbers, for the experiment's picture.
        run: facts of the training: epochs, seconds, images.
    """

    values: dict[str, float]
    pictures: tuple[Picture, ...] = ()
    curves: dict[str, list[float]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        job, data: the job and its data.
        model, ensemble: the trained model on the run's device, and samples of its parameters or None.
        metrics: what the run's metrics.json holds.
        settings: the experiment's settings.
        out: the experiment's folder, for pictures.
        runs: the folder of training runs, outcomes of jobs and statistics of real images, which experiments may share.
    """

    job: Job
    data: ImageData
    model: Any
    ensemble: ParameterEnsemble | None
    metrics: dict[str, Any]
    settings: ImageSettings
    out: Path
    runs: Path

    def save_picture(self, images: Sequence[Tensor], columns: int, caption: str) -> Picture:
        """Save images in rows as the picture of the job."""
        file = f"{self.job.name}.png"
        save_grid(self.out / file, torch.cat([*images]), columns)
        return Picture(file, f"{self.job.name}: {caption}")


@lru_cache(maxsize=1)
def extractor_of(settings: ImageSettings) -> FeatureExtractor:
    """Return the feature extractor, which is loaded once a process."""
    return make_extractor(settings.extractor, settings.extractor_weights, settings.device)


def real_statistics(data: ImageData, settings: ImageSettings, runs: Path) -> GaussianStatistics:
    """Return the statistics of the first training images' features, which are measured once and kept in ``runs``."""
    images = data.train_images[: settings.frechet_images]
    return cached_statistics(extractor_of(settings), images, runs / "statistics", progress=True)


@dataclass(frozen=True)
class ImageExperiment:
    """An experiment of the paper on images. Its functions belong to modules, so that it can go to other processes.

    Attributes:
        name: on the command line.
        title: one line.
        settings: those of the full experiment.
        quick: changes of the settings for a smoke test of less than a minute.
        evaluate: measures a trained model.
        draw: draws the picture of all outcomes.
        differences: from the paper.
        paper: the paper's figures by row.
        parts: the parts of a data set's and a model's jobs; None: one without a name.
        prepare: makes the data of a job; None: all data of its data set.
        configure: changes the training that all experiments have in common, given the number of training images.
        summarize: makes rows of the metrics of one model and seed, by part; None: they are the rows.
        compare: makes further rows, which compare models: their names, and one value a seed.
        trained_images: how many images a run of a model passes over, if not 480,000.
        needs_statistics: whether Fréchet distances are measured.
        measures_time: whether jobs never run side by side, because time is what is measured.
        network: what the networks are, for experiments whose networks the settings do not tell.
    """

    name: str
    title: str
    settings: ImageSettings
    quick: Mapping[str, Any]
    evaluate: Callable[[Subject], JobOutcome]
    draw: Callable[[Mapping[Job, JobOutcome]], Figure]
    differences: Sequence[Difference]
    paper: Mapping[str, float] = field(default_factory=dict)
    parts: Callable[[ImageData], Sequence[str]] | None = None
    prepare: Callable[[ImageData, Job], ImageData] | None = None
    configure: Callable[[TrainingConfig, Job, int], TrainingConfig] | None = None
    summarize: Callable[[dict[str, dict[str, float]]], dict[str, float]] | None = None
    compare: Callable[[Mapping[Job, JobOutcome]], dict[str, list[float]]] | None = None
    trained_images: Mapping[str, int] = field(default_factory=lambda: FEWER_TRAINED_IMAGES)
    needs_statistics: bool = False
    measures_time: bool = False
    network: str = ""

    def training_config(self, settings: ImageSettings, job: Job, images: Tensor) -> TrainingConfig:
        """Return how a job's model is trained on images (n, C, H, W); ``settings.options`` come after all else."""
        epochs = settings.epochs
        if epochs is None:
            epochs = max(1, min(MOST_EPOCHS, round(self.trained_images.get(job.model, TRAINED_IMAGES) / len(images))))
        kind = kind_of(images)
        pixels = {"likelihood": "bernoulli"} if kind == "binary" else {"decoder_output": "tanh"}
        of_model = MODEL_SETTINGS.get(job.model, {})
        network = {"width": settings.width, "latent_dim": settings.latent_dim, **pixels, **of_model}
        config = TrainingConfig(
            model=job.model,
            dataset=job.dataset,
            epochs=epochs,
            batch_size=min(TrainingConfig.batch_size, len(images)),
            seed=job.seed,
            device=settings.device,
            evaluate_every=epochs,
            network=config_from_dict(MODELS[job.model].config_class, network),
        )
        config = with_options(config, KIND_SETTINGS[kind].get(job.model, {}))
        config = self.configure(config, job, len(images)) if self.configure else config
        return with_options(config, dict(settings.options))
