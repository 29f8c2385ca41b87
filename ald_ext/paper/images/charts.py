"""Charts that several experiments on images draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..pictures import Figure, new_picture
from ..results import Job, distinct
from .experiment import JobOutcome


def bars_by_model(outcomes: Mapping[Job, JobOutcome], paper: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a row of panels a data set, a panel a metric, a bar a model with its standard deviation over the seeds.

    Args:
        outcomes: what the jobs gave.
        paper: the paper's figures of the first metric, drawn as lines.
    """
    datasets, models = distinct(outcomes, "dataset"), distinct(outcomes, "model")
    metrics = list(dict.fromkeys(name for outcome in outcomes.values() for name in outcome.values))
    picture, axes = new_picture(len(datasets), len(metrics), (3.2 * len(metrics), 2.4 * len(datasets)))
    for row, dataset in zip(axes, datasets, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            for place, model in enumerate(models):
                some = [each.values for job, each in outcomes.items() if (job.dataset, job.model) == (dataset, model)]
                if values := [of_job[metric] for of_job in some if metric in of_job]:
                    panel.bar(place, np.mean(values), yerr=np.std(values) if len(values) > 1 else None)
                    printed = paper.get(dataset, {}).get(model) if metric == metrics[0] else None
                    if printed is not None:
                        panel.plot([place - 0.4, place + 0.4], [printed, printed], color="k")
            panel.set_xticks(range(len(models)), models, fontsize=8)
            panel.set_title(f"{dataset}: {metric}" + (" (lines: paper)" if metric == metrics[0] else ""), fontsize=9)
    return picture
