"""What an experiment on images is: its settings and jobs, how models are trained, and what is measured of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...data import ImageData, load_dataset
from ...metrics import EXTRACTORS, FeatureExtractor, GaussianStatistics, cached_statistics, make_extractor
from ...models import MODELS, ParameterEnsemble
from ...models.config import config_from_dict
from ...settings import check_device, check_values, require, setting
from ...training import TrainingConfig
from ...training.pictures import save_grid
from ..pictures import Figure, new_picture
from ..results import Choice, Difference, Job, Picture, distinct

#: Images that a run passes over in all where no epochs are given; ABP and DLGM still get as much time as the others.
TRAINED_IMAGES, FEWER_TRAINED_IMAGES = 480_000, {"abp": 180_000, "dlgm": 240_000}
MOST_EPOCHS = 80
#: PSGLD on running means of the gradients, with the lr and eps that suit them.
MOMENTUM_SETTINGS = {"momentum": 0.9, "lr": 1e-3, "eps": 0.03}
#: A smaller λ lets the prior follow the latent variables, which begin with a standard deviation of 1 as the prior does.
PRIOR_SETTINGS = {"prior_eps": 0.01, "initial_spread": 1.0}
#: Models' settings that are not their defaults. A warmer encoder makes the LAE's latent variables as wide as their
#: posterior; it made the CLAE's samples worse, which come from no prior of a given form.
MODEL_SETTINGS: dict[str, dict[str, Any]] = {"lae": {"encoder_temperature": None}}
#: Settings of models and of their training by the kind of images. On binary images the likelihood holds the latent
#: variables less firmly against the energy, so the energy is smoother there.
KIND_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "real": {},
    "grey": {"clae": {"prior_eps": 0.1}},
    "binary": {"lae": MOMENTUM_SETTINGS | PRIOR_SETTINGS, "clae": {"energy_smoothness": 3.0, "prior_eps": 0.1}},
    "colour": {"lae": MOMENTUM_SETTINGS | PRIOR_SETTINGS, "clae": MOMENTUM_SETTINGS | PRIOR_SETTINGS},
}
#: Settings that belong to a job or have an argument of their own, and so are not among ``options``.
NOT_OPTIONS = {"model", "dataset", "data_root", "download", "epochs", "steps", "seed", "device"} | {
    *("network", "num_data", "shape", "width"),
}


@dataclass(frozen=True)
class ImageSettings:
    """Settings of an experiment on images.

    Attributes:
        datasets: names that :func:`ald_ext.data.load_dataset` knows, or NAME=PATH of a .npz file or a folder.
        models: names of some of the models that the experiment compares.
        width: channels of the hidden layers; the paper has 64.
        latent_dim: the latent dimension d_z.
        epochs: the epochs of every model; None: as many as pass over 480,000 images (ABP 180,000, DLGM 240,000, the
            LAE of image-generation 960,000), at most 80.
        seconds: time for which every model is trained, instead of epochs: as many steps as it makes in that time when
            it is alone on the GPU, or has one core of the CPU.
        candidates: number of settings that are tried for every model on held-out training images, at most 12, before
            it is trained with the best. The search takes as long as the training. 0: the experiment's own settings,
            which were found by looking at test images.
        device: a torch device.
        data_root: the folder of torchvision's files.
        download: fetch what is missing there.
        extractor: what makes the features whose Fréchet distance is measured.
        extractor_weights: a file, where the extractor takes one.
        frechet_samples: images drawn from each model.
        frechet_images: the largest number of real training images to compare them with.
        train_images, test_images: the largest numbers of images; None: all.
        options: names and values of further settings of the training, or of the models that have them.
    """

    datasets: tuple[str, ...] = ("mnist",)
    models: tuple[str, ...] = ("ae", "vae", "abp", "dlgm", "lae", "clae")
    width: int = setting(16, at_least=1)
    latent_dim: int = setting(32, at_least=1)
    epochs: int | None = setting(None, at_least=1)
    seconds: float | None = setting(None, above=0, below=math.inf)
    candidates: int = setting(0, at_least=0, at_most=12)
    device: str = "cpu"
    data_root: str | None = None
    download: bool = False
    extractor: str = setting("efficientnet-lite0", suggestions=EXTRACTORS)
    extractor_weights: str | None = None
    frechet_samples: int = setting(5000, at_least=2)
    frechet_images: int = setting(10_000, at_least=2)
    train_images: int | None = setting(None, at_least=1)
    test_images: int | None = setting(None, at_least=1)
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """What ``load_dataset`` takes, by the data set's name in rows."""
        sources: dict[str, str] = {}
        for dataset in self.datasets:
            name, equals, source = dataset.partition("=")
            is_path = "/" in dataset or dataset.endswith(".npz")  # a path alone is called by its file
            sources |= {name: source} if equals else {Path(dataset).stem if is_path else dataset: dataset}
        return sources


def check_settings(owner: str, settings: ImageSettings, models: tuple[str, ...], num_seeds: int) -> None:
    """Raise a ValueError that begins with ``owner`` for settings out of range; ``models`` are those to choose from."""

    def check(name: str, got: Any, fulfilled: bool, expected: str) -> None:
        require(fulfilled, f"{owner}: {name}", repr(got), expected)

    check_values(settings, owner)
    check_device(settings.device, f"{owner}: device")
    both = settings.seconds is not None and settings.epochs is not None
    check("seconds", settings.seconds, not both, "none beside epochs")
    searches = settings.candidates > 0
    check("candidates", settings.candidates, not searches or settings.seconds is not None, "0 without seconds")
    check("seeds", num_seeds, num_seeds >= 1, ">= 1")
    check("datasets", settings.datasets, len(settings.datasets) >= 1, "at least one")
    check("datasets", settings.datasets, len(settings.sources) == len(settings.datasets), "different names")
    for model in settings.models:
        check("models", model, model in models, f"some of {', '.join(models)}")
    classes: list[Any] = [TrainingConfig, *(MODELS[model].config_class for model in settings.models)]
    known = {name for each in classes for name in each.__dataclass_fields__}
    for option, _ in settings.options:
        check("option", option, option in known - NOT_OPTIONS, "a setting of one of the models or of the training")
    check("models", settings.models, len(set(settings.models)) == len(settings.models) >= 1, "each once")


@lru_cache(maxsize=2)
def load(name: str, settings: ImageSettings) -> ImageData:
    """Return the data set of a name in rows, cut down as the settings say."""
    data = load_dataset(settings.sources[name], settings.data_root, download=settings.download)
    train, test = slice(settings.train_images), slice(settings.test_images)
    return replace(
        data,
        train_images=data.train_images[train],
        train_labels=None if data.train_labels is None else data.train_labels[train],
        test_images=data.test_images[test],
        test_labels=None if data.test_labels is None else data.test_labels[test],
        name=name,
    )


def with_options(config: TrainingConfig, options: Mapping[str, Any]) -> TrainingConfig:
    """Return the config with further settings of its model or of the training; those of other models are left out."""
    network = {name: value for name, value in options.items() if hasattr(config.network, name)}
    training = {name: value for name, value in options.items() if name not in network and hasattr(config, name)}
    return replace(config, network=replace(config.network, **network), **training)


def kind_of(images: Tensor) -> str:
    """Return "real", "colour", "grey", or "binary" for pixels that are 0 or 255, as those of binarized MNIST."""
    if images.dtype != torch.uint8:
        return "real"
    if images.shape[1] > 1:
        return "colour"
    return "binary" if bool(((images == 0) | (images == 255)).all()) else "grey"


@dataclass(frozen=True)
class JobOutcome:
    """What a job gave, as plain values: it is kept as JSON.

    Attributes:
        values: numbers for rows, by metric.
        pictures: those that were written.
        curves: lists of numbers, for the experiment's picture.
        run: facts of the training: epochs, seconds, images.
        choice: how its settings were chosen, if they were.
    """

    values: dict[str, float]
    pictures: tuple[Picture, ...] = ()
    curves: dict[str, list[float]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    choice: Choice | None = None


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


class ImageExperiment(ABC):
    """An experiment of the paper on images: a class of a module, so that it can go to other processes.

    Attributes:
        name: on the command line.
        title: one line.
        settings: those of the full experiment.
        quick: changes of the settings for a smoke test of less than a minute.
        differences: from the paper.
        paper: the paper's figures by row.
        trained_images: how many images a run of a model passes over, if not 480,000.
        needs_statistics: whether Fréchet distances are measured.
        measures_time: whether jobs never run side by side, because time is what is measured.
        network: what the networks are, for experiments whose networks the settings do not tell.
    """

    name: str
    title: str
    settings: ImageSettings
    quick: ClassVar[Mapping[str, Any]] = {
        "datasets": ("mnist5k",),
        "epochs": 1,
        "train_images": 1000,
        "test_images": 100,
        "frechet_samples": 100,
        "frechet_images": 300,
    }
    differences: Sequence[Difference]
    paper: ClassVar[Mapping[str, float]] = {}
    trained_images: ClassVar[Mapping[str, int]] = FEWER_TRAINED_IMAGES
    needs_statistics: bool = False
    measures_time: bool = False
    network: str = ""

    def parts(self, data: ImageData) -> Sequence[str]:
        """Return the parts of a data set's and a model's jobs: here one without a name."""
        return ("",)

    def has_job(self, model: str, part: str) -> bool:
        """Return whether a model has a job for a part: here every model has one."""
        return True

    def prepare(self, data: ImageData, job: Job) -> ImageData:
        """Return the data of a job: here all of its data set."""
        return data

    def configure(self, config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
        """Return the training that all experiments have in common with what this one changes."""
        return config

    @abstractmethod
    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure a trained model."""

    def summarize(self, parts: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the rows of one model and seed from its metrics by part: here those of the only part."""
        return parts[""]

    def compare(self, outcomes: Mapping[Job, JobOutcome]) -> dict[str, list[float]]:
        """Return further rows, which compare models: one value a seed by the row's name."""
        return {}

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw a row of panels a data set, a panel a metric, a bar a model with its standard deviation over the seeds.

        The paper's figures of the first metric are drawn as lines.
        """
        datasets, models = distinct(outcomes, "dataset"), distinct(outcomes, "model")
        metrics = list(dict.fromkeys(name for outcome in outcomes.values() for name in outcome.values))
        picture, axes = new_picture(len(datasets), len(metrics), (3.2 * len(metrics), 2.4 * len(datasets)))
        for row, dataset in zip(axes, datasets, strict=True):
            jobs = [(job.model, outcome.values) for job, outcome in outcomes.items() if job.dataset == dataset]
            for panel, metric in zip(row, metrics, strict=True):
                for place, model in enumerate(models):
                    if values := [of_job[metric] for name, of_job in jobs if name == model and metric in of_job]:
                        panel.bar(place, np.mean(values), yerr=np.std(values) if len(values) > 1 else None)
                        printed = self.paper.get(f"{dataset}/{model}/{metric}") if metric == metrics[0] else None
                        if printed is not None:
                            panel.plot([place - 0.4, place + 0.4], [printed, printed], color="k")
                panel.set_xticks(range(len(models)), models, fontsize=8)
                lines = " (lines: paper)" if metric == metrics[0] else ""
                panel.set_title(f"{dataset}: {metric}{lines}", fontsize=9)
        return picture

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
        if not settings.candidates:
            config = with_options(config, KIND_SETTINGS[kind].get(job.model, {}))
        return with_options(self.configure(config, job, len(images)), dict(settings.options))
