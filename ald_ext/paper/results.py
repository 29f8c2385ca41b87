"""The one schema of results.json: what an experiment found, written and read here."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import write_json
from ..settings import convert, from_dict, parse_json
from ..version import __version__

FILE = "results.json"
#: The name under which trained models stand in a report, as if they were an experiment.
TRAINED_MODELS = "trained-models"
#: Folders inside an experiment's that hold its training runs and the outcomes of its jobs, not results.
NOT_RESULTS = {"runs", "jobs"}


@dataclass(frozen=True)
class Row:
    """A figure of an experiment.

    Attributes:
        name: what was measured; on images DATASET/MODEL/METRIC.
        paper: the paper's figure; None where it prints none.
        mean: the mean over the seeds; None if one of the values is not finite.
        standard_error: the mean's standard error; None for one seed or if one of the values is not finite.
        values: one a seed; None where it is not finite.
    """

    name: str
    paper: float | None
    mean: float | None
    standard_error: float | None
    values: list[float | None]


@dataclass(frozen=True)
class Difference:
    """A setting that is not the paper's, and the reason for it."""

    setting: str
    paper: str
    ours: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """A PNG file beside results.json, what it shows, and the CRC-32 of its bytes, if known."""

    file: str
    caption: str
    checksum: int | None = None


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation.

    Attributes:
        dataset: its name in rows.
        model: a name of ``ald_ext.models.MODELS``.
        seed: the run's seed.
        part: what else tells it from the others, such as the digit that is normal.
    """

    dataset: str
    model: str
    seed: int
    part: str = ""

    @property
    def name(self) -> str:
        """The job's name in files and messages, such as "mnist-lae-seed0"."""
        return "-".join(word for word in (self.dataset, self.model, self.part, f"seed{self.seed}") if word)


def distinct(jobs: Iterable[Job], name: str) -> list[Any]:
    """Return the values of an attribute of jobs, each once, in the order of the jobs."""
    return list(dict.fromkeys(getattr(job, name) for job in jobs))


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Job):
    """A job with the facts of its training: ``seconds`` leave out the evaluations."""

    epochs: int
    train_images: int
    test_images: int
    seconds: float
    images_per_second: float
    parameters: int
    threads: int
    device: str


@dataclass(frozen=True)
class Trial:
    """Settings that a search tried, and what they gave on held-out training images.

    Attributes:
        options: the settings.
        round: 1, or 2 for the best ones, which are trained once more and longer.
        steps: minibatches of the training.
        re: reconstruction error; None if the training diverged.
        frechet: Fréchet distance of samples; None if the model has no prior, too.
        score: what the trials are ordered by, the least first.
    """

    options: dict[str, Any]
    round: int
    steps: int
    re: float | None
    frechet: float | None
    score: float | None


@dataclass(frozen=True)
class Choice:
    """The settings of a model on a data set that a search chose, and all that it tried."""

    dataset: str
    model: str
    options: dict[str, Any]
    trials: list[Trial]


@dataclass(frozen=True)
class Results:
    """What one results.json holds.

    Attributes:
        experiment: its name on the command line.
        quick: whether it was a smoke test.
        settings: the settings, in plain values.
        differences: settings that are not the paper's.
        versions: versions of the software, and how many workers and threads there were.
        seconds: how long the last call of the command took.
        rows: the figures.
        pictures: the experiment's own, then those of its jobs.
        preset: the name of the settings; "" where the experiment has no presets.
        jobs: the training runs; None for experiments without images.
        choices: settings that a search chose.
        folder: where the file is; not in the file itself.
    """

    experiment: str
    quick: bool
    settings: dict[str, Any]
    differences: list[Difference]
    versions: dict[str, str]
    seconds: float
    rows: list[Row]
    pictures: list[Picture] = field(default_factory=list)
    preset: str = ""
    jobs: list[TrainingRun] | None = None
    choices: list[Choice] = field(default_factory=list)
    folder: Path = Path()


def make_row(name: str, values: Sequence[float], paper: Mapping[str, float]) -> Row:
    """Return the row of one value a seed, with the paper's figure of that name if there is one."""
    finite = [value if math.isfinite(value) else None for value in values]
    if None in finite:
        return Row(name, paper.get(name), None, None, finite)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Row(name, paper.get(name), float(np.mean(values)), error, finite)


def fingerprint(values: dict[str, Any]) -> str:
    """Return eight characters that tell these settings from others."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def contents(images: Tensor) -> int:
    """Return the CRC-32 of the bytes of images on the CPU."""
    return zlib.crc32(images.contiguous().numpy().data)


def versions(num_workers: int, one_thread: bool = False) -> dict[str, str]:
    """Return the versions of the software and the number of workers, which are processes of one thread each."""
    return {
        "ald_ext": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(1 if one_thread or num_workers > 1 else torch.get_num_threads()),
        "workers": str(num_workers),
    }


def write_results(results: Results) -> None:
    """Write results.json into the folder of the results."""
    values = asdict(results)
    del values["folder"]
    write_json(results.folder / FILE, values)


def find_results(folders: Sequence[Path]) -> list[Results]:
    """Read every results.json below the folders, and every model that ``ald-ext train`` left there.

    Experiments come first, in the order of the folders and then of their paths, each once; their own training runs are
    left out. Trained models that lie side by side are one experiment, :data:`TRAINED_MODELS`, with rows
    DATASET/MODEL/re and re_averaged.

    Args:
        folders: are searched with all folders below them.

    Raises:
        ValueError: a folder is not there, a file is damaged or of another form, or there are no results.
    """
    experiments: dict[Path, None] = {}
    models: dict[Path, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"report: folders: got {str(folder)!r}, expected a folder")
        root = folder.resolve()
        # A folder comes before those inside it, so that the default settings stand before other presets.
        for place in sorted({root, *(path.parent for path in root.rglob("*.json"))}):
            if not NOT_RESULTS.isdisjoint(place.relative_to(root).parts):
                continue
            if (place / FILE).is_file():
                experiments[place] = None
            elif (place / "metrics.json").is_file() and (place / "config.json").is_file():
                together = models.setdefault(place.parent, [])
                together += [place] if place not in together else []
    if not experiments and not models:
        shown = ", ".join(map(str, folders)) or "none"
        expected = f"one with a {FILE} of `ald-ext experiment` or a metrics.json of `ald-ext train`"
        raise ValueError(f"report: folders: got {shown}, expected {expected}")
    return [*(read_results(place / FILE) for place in experiments), *map(read_trained_models, models.values())]


def read_results(path: Path) -> Results:
    """Read one results.json. ValueError, which names it, where it is damaged or of another form."""
    results = from_dict(Results, read_json(path), f"report: {path}", ignore_unknown=True)
    for picture in results.pictures:
        file = PurePosixPath(picture.file)
        if file.is_absolute() or ".." in file.parts:
            raise ValueError(f"report: {path}: pictures: got {picture.file!r}, expected a file in the folder of {FILE}")
    pictures = results.pictures or [Picture(f"{results.experiment}.png", "")]
    return replace(results, pictures=pictures, folder=path.parent)


def read_trained_models(folders: Sequence[Path]) -> Results:
    """Return what ``ald-ext train`` left in folders side by side; a model is called by its folder if that differs."""
    rows, jobs, pictures, configs = [], [], [], []
    for folder in folders:
        metrics, config = read_json(folder / "metrics.json"), read_json(folder / "config.json")
        where = f"report: {folder / 'metrics.json'}"
        if not (isinstance(metrics, dict) and isinstance(config, dict)):
            raise ValueError(f"{where} and config.json: expected objects, as `ald-ext train` writes them")
        model, dataset = (convert(metrics.get(name), str, f"{where}: {name}") for name in ("model", "dataset"))
        values = {
            **metrics,
            "dataset": PurePosixPath(dataset).stem,
            "model": model if folder.name == model else f"{folder.name} ({model})",
            "seed": config.get("seed"),
        }
        job = from_dict(TrainingRun, values, where, ignore_unknown=True)
        for name, metric in (("re", "test_re"), ("re_averaged", "test_re_ensemble")):
            value = convert(metrics.get(metric), float | None, f"{where}: {metric}")
            if value is not None:
                rows.append(make_row(f"{job.dataset}/{job.model}/{name}", [value], {}))
        jobs.append(job)
        configs.append(config)
        for name, shown in (("reconstructions", "held-out data, each row above its reconstructions"), ("samples",) * 2):
            if (folder / f"{name}.png").is_file():
                pictures.append(Picture(f"{folder.name}/{name}.png", f"{job.model}: {shown}"))
    return Results(
        experiment=TRAINED_MODELS,
        quick=False,
        settings=shared(configs),
        differences=[],
        versions=convert(metrics.get("versions", {}), dict[str, str], f"{where}: versions"),
        seconds=sum(job.seconds for job in jobs),
        rows=rows,
        pictures=pictures,
        jobs=jobs,
        folder=folders[0].parent,
    )


def shared(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that all have in common; of those that are objects, what these have in common."""
    common = {}
    for name, value in settings[0].items():
        values = [each.get(name) for each in settings]
        if all(isinstance(each, dict) for each in values):
            common[name] = shared([each[name] for each in settings])
        elif all(each == value for each in values):
            common[name] = value
    return common


def read_json(path: Path) -> Any:
    """Return what a file holds. ValueError, which names it, where it is damaged."""
    return parse_json(path.read_bytes(), f"report: {path}")  # older files have NaN where newer ones have null
