"""What experiments on images have in common: data sets, training runs, rows, pictures, and going on where one was.

An experiment is a list of jobs: one training run each, and what is measured of it. A job's outcome is kept in a file,
so that what was computed is not computed again; an interrupted training run goes on from its checkpoint.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data import ImageData, load_dataset
from ...files import write_atomically
from ...metrics import FeatureExtractor, GaussianStatistics, cached_statistics, make_extractor
from ...models import MODELS
from ...models.config import config_from_dict
from ...training import TrainingConfig
from ..experiment import Difference, make_row, versions
from ..workers import Progress, run_all
from .trained_runs import TrainedRun, checksum, fingerprint, train_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Images that a run passes over in all, where no epochs are given. ABP and DLGM get as much time as others, or more.
TRAINED_IMAGES, FEWER_TRAINED_IMAGES = 480_000, {"abp": 180_000, "dlgm": 240_000}
MOST_EPOCHS = 80
#: PSGLD on means of ten gradients or so; lr and eps belong to it.
MOMENTUM = {"momentum": 0.9, "lr": 1e-3, "eps": 0.03}
#: A prior that keeps up with latent variables, which begin with the spread that is a Gaussian prior's at first.
LIVELY_PRIOR = {"prior_eps": 0.01, "initial_spread": 1.0}
#: What models do not leave at its default. The LAE's latent variables, to be as wide as their posterior, need a warmer
#: encoder; the CLAE's samples, which do not come from a prior of a given form, got worse by it.
MODEL_SETTINGS: dict[str, dict[str, Any]] = {"lae": {"encoder_temperature": None}}
#: Settings of models and of their training, by the kind of images. On binary ones the likelihood holds the latent
#: variables less firmly against the energy.
KIND_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "real": {},
    "grey": {"clae": {"prior_eps": 0.1}},
    "binary": {"lae": MOMENTUM | LIVELY_PRIOR, "clae": {"energy_smoothness": 3.0, "prior_eps": 0.1}},
    "colour": {"lae": MOMENTUM | LIVELY_PRIOR, "clae": MOMENTUM | LIVELY_PRIOR},
}
#: Settings that are a job's, or have options of their own.
FIXED = {
    "model",
    "dataset",
    "data_root",
    "download",
    "epochs",
    "seed",
    "device",
    "network",
    "num_data",
    "shape",
    "width",
}


@dataclass(frozen=True)
class ImageSettings:
    """
    Attributes:
        datasets: names that ``ald_ext.training.load_dataset`` knows, or NAME=PATH of a .npz file or a folder.
        models: names of ``ald_ext.models.MODELS``.
        width: channels of the hidden layers; the paper has 64.
        latent_dim: d_z.
        epochs: of every model; None: those in which a run passes over 480,000 images (ABP 180,000, DLGM 240,000, the
            LAE of image-generation 960,000), and not more than 80.
        device: a torch device.
        data_root: folder of torchvision's files.
        download: fetch what is missing there.
        extractor: of the features whose Fréchet distance is measured, a name of ``ald_ext.metrics.EXTRACTORS``.
        extractor_weights: a file, where the extractor takes one.
        frechet_samples: images drawn of each model.
        frechet_images: real images that they are compared with at most, of the training set.
        train_images, test_images: at most; None: all.
        options: names and values of further settings, of the models (those that have them) or of the training.
    """

    datasets: tuple[str, ...] = ("mnist",)
    models: tuple[str, ...] = ("ae", "vae", "abp", "dlgm", "lae", "clae")
    width: int = 16
    latent_dim: int = 32
    epochs: int | None = None
    device: str = "cpu"
    data_root: str | None = None
    download: bool = False
    extractor: str = "efficientnet-lite0"
    extractor_weights: str | None = None
    frechet_samples: int = 5000
    frechet_images: int = 10_000
    train_images: int | None = None
    test_images: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def dataset_names(self) -> tuple[str, ...]:
        """As rows have them."""
        return tuple(name_and_source(dataset)[0] for dataset in self.datasets)


#: Settings that say where or which jobs are run, or that the training's settings tell, too.
NOT_OF_A_JOB = ("datasets", "models", "device", "data_root", "download", "extractor_weights", "options")


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation.

    Attributes:
        dataset: its name in rows.
        model: a name of ``ald_ext.models.MODELS``.
        seed: of the run.
        part: what else tells it from the others, such as the digit that is normal.
    """

    dataset: str
    model: str
    seed: int
    part: str = ""

    @property
    def name(self) -> str:
        """For files and messages."""
        return "-".join(word for word in (self.dataset, self.model, self.part, f"seed{self.seed}") if word)


@dataclass(frozen=True)
class Picture:
    """A PNG file beside results.json, what it shows, and the checksum of its bytes, once it is written."""

    file: str
    caption: str
    checksum: int | None = None

    def written(self, folder: Path) -> Picture:
        """With the checksum of the file that is there."""
        return replace(self, checksum=zlib.crc32((folder / self.file).read_bytes()))

    def is_in(self, folder: Path) -> bool:
        """Whether the file is there and is this picture's: runs of other settings give theirs the same name."""
        if not (folder / self.file).is_file():
            return False
        return self.checksum in (None, self.written(folder).checksum)


@dataclass(frozen=True)
class JobOutcome:
    """What a job gave, as plain values: it is kept as JSON.

    Attributes:
        values: metric to number, for rows.
        pictures: that were written.
        curves: lists of numbers, for the experiment's picture.
        run: of the training: epochs, seconds, images.
    """

    values: dict[str, float]
    pictures: tuple[Picture, ...] = ()
    curves: dict[str, list[float]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> JobOutcome:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{**values, "pictures": tuple(Picture(**picture) for picture in values["pictures"])})


@dataclass(frozen=True)
class Place:
    """Where an experiment keeps things.

    Attributes:
        out: its folder, for results.json and pictures.
        runs: the folder of training runs, outcomes of jobs and statistics of real images, which experiments may share.
    """

    out: Path
    runs: Path

    def outcome(self, experiment: str, job: str, key: str) -> Path:
        return self.runs / "outcomes" / experiment / f"{job}-{key}.json"

    @property
    def statistics(self) -> Path:
        return self.runs / "statistics"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: the job, its data, and the trained model."""

    job: Job
    data: ImageData
    trained: TrainedRun
    settings: ImageSettings
    place: Place

    def extractor(self) -> FeatureExtractor:
        return extractor_of(self.settings)

    def real_statistics(self) -> GaussianStatistics:
        return real_statistics(self.data, self.settings, self.place)


def one_part(data: ImageData) -> tuple[str, ...]:
    return ("",)


def all_data(data: ImageData, job: Job) -> ImageData:
    return data


def common_training(config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
    return config


def values_as_rows(parts: dict[str, dict[str, float]]) -> dict[str, float]:
    return parts[""]


def nothing_to_compare(outcomes: Mapping[Job, JobOutcome]) -> dict[str, list[float]]:
    return {}


@dataclass(frozen=True)
class ImageExperiment:
    """An experiment of the paper on images. Its functions are those of modules, so that it can go to other processes.

    Attributes:
        name: on the command line.
        title: one line.
        settings: those of the full experiment.
        quick: what is changed for a smoke test of less than a minute.
        parts: of the jobs of a data set and a model; one without a name by default.
        prepare: the data of a job.
        configure: the training of a job, from that which all have in common, with the number of training images.
        evaluate: what is measured of a trained model.
        summarize: from metrics of the parts of one model and seed to rows; by default they are the rows.
        compare: further rows, which compare models: their names, and one value a seed.
        draw: the picture of all outcomes.
        paper: the paper's number by row.
        differences: from the paper.
        trained_images: that a run of a model passes over, if not 480,000.
        needs_statistics: whether Fréchet distances are measured.
        measures_time: so that jobs must not run side by side.
    """

    name: str
    title: str
    settings: ImageSettings
    quick: Mapping[str, Any]
    evaluate: Callable[[Subject], JobOutcome]
    draw: Callable[[Mapping[Job, JobOutcome]], Figure]
    paper: Mapping[str, float]
    differences: Sequence[Difference]
    parts: Callable[[ImageData], Sequence[str]] = one_part
    prepare: Callable[[ImageData, Job], ImageData] = all_data
    configure: Callable[[TrainingConfig, Job, int], TrainingConfig] = common_training
    summarize: Callable[[dict[str, dict[str, float]]], dict[str, float]] = values_as_rows
    compare: Callable[[Mapping[Job, JobOutcome]], dict[str, list[float]]] = nothing_to_compare
    trained_images: Mapping[str, int] = field(default_factory=lambda: FEWER_TRAINED_IMAGES)
    needs_statistics: bool = False
    measures_time: bool = False


def run_image_experiment(
    experiment: ImageExperiment,
    out: Path,
    *,
    settings: ImageSettings | None = None,
    num_seeds: int = 1,
    num_workers: int = 1,
    runs: Path | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Runs what is not yet computed, with a progress bar; writes results.json and pictures in ``out``.

    Args:
        experiment: which.
        out: folder of its results.
        settings: other than the experiment's own, or than those of its smoke test.
        num_seeds: the seeds 0, 1, …
        num_workers: jobs side by side, in processes of one thread each; the calling script must then be importable,
            with its work under ``if __name__ == "__main__"``.
        runs: folder of training runs, which experiments may share; OUT/runs if none is given.
        quick: a smoke test; results.json says so.

    Returns:
        What results.json holds: experiment, quick, settings, differences, versions, seconds, rows, pictures, jobs. A
        row has name (DATASET/MODEL/METRIC), paper (the paper's number or null), mean, standard_error (over the seeds;
        null for one), values (one a seed).

    Raises:
        ValueError: settings out of range, an unknown model, data set or extractor.
        TrainingInterrupted, KeyboardInterrupt: the next call goes on.
        OSError, ImportError, TrainingDivergedError: as ``ald_ext.training.train`` and ``ald_ext.metrics``.
    """
    if settings is None:
        settings = replace(experiment.settings, **experiment.quick) if quick else experiment.settings
    check_settings(experiment, settings, num_seeds)
    place = Place(out, runs or out / "runs")
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    jobs = make_jobs(experiment, settings, num_seeds, place)
    outcomes = run_jobs(experiment, settings, jobs, place, 1 if experiment.measures_time else num_workers)
    rows = rows_of(experiment, outcomes)
    results = {
        "experiment": experiment.name,
        "quick": quick,
        "settings": without_paths(settings),
        "differences": [asdict(difference) for difference in experiment.differences],
        "versions": versions(num_workers),
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows,
        "pictures": [
            {"file": picture.file, "caption": picture.caption} for picture in pictures_of(experiment, outcomes)
        ],
        "jobs": [{**asdict(job), **outcome.run} for job, outcome in outcomes.items()],
    }
    figure = experiment.draw(outcomes)
    write_atomically(out / f"{experiment.name}.png", lambda file: figure.savefig(file, format="png", dpi=100))
    write_atomically(out / "results.json", lambda file: file.write_text(json.dumps(results, indent=2) + "\n"))
    return results


def check_settings(experiment: ImageExperiment, settings: ImageSettings, num_seeds: int) -> None:
    """ValueError for settings out of range."""

    def require(name: str, got: Any, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            raise ValueError(f"experiment {experiment.name}: {name}: got {got!r}, expected {expected}")

    require("seeds", num_seeds, num_seeds >= 1, ">= 1")
    require("epochs", settings.epochs, settings.epochs is None or settings.epochs >= 1, "None or >= 1")
    require("datasets", settings.datasets, len(settings.datasets) >= 1, "at least one")
    names = settings.dataset_names()
    require("datasets", settings.datasets, len(set(names)) == len(names), "different names")
    allowed = experiment.settings.models
    for model in settings.models:
        require("models", model, model in allowed, f"some of {', '.join(allowed)}")
    known = names_of(TrainingConfig).union(*(names_of(MODELS[model].config_class) for model in settings.models))
    for option, _ in settings.options:
        require("option", option, option in known - FIXED, "a setting of one of the models or of the training")
    require("models", settings.models, len(set(settings.models)) == len(settings.models) >= 1, "each once")


def name_and_source(dataset: str) -> tuple[str, str]:
    """ "celeba=faces.npz" to ("celeba", "faces.npz"); a path alone has the name of its file."""
    name, equals, source = dataset.partition("=")
    if equals:
        return name, source
    return (Path(dataset).stem if "/" in dataset or dataset.endswith(".npz") else dataset), dataset


@lru_cache(maxsize=2)
def load(dataset: str, settings: ImageSettings) -> ImageData:
    """A data set under its name in rows, cut down as the settings say."""
    name, source = name_and_source(dataset)
    data = load_dataset(source, settings.data_root, download=settings.download)

    train, test = slice(settings.train_images), slice(settings.test_images)

    def part(values: Tensor | None, kept: slice) -> Tensor | None:
        return None if values is None else values[kept]

    return replace(
        data,
        train_images=data.train_images[train],
        train_labels=part(data.train_labels, train),
        test_images=data.test_images[test],
        test_labels=part(data.test_labels, test),
        name=name,
    )


def find_data(settings: ImageSettings, name: str) -> ImageData:
    """The data set of a name in rows."""
    source = dict(zip(settings.dataset_names(), settings.datasets, strict=True))[name]
    return load(source, settings)


def make_jobs(experiment: ImageExperiment, settings: ImageSettings, num_seeds: int, place: Place) -> list[Job]:
    """All jobs, in the order of the rows; loads the data, and measures the statistics of real images."""
    jobs = []
    for name in settings.dataset_names():
        data = find_data(settings, name)
        if experiment.needs_statistics:
            real_statistics(data, settings, place)
        seeds = range(num_seeds)
        parts = experiment.parts(data)
        jobs += [Job(name, model, seed, part) for model in settings.models for part in parts for seed in seeds]
    return jobs


def run_jobs(
    experiment: ImageExperiment, settings: ImageSettings, jobs: Sequence[Job], place: Place, num_workers: int
) -> dict[Job, JobOutcome]:
    """The outcomes of the jobs, in their order."""
    from tqdm import tqdm

    from ...progress import progress_interval

    images = [images_of_job(experiment, settings, job) for job in jobs]
    if experiment.measures_time:  # in alternation, so that what slows the machine for a while slows every model
        order = sorted(range(len(jobs)), key=lambda index: (jobs[index].dataset, jobs[index].seed))
    else:  # those that take longest first, so that no worker is left with one of them at the end
        order = sorted(range(len(jobs)), key=lambda index: -images[index] * cost(jobs[index]))
    arguments = [(experiment, settings, jobs[index], place) for index in order]
    options = {"desc": experiment.name, "unit": " images", "unit_scale": True, "mininterval": progress_interval()}
    with tqdm(total=sum(images), **options) as bar:
        outcomes = run_all(run_job, arguments, min(num_workers, len(jobs)), bar)
    by_job = {jobs[index]: outcome for index, outcome in zip(order, outcomes, strict=True)}
    return {job: by_job[job] for job in jobs}


def cost(job: Job) -> float:
    """Of an image, relative to other models: those that are given fewer images take longer for each."""
    return TRAINED_IMAGES / FEWER_TRAINED_IMAGES.get(job.model, TRAINED_IMAGES)


def images_of_job(experiment: ImageExperiment, settings: ImageSettings, job: Job) -> int:
    data = experiment.prepare(find_data(settings, job.dataset), job)
    return training_config(experiment, settings, job, data).num_epochs * len(data.train_images)


def run_job(argument: tuple[ImageExperiment, ImageSettings, Job, Place], progress: Progress) -> JobOutcome:
    """Trains and evaluates, unless the outcome is there."""
    experiment, settings, job, place = argument
    data = experiment.prepare(find_data(settings, job.dataset), job)
    config = training_config(experiment, settings, job, data)
    key = job_key(settings, job, config, data)
    path = place.outcome(experiment.name, job.name, key)
    outcome = read_outcome(path)
    if outcome is not None and all(picture.is_in(place.out) for picture in outcome.pictures):
        progress(config.num_epochs * len(data.train_images))
        return outcome
    trained = train_once(config, data, place.runs, progress)
    outcome = experiment.evaluate(Subject(job, data, trained, settings, place))
    pictures = tuple(picture.written(place.out) for picture in outcome.pictures)
    outcome = replace(outcome, pictures=pictures, run=facts_of_run(trained, config))
    text = json.dumps(asdict(outcome)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write_text(text))
    return outcome


def training_config(experiment: ImageExperiment, settings: ImageSettings, job: Job, data: ImageData) -> TrainingConfig:
    """How a job's model is trained."""
    trained_images = experiment.trained_images.get(job.model, TRAINED_IMAGES)
    epochs = max(1, min(MOST_EPOCHS, round(trained_images / len(data.train_images))))
    kind = kind_of(data.train_images)
    pixels = {"likelihood": "bernoulli"} if kind == "binary" else {"decoder_output": "tanh"}
    own = MODEL_SETTINGS.get(job.model, {})
    config_class = MODELS[job.model].config_class
    network = {"width": settings.width, "latent_dim": settings.latent_dim, **pixels, **own}
    config = TrainingConfig(
        model=job.model,
        dataset=job.dataset,
        epochs=settings.epochs or epochs,
        batch_size=min(TrainingConfig.batch_size, len(data.train_images)),
        seed=job.seed,
        device=settings.device,
        evaluate_every=settings.epochs or epochs,
        network=config_from_dict(config_class, network),
    )
    config = with_options(config, KIND_OPTIONS[kind].get(job.model, {}))
    return with_options(experiment.configure(config, job, len(data.train_images)), dict(settings.options))


def with_options(config: TrainingConfig, options: Mapping[str, Any]) -> TrainingConfig:
    """With further settings of the model and of the training in place; those of other models are left out."""
    of_model, of_training = names_of(type(config.network)), names_of(TrainingConfig)
    network = {name: value for name, value in options.items() if name in of_model}
    training = {name: value for name, value in options.items() if name in of_training - of_model}
    return replace(config, network=replace(config.network, **network), **training)


def names_of(settings_class: type[Any]) -> set[str]:
    return {item.name for item in fields(settings_class)}


def kind_of(images: Tensor) -> str:
    """ "real", "colour", "grey" or "binary": pixels that are 0 or 255, as those of binarized MNIST."""
    if images.dtype != torch.uint8:
        return "real"
    if images.shape[1] > 1:
        return "colour"
    return "binary" if bool(((images == 0) | (images == 255)).all()) else "grey"


def job_key(settings: ImageSettings, job: Job, config: TrainingConfig, data: ImageData) -> str:
    """Tells an outcome from those of other settings or other data."""
    relevant = {name: value for name, value in asdict(settings).items() if name not in NOT_OF_A_JOB}
    training = {name: value for name, value in config.to_dict().items() if name not in ("device", "data_root")}
    images = [checksum(data.train_images), checksum(data.test_images)]
    return fingerprint({"settings": relevant, "job": asdict(job), "training": training, "images": images})


def read_outcome(path: Path) -> JobOutcome | None:
    """The outcome in a file; None where there is none, or a damaged one, which is then measured again."""
    try:
        return JobOutcome.from_dict(json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None


def facts_of_run(trained: TrainedRun, config: TrainingConfig) -> dict[str, Any]:
    """For results.json."""
    names = ("epochs", "train_images", "test_images", "seconds", "images_per_second", "parameters", "threads")
    return {**{name: trained.metrics[name] for name in names}, "device": config.device}


def rows_of(experiment: ImageExperiment, outcomes: Mapping[Job, JobOutcome]) -> list[dict[str, Any]]:
    """DATASET/MODEL/METRIC, one value a seed."""
    parts: dict[tuple[str, str, int], dict[str, dict[str, float]]] = {}
    for job, outcome in outcomes.items():
        parts.setdefault((job.dataset, job.model, job.seed), {})[job.part] = outcome.values
    values: dict[str, list[float]] = {}
    for (dataset, model, _), of_parts in parts.items():
        for metric, value in experiment.summarize(of_parts).items():
            values.setdefault(f"{dataset}/{model}/{metric}", []).append(value)
    values |= experiment.compare(outcomes)
    return [make_row(name, numbers, experiment.paper) for name, numbers in values.items()]


def pictures_of(experiment: ImageExperiment, outcomes: Mapping[Job, JobOutcome]) -> list[Picture]:
    """The experiment's own, then those of the jobs."""
    own = Picture(f"{experiment.name}.png", experiment.title)
    return [own, *(picture for outcome in outcomes.values() for picture in outcome.pictures)]


def without_paths(settings: ImageSettings) -> dict[str, Any]:
    """Settings for results.json, which are of the experiment and not of the machine."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    del values["data_root"], values["extractor_weights"], values["download"]
    return {**values, "datasets": settings.dataset_names()}


@lru_cache(maxsize=1)
def make_cached_extractor(name: str, weights: str | None, device: str) -> FeatureExtractor:
    return make_extractor(name, weights=weights, device=device)


def extractor_of(settings: ImageSettings) -> FeatureExtractor:
    """The feature extractor, loaded once a process."""
    return make_cached_extractor(settings.extractor, settings.extractor_weights, settings.device)


def real_statistics(data: ImageData, settings: ImageSettings, place: Place) -> GaussianStatistics:
    """Of the first training images, measured once and kept."""
    images = data.train_images[: settings.frechet_images]
    return cached_statistics(extractor_of(settings), images, place.statistics, progress=True)
