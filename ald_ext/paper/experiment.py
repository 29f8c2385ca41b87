"""What every experiment has in common: presets, seeds, rows, the JSON file and the picture."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch

from ..files import write_atomically
from ..threads import number_of_threads
from ..version import __version__
from .workers import Progress, run_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Difference:
    """A setting that is not the paper's, and why."""

    setting: str
    paper: str
    ours: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What one seed gave: a number for each row, and whatever the picture needs."""

    values: dict[str, float]
    picture: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment(Generic[Settings]):
    """An experiment of the paper.

    Attributes:
        name: on the command line.
        title: one line.
        presets: settings by name; "default" is one of them, and "paper" where the paper prints its settings.
        quick: the same settings, cut down to run in seconds.
        units: of work in one seed, for the progress bar.
        run_seed: one seed.
        draw: the picture of the outcomes of all seeds.
        paper: the paper's number by row.
        differences: from the paper, by preset.
        measures_time: so that seeds must not run side by side.
    """

    name: str
    title: str
    presets: Mapping[str, Settings]
    quick: Callable[[Settings], Settings]
    units: Callable[[Settings], int]
    run_seed: Callable[[Settings, int, Progress], Outcome]
    draw: Callable[[Settings, Sequence[Outcome]], Figure]
    paper: Mapping[str, float]
    differences: Mapping[str, Sequence[Difference]]
    measures_time: bool = False


def run_experiment(
    experiment: Experiment[Any],
    out: Path,
    *,
    preset: str = "default",
    quick: bool = False,
    num_seeds: int = 5,
    num_workers: int = 1,
) -> dict[str, Any]:
    """Runs the seeds 0, 1, …, with a progress bar; writes results.json and <name>.png in ``out``; returns the former.

    With ``num_workers`` > 1 seeds run side by side, in processes of one thread each; the calling script must then be
    importable, with its work under ``if __name__ == "__main__"``.

    results.json: experiment, preset, quick, settings, differences, versions, seconds, rows; a row has name, paper (the
    paper's number or null), mean, standard_error (over the seeds; null for one seed), values (one a seed).

    Raises:
        ValueError: an unknown preset, or no seed.
    """
    if preset not in experiment.presets:
        expected = ", ".join(experiment.presets)
        raise ValueError(f"experiment {experiment.name}: preset: got {preset!r}, expected one of {expected}")
    if num_seeds < 1:
        raise ValueError(f"experiment {experiment.name}: seeds: got {num_seeds}, expected >= 1")
    settings = experiment.presets[preset]
    settings = experiment.quick(settings) if quick else settings
    out.mkdir(parents=True, exist_ok=True)
    num_workers = 1 if experiment.measures_time else min(num_workers, num_seeds)
    begin = time.perf_counter()
    outcomes = run_seeds(experiment, settings, num_seeds, num_workers)
    results = {
        "experiment": experiment.name,
        "preset": preset,
        "quick": quick,
        "settings": asdict(settings),
        "differences": [asdict(difference) for difference in experiment.differences[preset]],
        "versions": versions(num_workers, one_thread=not experiment.measures_time),
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": make_rows(outcomes, experiment.paper),
    }
    figure = experiment.draw(settings, outcomes)
    write_atomically(out / f"{experiment.name}.png", lambda file: figure.savefig(file, format="png", dpi=120))
    write_atomically(out / "results.json", lambda file: file.write_text(json.dumps(results, indent=2) + "\n"))
    return results


def run_seeds(experiment: Experiment[Any], settings: Any, num_seeds: int, num_workers: int) -> list[Outcome]:
    from tqdm import tqdm

    total = experiment.units(settings) * num_seeds
    with tqdm(total=total, desc=experiment.name, unit="step", mininterval=0.5) as bar:
        jobs = [(experiment.run_seed, settings, seed) for seed in range(num_seeds)]
        # Of one thread in this process, too: a seed gives the same, and tensors are small.
        with number_of_threads(torch.get_num_threads() if experiment.measures_time else 1):
            return [as_tensors(outcome) for outcome in run_all(run_seed_without_tensors, jobs, num_workers, bar)]


def run_seed(run: Callable[[Any, int, Progress], Outcome], settings: Any, seed: int, progress: Progress) -> Outcome:
    torch.manual_seed(seed)
    return run(settings, seed, progress)


def run_seed_without_tensors(
    job: tuple[Callable[[Any, int, Progress], Outcome], Any, int], progress: Progress
) -> Outcome:
    outcome = run_seed(*job, progress)
    return replace(outcome, picture=map_leaves(outcome.picture, torch.Tensor, torch.Tensor.numpy))


def as_tensors(outcome: Outcome) -> Outcome:
    return replace(outcome, picture=map_leaves(outcome.picture, np.ndarray, torch.from_numpy))


def map_leaves(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Tensors cross from process to process as arrays: torch would lend its file descriptors, which end with it."""
    if isinstance(value, dict):
        return {key: map_leaves(item, kind, function) for key, item in value.items()}
    return function(value) if isinstance(value, kind) else value


def make_rows(outcomes: Sequence[Outcome], paper: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row a name, in the order in which the outcomes name them."""
    return [make_row(name, [outcome.values[name] for outcome in outcomes], paper) for name in outcomes[0].values]


def make_row(name: str, values: Sequence[float], paper: Mapping[str, float]) -> dict[str, Any]:
    """name, paper, mean, standard_error and values, one a seed."""
    known = len(values) > 1 and all(map(math.isfinite, values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if known else None
    row = {"mean": float(np.mean(values)), "standard_error": error, "values": list(values)}
    return {"name": name, "paper": paper.get(name), **{key: finite(value) for key, value in row.items()}}


def finite(value: Any) -> Any:
    """None for what JSON has no number for: a sampler that diverged."""
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value if value is not None and math.isfinite(value) else None


def versions(num_workers: int, one_thread: bool = False) -> dict[str, str]:
    """Workers are processes of one thread."""
    return {
        "ald_ext": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(1 if one_thread or num_workers > 1 else torch.get_num_threads()),
        "workers": str(num_workers),
    }


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """A figure that belongs to no window, and its axes as a rows x columns array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
