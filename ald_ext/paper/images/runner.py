"""Runs the experiments on images, and resumes those that were interrupted.

An experiment is a list of jobs: one training run each, and what is measured of the trained model. A job's outcome is
kept in a file, so that nothing is computed twice; an interrupted training run resumes from its checkpoint.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...data import ImageData
from ...files import write_atomically
from ...models import LatentVariableModel, ParameterEnsemble
from ...progress import progress_bar
from ...settings import from_dict, parse_json, require
from ...training import TrainingConfig, TrainingInterrupted, train
from ...training.checkpoints import load_checkpoint, trained_model
from ...training.config import IRRELEVANT
from ...training.loop import CHECKPOINT, METRICS
from ..pictures import save_picture
from ..results import (
    Choice,
    Job,
    Picture,
    Results,
    Row,
    TrainingRun,
    contents,
    fingerprint,
    make_row,
    versions,
    write_results,
)
from ..workers import Progress, run_all
from .budget import within
from .experiment import (
    FEWER_TRAINED_IMAGES,
    TRAINED_IMAGES,
    ImageExperiment,
    ImageSettings,
    JobOutcome,
    Subject,
    check_settings,
    load,
    real_statistics,
    with_options,
)
from .selection import FINALISTS, choose, differences_of, trials_of

#: Settings that say where or which jobs are run, or that are among the training's settings too.
NOT_OF_A_JOB = {"datasets", "models", "device", "data_root", "download", "extractor_weights", "options"} | {
    *("seconds", "candidates"),
}
#: Settings that belong to the machine and not to the experiment, and so are not in results.json.
OF_THE_MACHINE = ("data_root", "download", "extractor_weights")


def run_image_experiment(
    experiment: ImageExperiment,
    out: Path,
    *,
    settings: ImageSettings | None = None,
    num_seeds: int = 1,
    num_workers: int = 1,
    runs: Path | None = None,
    quick: bool = False,
) -> Results:
    """Run what is not yet computed, with a progress bar, and write results.json and pictures.

    Args:
        experiment: which.
        out: the folder of its results.
        settings: other than the experiment's own, or than those of its smoke test.
        num_seeds: how many of the seeds 0, 1, …
        num_workers: jobs side by side, in processes of one thread each. With several, the calling script must be
            importable, with its work under ``if __name__ == "__main__"``.
        runs: the folder of training runs, which experiments may share; None: OUT/runs.
        quick: make it a smoke test; results.json says so.

    Returns:
        The results, with rows named DATASET/MODEL/METRIC.

    Raises:
        ValueError: settings out of range, an unknown model, data set or extractor.
        TrainingInterrupted, KeyboardInterrupt: the next call resumes.
        OSError, ImportError, TrainingDivergedError: see ``ald_ext.training.train`` and ``ald_ext.metrics``.
    """
    settings = settings or replace(experiment.settings, **(experiment.quick if quick else {}))
    check_settings(f"experiment {experiment.name}", settings, experiment.settings.models, num_seeds)
    runs = runs or out / "runs"
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    jobs = []
    for name in settings.sources:
        data = load(name, settings)
        if experiment.needs_statistics:
            real_statistics(data, settings, runs)
        parts, seeds = experiment.parts(data), range(num_seeds)
        place = f"experiment {experiment.name}: seconds"
        require(settings.seconds is None or tuple(parts) == ("",), place, settings.seconds, "none, for parts of data")
        jobs += [
            Job(name, model, seed, part)
            for model in settings.models
            for part in parts
            if experiment.has_job(model, part)
            for seed in seeds
        ]
    if settings.candidates:
        search_all(experiment, settings, jobs, runs, num_workers)
    outcomes = run_jobs(experiment, settings, jobs, (out, runs), 1 if experiment.measures_time else num_workers)
    seconds = round(time.perf_counter() - begin, 1)
    return write_outcomes(experiment, settings, outcomes, out, versions(num_workers), seconds=seconds, quick=quick)


def write_outcomes(
    experiment: ImageExperiment,
    settings: ImageSettings,
    outcomes: Mapping[Job, JobOutcome],
    out: Path,
    of_versions: dict[str, str],
    *,
    seconds: float,
    quick: bool = False,
) -> Results:
    """Write results.json and the experiment's own picture, of all its jobs or of those that there are so far."""
    own = Picture(f"{experiment.name}.png", experiment.title)
    plain = {name: value for name, value in asdict(settings).items() if name not in OF_THE_MACHINE}
    results = Results(
        experiment=experiment.name,
        quick=quick,
        settings={**plain, "datasets": list(settings.sources)},
        differences=differences_of(experiment, settings),
        versions=of_versions,
        seconds=seconds,
        rows=rows_of(experiment, outcomes),
        pictures=[own, *(picture for outcome in outcomes.values() for picture in outcome.pictures)],
        jobs=[TrainingRun(**asdict(job), **outcome.run) for job, outcome in outcomes.items()],
        choices=choices_of(outcomes),
        folder=out,
    )
    save_picture(experiment.draw(outcomes), out / own.file)
    write_results(results)
    return results


def run_jobs(
    experiment: ImageExperiment,
    settings: ImageSettings,
    jobs: Sequence[Job],
    folders: tuple[Path, Path],
    num_workers: int,
) -> dict[Job, JobOutcome]:
    """Return the outcomes of the jobs, in their order; the folders are those of the experiment and of training runs."""
    images = {}
    for job in jobs:
        data, config, _ = plan_job(experiment, settings, job, folders[1])
        images[job] = config.length(len(data.train_images))[2]
    if experiment.measures_time:  # models take turns, so that what slows the machine for a while slows all of them
        order = sorted(jobs, key=lambda job: (job.dataset, job.seed))
    else:  # the longest come first, so that no worker is left alone with one at the end
        order = sorted(jobs, key=lambda job: -images[job] / FEWER_TRAINED_IMAGES.get(job.model, TRAINED_IMAGES))
    total = sum(images.values())
    with progress_bar(total=total, desc=experiment.name, unit=" images", unit_scale=True) as bar:
        arguments = [(experiment, settings, job, *folders) for job in order]
        by_job = dict(zip(order, run_all(run_job, arguments, min(num_workers, len(jobs)), bar), strict=True))
    return {job: by_job[job] for job in jobs}


def search_all(
    experiment: ImageExperiment, settings: ImageSettings, jobs: Sequence[Job], runs: Path, num_workers: int
) -> None:
    """Search for the settings of every data set's models; speeds come first, while nothing runs beside them."""
    pairs = list(dict.fromkeys((job.dataset, job.model) for job in jobs))
    total = len(pairs) * (settings.candidates + min(FINALISTS, settings.candidates))
    for pair in pairs:
        trials_of(experiment, settings, *pair, runs)
    with progress_bar(total=total, desc=f"{experiment.name}: settings", unit=" trials") as bar:
        arguments = [(experiment, settings, *pair, runs) for pair in pairs]
        run_all(choose, arguments, min(num_workers, len(pairs)), bar)


def plan_job(
    experiment: ImageExperiment, settings: ImageSettings, job: Job, runs: Path
) -> tuple[ImageData, TrainingConfig, Choice | None]:
    """Return a job's data and training, with the settings that were searched for and as many steps as it has time."""
    data, choice = experiment.prepare(load(job.dataset, settings), job), None
    config = experiment.training_config(settings, job, data.train_images)
    if settings.candidates:
        choice = choose((experiment, settings, job.dataset, job.model, runs), lambda _: None)
        config = with_options(config, {**choice.options, **dict(settings.options)})
    return data, config if settings.seconds is None else within(settings.seconds, config, data, runs), choice


def run_job(argument: tuple[ImageExperiment, ImageSettings, Job, Path, Path], progress: Progress) -> JobOutcome:
    """Train and evaluate, unless the outcome is there already with all its pictures."""
    experiment, settings, job, out, runs = argument
    data, config, choice = plan_job(experiment, settings, job, runs)
    folder = run_folder(config, data, runs)
    relevant = {name: value for name, value in asdict(settings).items() if name not in NOT_OF_A_JOB}
    key = fingerprint({"settings": relevant, "job": asdict(job), "run": folder.name})
    path = runs / "outcomes" / experiment.name / f"{job.name}-{key}.json"
    outcome = read_outcome(path)
    # Runs of other settings give their pictures the same names.
    if outcome is not None and all(found(picture, out) == picture for picture in outcome.pictures):
        progress(config.length(len(data.train_images))[2])
        return replace(outcome, choice=choice)
    model, ensemble, metrics = train_once(config, data, folder, progress)
    outcome = experiment.evaluate(Subject(job, data, model, ensemble, metrics, settings, out, runs))
    pictures = tuple(found(picture, out) for picture in outcome.pictures)
    names = ("epochs", "train_images", "test_images", "seconds", "images_per_second", "parameters", "threads")
    facts = {name: metrics[name] for name in names}
    outcome = replace(outcome, pictures=pictures, run={**facts, "device": config.device}, choice=choice)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write_text(json.dumps(asdict(outcome))))
    return outcome


def run_folder(config: TrainingConfig, data: ImageData, runs: Path) -> Path:
    """Return the folder of the run with these settings on these data: runs/DATASET/MODEL-seedK-FINGERPRINT."""
    settings = {name: value for name, value in config.to_dict().items() if name not in IRRELEVANT}
    train, test = map(contents, (data.train_images, data.test_images))
    key = fingerprint({**settings, "images": train, "test": test})
    return runs / data.name / f"{config.model}-seed{config.seed}-{key}"


def train_once(
    config: TrainingConfig, data: ImageData, folder: Path, progress: Progress
) -> tuple[LatentVariableModel, ParameterEnsemble | None, dict[str, Any]]:
    """Return the run in a folder, trained now unless it was before: model, samples of its parameters, metrics.json.

    ``progress`` is called with numbers of images, which add up to those of all steps.
    Errors are those of ``ald_ext.training.train``; after TrainingInterrupted the next call resumes.
    """
    if (folder / METRICS).is_file():
        progress(config.length(len(data.train_images))[2])
    else:
        try:
            train(config, folder, data=data, resume=(folder / CHECKPOINT).is_file(), progress=progress)
        except TrainingInterrupted as interruption:
            number = interruption.signal_number
            message = f"{config.model} on {data.name}: stopped by signal {number}; the same command resumes"
            raise TrainingInterrupted(message, number) from interruption
    model, ensemble = trained_model(load_checkpoint(folder / CHECKPOINT, config.device))
    return model.to(config.device), ensemble, json.loads((folder / METRICS).read_text())


def found(picture: Picture, folder: Path) -> Picture:
    """Return the picture with the checksum of the file in the folder; None if there is no file."""
    path = folder / picture.file
    return replace(picture, checksum=zlib.crc32(path.read_bytes()) if path.is_file() else None)


def read_outcome(path: Path) -> JobOutcome | None:
    """Return the outcome in a file; None where there is none, or a damaged one, which is then measured again."""
    try:
        return from_dict(JobOutcome, parse_json(path.read_bytes(), str(path)), str(path))
    except (FileNotFoundError, ValueError):
        return None


def choices_of(outcomes: Mapping[Job, JobOutcome]) -> list[Choice]:
    """Return the choices of settings, each once."""
    found = {(job.dataset, job.model): outcome.choice for job, outcome in outcomes.items() if outcome.choice}
    return list(found.values())


def rows_of(experiment: ImageExperiment, outcomes: Mapping[Job, JobOutcome]) -> list[Row]:
    """Return the rows DATASET/MODEL/METRIC, with one value a seed."""
    parts: dict[tuple[str, str, int], dict[str, dict[str, float]]] = {}
    for job, outcome in outcomes.items():
        parts.setdefault((job.dataset, job.model, job.seed), {})[job.part] = outcome.values
    values: dict[str, list[float]] = {}
    for (dataset, model, _), of_parts in parts.items():
        for metric, value in experiment.summarize(of_parts).items():
            values.setdefault(f"{dataset}/{model}/{metric}", []).append(value)
    values |= experiment.compare(outcomes)
    return [make_row(name, numbers, experiment.paper) for name, numbers in values.items()]
