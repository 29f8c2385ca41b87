"""Charts that several experiments on images draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..pictures import Figure, new_picture
from ..results import Job
from .experiment import JobOutcome


def metrics_of(outcomes: Mapping[Job, JobOutcome]) -> list[str]:
    """Return every metric that a job has, in the order in which they come."""
    return list(dict.fromkeys(name for outcome in outcomes.values() for name in outcome.values))


def datasets_of(outcomes: Mapping[Job, JobOutcome]) -> list[str]:
    """Return every data set, in the order of the jobs."""
    return list(dict.fromkeys(job.dataset for job in outcomes))


def models_of(outcomes: Mapping[Job, JobOutcome]) -> list[str]:
    """Return every model, in the order of the jobs."""
    return list(dict.fromkeys(job.model for job in outcomes))


def values_of(outcomes: Mapping[Job, JobOutcome], dataset: str, model: str, metric: str) -> list[float]:
    """Return a metric of one data set and model, for all seeds and parts."""
    jobs = [job for job in outcomes if (job.dataset, job.model) == (dataset, model)]
    return [outcomes[job].values[metric] for job in jobs if metric in outcomes[job].values]


def bars_by_model(outcomes: Mapping[Job, JobOutcome], paper: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a row of panels a data set, a panel a metric, a bar a model with its standard deviation over the seeds.

    Args:
        outcomes: what the jobs gave.
        paper: the paper's figures of the first metric, drawn as lines.
    """
    datasets, metrics = datasets_of(outcomes), metrics_of(outcomes)
    picture, axes = new_picture(len(datasets), len(metrics), (3.2 * len(metrics), 2.4 * len(datasets)))
    for row, dataset in zip(axes, datasets, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            for place, model in enumerate(models_of(outcomes)):
                values = values_of(outcomes, dataset, model, metric)
                if values:
                    panel.bar(place, np.mean(values), yerr=np.std(values) if len(values) > 1 else None)
                    printed = paper.get(dataset, {}).get(model) if metric == metrics[0] else None
                    if printed is not None:
                        panel.plot([place - 0.4, place + 0.4], [printed, printed], color="k")
            panel.set_xticks(range(len(models_of(outcomes))), models_of(outcomes), fontsize=8)
            panel.set_title(f"{dataset}: {metric}" + (" (lines: paper)" if metric == metrics[0] else ""), fontsize=9)
    return picture
