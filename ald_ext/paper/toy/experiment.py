"""What the toy experiments have in common: presets, seeds, rows and the picture."""

from __future__ import annotations

import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from ...progress import progress_bar
from ...settings import require
from ...threads import number_of_threads
from ..pictures import Figure, save_picture
from ..results import Difference, Picture, Results, make_row, versions, write_results
from ..workers import Progress, run_all

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
        values: a number for each row.
        drawn: what the picture is drawn from.
    """

    values: dict[str, float]
    drawn: dict[str, Any] = field(default_factory=dict)


class Experiment(ABC, Generic[Settings]):
    """A toy experiment of the paper.

    Attributes:
        name: on the command line.
        title: one line.
        presets: settings by name; "default" is one of them, and "paper" where the paper prints its settings.
        quick: changes of the settings with which a seed takes seconds.
        differences: from the paper, by preset.
        paper: the paper's figures by row.
        measures_time: whether seeds are never run side by side, because time is what is measured.
    """

    name: str
    title: str
    presets: ClassVar[Mapping[str, Any]]
    quick: ClassVar[Mapping[str, Any]]
    differences: ClassVar[Mapping[str, Sequence[Difference]]]
    paper: ClassVar[Mapping[str, float]] = {}
    measures_time: bool = False

    @abstractmethod
    def units(self, settings: Settings) -> int:
        """Return the number of steps of one seed, for the progress bar."""

    @abstractmethod
    def run_seed(self, settings: Settings, seed: int, progress: Progress) -> Outcome:
        """Run one seed."""

    @abstractmethod
    def draw(self, settings: Settings, outcomes: Sequence[Outcome]) -> Figure:
        """Draw the outcomes of all seeds."""


def run_experiment(
    experiment: Experiment[Any],
    out: Path,
    *,
    preset: str = "default",
    quick: bool = False,
    num_seeds: int = 5,
    num_workers: int = 1,
) -> Results:
    """Run the seeds 0, 1, … with a progress bar, and write results.json and NAME.png.

    Args:
        experiment: which.
        out: the folder of the results.
        preset: a name of ``experiment.presets``.
        quick: make it a smoke test.
        num_seeds: how many seeds.
        num_workers: seeds side by side, in processes of one thread each. With several, the calling script must be
            importable, with its work under ``if __name__ == "__main__"``.

    Raises:
        ValueError: an unknown preset, or no seed.
    """
    owner, presets = f"experiment {experiment.name}", experiment.presets
    require(preset in presets, f"{owner}: preset", repr(preset), f"one of {', '.join(presets)}")
    require(num_seeds >= 1, f"{owner}: seeds", num_seeds, ">= 1")
    settings = replace(presets[preset], **(experiment.quick if quick else {}))
    out.mkdir(parents=True, exist_ok=True)
    num_workers = 1 if experiment.measures_time else min(num_workers, num_seeds)
    begin = time.perf_counter()
    total = experiment.units(settings) * num_seeds
    with progress_bar(total=total, desc=experiment.name, unit="step") as bar:
        jobs = [(experiment, settings, seed) for seed in range(num_seeds)]
        # One thread also in this process, so that a seed gives the same as in a worker; the tensors are small.
        with number_of_threads(torch.get_num_threads() if experiment.measures_time else 1):
            outcomes = [pickle.loads(outcome) for outcome in run_all(run_seed, jobs, num_workers, bar)]
    file = f"{experiment.name}.png"
    results = Results(
        experiment=experiment.name,
        quick=quick,
        settings=asdict(settings),
        differences=list(experiment.differences[preset]),
        versions=versions(num_workers, one_thread=not experiment.measures_time),
        seconds=round(time.perf_counter() - begin, 1),
        rows=[
            make_row(name, [outcome.values[name] for outcome in outcomes], experiment.paper)
            for name in outcomes[0].values
        ],
        pictures=[Picture(file, experiment.title)],
        preset=preset,
        folder=out,
    )
    save_picture(experiment.draw(settings, outcomes), out / file)
    write_results(results)
    return results


def run_seed(job: tuple[Experiment[Any], Any, int], progress: Progress) -> bytes:
    """Run one seed, and return its outcome pickled: tensors that go to another process as they are take file
    descriptors along, which end with their own process."""
    experiment, settings, seed = job
    torch.manual_seed(seed)
    return pickle.dumps(experiment.run_seed(settings, seed, progress))
