"""What is to be computed, in the order of its worth, and what has been: campaign.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ald_ext.files import write_json
from ald_ext.paper import IMAGE_EXPERIMENTS, ImageSettings
from ald_ext.paper.images.experiment import JobOutcome, load
from ald_ext.paper.images.runner import write_outcomes
from ald_ext.paper.results import Job
from ald_ext.settings import from_dict, parse_json, require

FILE = "campaign.json"
#: Folders inside that of the training runs.
KEPT = ("speeds", "choices")
#: The experiments, those first that are worth most: Table 2 and Figures 7 and 11 to 14, Table 5, Table 3, Figures 8, 9
#: and 6, which runs alone, because time is what it measures; then what makes samples better.
ORDER = (
    *("image-generation", "denoising", "anomaly-detection", "anomaly-detection-chosen", "dequantization"),
    *("training-speed", "sample-quality"),
)
#: Experiments of one data set, which the paper has on this one, or else the first one at hand.
ONE_DATASET = {
    **dict.fromkeys(("anomaly-detection", "anomaly-detection-chosen"), "mnist"),
    **dict.fromkeys(("dequantization", "training-speed"), "svhn"),
}
#: Experiments with parts, whose training has a length of its own and whose settings are fixed.
OWN_SETTINGS = ("anomaly-detection", "anomaly-detection-chosen", "dequantization", "sample-quality")


@dataclass(frozen=True)
class Task:
    """A job of an experiment."""

    experiment: str
    job: Job

    @property
    def name(self) -> str:
        """The task's name in campaign.json and in messages."""
        return f"{self.experiment}/{self.job.name}"


@dataclass
class Campaign:
    """What campaign.json holds.

    Attributes:
        settings: those that all runs of the campaign share, in plain values.
        versions: of the run that came last.
        seconds: how long all runs took together.
        jobs_at_once: images per second of all jobs together, by the device's name and the number of jobs side by side.
        outcomes: by the task's name.
        failed: the error of each task that failed, by its name.
        kept: what files of the folder of training runs hold that another machine needs, by their paths: the speeds that
            were measured, and the settings that were chosen.
    """

    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    jobs_at_once: dict[str, dict[str, float]] = field(default_factory=dict)
    outcomes: dict[str, JobOutcome] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keep(self, runs: Path) -> None:
        """Take over what is in the files of a folder of training runs."""
        for path in sorted(path for folder in KEPT for path in (runs / folder).glob("*.json")):
            self.kept[path.relative_to(runs).as_posix()] = parse_json(path.read_bytes(), str(path))

    def restore(self, runs: Path) -> None:
        """Write the files that are not there."""
        for name, contents in self.kept.items():
            path = runs / name
            require(Path(name).parent.as_posix() in KEPT, f"{FILE}: kept", name, f"a file in {' or '.join(KEPT)}")
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, contents)

    def save(self, folder: Path) -> None:
        """Write campaign.json into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Campaign:
        """Return what a folder's campaign.json holds. ValueError, which names it, where it is missing or damaged."""
        path = folder / FILE
        require(path.is_file(), str(path), "no such file", "that of an earlier `make results-gpu`")
        return from_dict(cls, parse_json(path.read_bytes(), str(path)), str(path))

    def add(self, other: Campaign, source: Path, folder: Path) -> list[str]:
        """Take over the outcomes that are not there yet, with their pictures, and return their tasks' names."""
        differing = [
            key for key in self.settings if json.dumps(self.settings[key]) != json.dumps(other.settings.get(key))
        ]
        for key in differing:
            expected = f"{self.settings[key]}, as in {folder}; or another --out"
            require(False, f"merge {source}: {key}", other.settings.get(key), expected)
        new = [name for name in other.outcomes if name not in self.outcomes]
        for name in new:
            self.outcomes[name] = other.outcomes[name]
            self.failed.pop(name, None)
            for picture in other.outcomes[name].pictures:
                place = Path(name).parent / picture.file
                is_own = place.parent.as_posix() in ORDER and place.name == picture.file
                require(is_own, f"merge {source}: picture", str(place), "a file in the folder of an experiment")
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / place, folder / place)
        self.failed |= {name: error for name, error in other.failed.items() if name not in self.outcomes}
        self.jobs_at_once |= other.jobs_at_once
        self.kept = other.kept | self.kept
        self.seconds += other.seconds
        return new


def plan(settings: Mapping[str, ImageSettings], num_seeds: int) -> list[Task]:
    """Return all tasks, the first seed of everything first."""
    first = [
        Task(name, Job(dataset, model, 0, part))
        for name in ORDER
        if name in settings
        for dataset in settings[name].sources
        for parts in [IMAGE_EXPERIMENTS[name].parts(load(dataset, settings[name]))]
        for model in settings[name].models
        for part in parts
        if IMAGE_EXPERIMENTS[name].has_job(model, part)
    ]
    return [replace(task, job=replace(task.job, seed=seed)) for seed in range(num_seeds) for task in first]


def settings_of(
    datasets: Mapping[str, str], names: Iterable[str], quick: bool, **changes: Any
) -> dict[str, ImageSettings]:
    """Return the settings of the experiments by name.

    Args:
        datasets: what ``load_dataset`` takes, by the data set's name in rows.
        names: of experiments.
        quick: whether they are those of a smoke test, but for the data sets.
        changes: settings that are not the experiments' own.
    """
    found = {}
    for name in names:
        chosen = (
            [ONE_DATASET[name] if ONE_DATASET[name] in datasets else next(iter(datasets))]
            if name in ONE_DATASET
            else [*datasets]
        )
        if ONE_DATASET.get(name) == "mnist":
            chosen = [dataset for dataset in chosen if dataset.split("-")[0] in ("mnist", "mnist5k")]
        experiment = IMAGE_EXPERIMENTS[name]
        own = {**(experiment.quick if quick else {}), **changes}
        if name in OWN_SETTINGS:
            own = {setting: value for setting, value in own.items() if setting not in ("seconds", "candidates")}
        elif own.get("seconds"):
            own.pop("epochs", None)
        sources = tuple(f"{dataset}={datasets[dataset]}" for dataset in chosen)
        if sources:
            found[name] = replace(experiment.settings, **{**own, "datasets": sources})
    return found


def write_results(
    campaign: Campaign, settings: Mapping[str, ImageSettings], tasks: Iterable[Task], folder: Path
) -> list[str]:
    """Write results.json of each experiment from the outcomes so far, and return a line of each: how many there are.

    What has several parts, such as the digits of anomaly detection, is left out until all parts of it are there.
    """
    by_experiment: dict[str, list[Task]] = {}
    for task in tasks:
        by_experiment.setdefault(task.experiment, []).append(task)
    lines = []
    for name, of_experiment in by_experiment.items():
        missing = {replace(task.job, part="") for task in of_experiment if task.name not in campaign.outcomes}
        whole = [task for task in of_experiment if replace(task.job, part="") not in missing]
        done = sum(task.name in campaign.outcomes for task in of_experiment)
        lines.append(f"{name}: {done} of {len(of_experiment)} jobs")
        if whole:
            outcomes = {task.job: campaign.outcomes[task.name] for task in whole}
            (folder / name).mkdir(parents=True, exist_ok=True)
            seconds = sum(outcome.run["seconds"] for outcome in outcomes.values())
            write_outcomes(
                IMAGE_EXPERIMENTS[name],
                settings[name],
                outcomes,
                folder / name,
                campaign.versions,
                seconds=round(seconds, 1),
                quick=campaign.settings["quick"],
            )
    return lines
