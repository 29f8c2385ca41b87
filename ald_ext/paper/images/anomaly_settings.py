"""Settings of anomaly detection, chosen on held-out images of the normal class and synthetic anomalies made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...data import ImageData
from ...detection.preparation import standardized
from ...detection.prior import RefittedPrior
from ...detection.synthetic import synthetic_anomalies
from ...training.evaluation import values_of_data
from ..pictures import Figure, new_picture
from ..results import Difference, Job, distinct
from .anomaly_detection import AnomalyDetection, Candidate, measures
from .experiment import ImageSettings, JobOutcome, Subject

#: Layers, latent variables and σ of the networks, of which the first are the paper's.
NETWORKS = ((0, 32, None), *product((1,), (8, 16, 32), (None, 0.2)))
CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate(layers, latent_dim, standardize, scale)
        for (layers, latent_dim, scale), standardize in product(NETWORKS, (False, True))
    )
}
#: Components of a refitted prior by the name of its score; "own" is the model's own one.
SCORES = {"own": 0, "refitted1": 1, "refitted5": 5, "refitted20": 20, "refitted40": 40}
#: The classes that are the normal one in turn: every third, counted from the second.
CLASSES = slice(1, None, 3)
#: The last images of the normal class are held out, the first ones trained on.
HELD_OUT, TRAINED, EPOCHS, BATCH_SIZE = 200, 2000, 8, 40


class AnomalySettings(AnomalyDetection):
    name = "anomaly-settings"
    title = "Settings of anomaly detection, chosen on synthetic anomalies made of held-out images of the normal class"
    settings = ImageSettings(datasets=("mnist",), models=("ae", "vae", "lae", "clae"), epochs=EPOCHS)
    quick: ClassVar = {"datasets": ("mnist5k",), "models": ("lae",), "epochs": 1, "train_images": 1000}
    network = f"convolutional networks of width 16 and MLPs, {TRAINED:,} images of a class at most"
    paper: ClassVar = {}
    differences = (Difference("settings of Table 3", "not told how chosen", "chosen here, without test images", ""),)
    batch_size = BATCH_SIZE
    samples = 0

    def parts(self, data: ImageData) -> tuple[str, ...]:
        """Return each candidate with each of some classes."""
        classes = super().parts(data)[CLASSES]
        return tuple(f"{name}-{label}" for name in CANDIDATES for label in classes)

    def candidate(self, job: Job) -> Candidate:
        return CANDIDATES[job.part.rpartition("-")[0]]

    def prepare(self, data: ImageData, job: Job) -> ImageData:
        """Return images of the normal class to train on, and as the test others with synthetic anomalies of them."""
        assert data.train_labels is not None
        label = int(job.part.rpartition("-")[2])
        normal = data.train_images[data.train_labels == label]
        count = min(HELD_OUT, len(normal) // 4)
        held_out, trained = normal[-count:], normal[:-count][:TRAINED]
        anomalies = torch.cat([*synthetic_anomalies(held_out, trained[:500], seed=label).values()])
        labels = torch.cat([torch.full((count,), label), torch.full((len(anomalies),), -1)])
        images = standardized if self.candidate(job).standardize else Tensor.contiguous
        return replace(
            data,
            train_images=images(trained),
            train_labels=torch.full((len(trained),), label),
            test_images=images(torch.cat([held_out, anomalies])),
            test_labels=labels,
            name=f"{data.name}-{label}",
        )

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure AUPRC with the normal class as positive of every score."""
        assert subject.data.test_labels is not None
        model, images = subject.model, subject.data.test_images
        normal = subject.data.test_labels >= 0
        values = {}
        for name, components in SCORES.items():
            if components:
                scores = RefittedPrior.fit(model, subject.data.train_images, components).potential(model, images)
            else:
                scores = values_of_data(model, images, model.score).double()
            values[name] = measures(scores, normal)["auprc_normal"]
        return JobOutcome(values)

    def summarize(self, parts: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return none: see ``compare``, whose rows have the candidates in the place of the models."""
        return {}

    def compare(self, outcomes: Mapping[Job, JobOutcome]) -> dict[str, list[float]]:
        """Return rows DATASET/CANDIDATE SCORE/validation_auprc_MODEL: means over the classes, one a seed."""
        values: dict[tuple[str, str, str, str], dict[int, list[float]]] = {}
        for job, outcome in outcomes.items():
            for score, value in outcome.values.items():
                row = (job.dataset, job.part.rpartition("-")[0], score, job.model)
                values.setdefault(row, {}).setdefault(job.seed, []).append(value)
        return {
            f"{dataset}/{candidate} {score}/validation_auprc_{model}": [float(np.mean(each)) for each in seeds.values()]
            for (dataset, candidate, score, model), seeds in sorted(values.items(), key=lambda item: item[0][:3])
        }

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw the rows of ``compare``, means over the seeds: a panel a model, the best in bold."""
        rows = {name: float(np.mean(seeds)) for name, seeds in self.compare(outcomes).items()}
        datasets, models = distinct(outcomes, "dataset"), distinct(outcomes, "model")
        picture, axes = new_picture(len(datasets), len(models), (3 * len(models) + 2, 4.4 * len(datasets)))
        for row, dataset in zip(axes, datasets, strict=True):
            for panel, model in zip(row, models, strict=True):
                metric = f"validation_auprc_{model}"
                names = [f"{dataset}/{each} {score}/{metric}" for each in CANDIDATES for score in SCORES]
                table = np.array([rows[name] for name in names]).reshape(len(CANDIDATES), len(SCORES))
                panel.imshow(table, aspect="auto")
                for (place, score), value in np.ndenumerate(table):
                    look = {"weight": "bold" if value == table.max() else "normal", "size": 6}
                    color = "k" if value > (table.min() + table.max()) / 2 else "w"
                    panel.text(score, place, f"{value:.3f}", ha="center", va="center", color=color, **look)
                panel.set_xticks(range(len(SCORES)), SCORES, rotation=40, ha="right", fontsize=7)
                panel.set_yticks(range(len(CANDIDATES)), CANDIDATES if panel is row[0] else [], fontsize=7)
                panel.set_title(f"{dataset}: {model}", fontsize=9)
        return picture


def best(rows: Mapping[str, float], model: str, names: Collection[str] = CANDIDATES) -> tuple[str, str]:
    """Return the candidate, of some, and the score with the largest row of ``compare`` for a model."""
    found = {}
    for row, value in rows.items():
        _, middle, metric = row.split("/")
        candidate, _, score = middle.partition(" ")
        if metric == f"validation_auprc_{model}" and candidate in names:
            found[candidate, score] = value
    return max(found, key=found.__getitem__)
