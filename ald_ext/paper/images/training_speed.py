"""Reconstruction error over epochs and over seconds, amortized and not (paper: Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ...training import TrainingConfig
from ..pictures import Figure, new_picture
from ..results import Difference, Job, distinct
from .experiment import ImageExperiment, ImageSettings, JobOutcome, Subject
from .image_generation import COMMON_DIFFERENCES

#: The number of points at which curves are averaged over the seeds.
POINTS = 200


def seconds_to_reach(curves: Mapping[str, Sequence[float]], error: float) -> float:
    """Return when a learning curve first reaches ``error``, linear between epochs and never before the first one."""
    seconds, errors = curves["seconds"], curves["re"]
    for index, reached in enumerate(errors):
        if reached <= error:
            if index == 0:
                return seconds[0]
            part = (errors[index - 1] - error) / (errors[index - 1] - reached)
            return seconds[index - 1] + part * (seconds[index] - seconds[index - 1])
    return math.inf


def draw_band(panel: Any, curves: Sequence[Mapping[str, Sequence[float]]], name: str, label: str) -> None:
    """Draw the mean of several curves over the range that they share, and a band of a standard deviation."""
    begin, end = max(curve[name][0] for curve in curves), min(curve[name][-1] for curve in curves)
    places = np.linspace(begin, end, POINTS)
    values = np.array([np.interp(places, curve[name], curve["re"]) for curve in curves])
    (line,) = panel.plot(places, values.mean(0), label=label)
    low, high = values.mean(0) - values.std(0), values.mean(0) + values.std(0)
    panel.fill_between(places, low, high, alpha=0.3, color=line.get_color())


class TrainingSpeed(ImageExperiment):
    name = "training-speed"
    title = "Reconstruction error over epochs and over seconds: LAE, ABP and DLGM (Figure 6)"
    settings = ImageSettings(datasets=("mnist",), models=("lae", "abp", "dlgm"), test_images=1000)
    quick: ClassVar = {"datasets": ("mnist5k",), "epochs": 2, "train_images": 1000, "test_images": 100}
    differences = (
        *COMMON_DIFFERENCES,
        Difference("data set", "SVHN", "MNIST by default", "--datasets svhn has the paper's"),
        Difference("bands", "standard deviations of three seeds", "the same", "--seeds 3"),
    )
    measures_time = True

    def configure(self, config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
        """Let RE be measured after every epoch."""
        return replace(config, evaluate_every=1)

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Return the learning curve; its seconds are those of training alone, without the evaluations."""
        metrics = subject.metrics
        history = metrics["history"]
        curves = {
            "epoch": [row["epoch"] for row in history],
            "re": [row["test_re"] for row in history],
            "seconds": metrics["seconds_after_epoch"],
        }
        return JobOutcome({"re": metrics["test_re"], "seconds": metrics["seconds"]}, curves=curves)

    def compare(self, outcomes: Mapping[Job, JobOutcome]) -> dict[str, list[float]]:
        """Return the seconds the LAE takes to the RE that ABP and DLGM end with, and their share of the others'.

        There is one value a seed, infinity where the LAE does not reach it. Time is interpolated between epochs.
        """
        rows: dict[str, list[float]] = {}
        for job, outcome in outcomes.items():
            if job.model == "lae":
                continue
            lae = outcomes.get(replace(job, model="lae"))
            if lae is not None:
                seconds = seconds_to_reach(lae.curves, outcome.values["re"])
                name = f"{job.dataset}/lae/seconds_to_re_of_{job.model}"
                rows.setdefault(name, []).append(seconds)
                rows.setdefault(f"{name}_share", []).append(seconds / outcome.values["seconds"])
        return rows

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw RE over epochs and over seconds: means of the seeds, with bands of a standard deviation."""
        datasets = distinct(outcomes, "dataset")
        picture, axes = new_picture(len(datasets), 2, (9, 3.2 * len(datasets)))
        for row, dataset in zip(axes, datasets, strict=True):
            for model in distinct(outcomes, "model"):
                jobs = [job for job in outcomes if (job.dataset, job.model) == (dataset, model)]
                curves = [outcomes[job].curves for job in jobs]
                for panel, name in zip(row, ("epoch", "seconds"), strict=True):
                    draw_band(panel, curves, name, model)
            for panel, name in zip(row, ("epochs", "seconds of training"), strict=True):
                panel.set(xlabel=name, ylabel="test RE", yscale="log", title=f"{dataset}, {len(jobs)} seeds")
                panel.legend()
        return picture
