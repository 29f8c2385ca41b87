"""What makes samples better: variants of models and of their training, compared without test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ...data import ImageData
from ...metrics import GaussianAccumulator, to_uint8
from ...models import LatentVariableModel, MixturePrior
from ...training import TrainingConfig
from ...training.evaluation import values_of_data
from ..pictures import Figure, new_picture
from ..results import Difference, Job, distinct
from . import experiment
from .experiment import ImageSettings, JobOutcome, Subject, with_options
from .image_generation import (
    COLUMNS,
    COMPONENTS,
    ImageGeneration,
    extremes,
    features_and_distance,
    generate,
    refitted_images,
)

#: The variant that has the settings of image-generation.
USUAL = "usual"
#: These settings are multiples in variants: chains of the number of data, the others of the usual value.
MULTIPLES = ("batch_size", "chains", "epochs", "lr")
GAUSSIAN = {"likelihood": "gaussian", "scale": 0.25}
#: The paper's form, as far as it is printed.
PAPER_FORM = {"decoder_output": "linear", "prior_eps": None, "initial_spread": None, "momentum": 0.0}
#: Settings by variant and model.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    USUAL: {"vae": {}, "abp": {}, "lae": {}, "clae": {}},
    "paper": {
        "lae": PAPER_FORM | {"encoder_temperature": 1.0},
        "clae": PAPER_FORM | {"sampler_inputs": 8, "energy_smoothness": 0.0},
    },
    "gaussian-likelihood": {"vae": GAUSSIAN, "abp": GAUSSIAN, "lae": GAUSSIAN},
    "large-batch": {"lae": {"batch_size": 4, "lr": 2}, "clae": {"batch_size": 4, "lr": 2}},
    "long": {"vae": {"epochs": 3}, "lae": {"epochs": 3}, "clae": {"epochs": 3}},
    "energy-256": {"clae": {"energy_units": 256}},
    "energy-512": {"clae": {"energy_units": 512}},
    "chains-10n": {"clae": {"chains": 10}},
    "spectral": {"clae": {"spectral_normalization": True, "energy_smoothness": 0.0}},
}
#: Samples of the parameters, from the last quarter of the training, whose mean is tried.
SAMPLES = 10
#: The part of the training images that is held out: one in so many, the last ones.
HELD_OUT = 10
#: The neighbours of a real image's features within which a sample covers it.
NEIGHBOURS = 5
#: Rows of samples in a picture.
SAMPLE_ROWS = 2


def coverage(real: Tensor, generated: Tensor) -> float:
    """Return the share of real features (n, d) with a generated one among their neighbours (Naeem et al. 2020).

    A neighbour is no farther than the fifth of the other real ones.
    """
    others = min(NEIGHBOURS, len(real) - 1)
    radii = torch.cdist(real, real).kthvalue(1 + others, dim=1).values  # the first is the feature itself
    return (torch.cdist(real, generated).amin(1) <= radii).double().mean().item()


def row_of(job: Job) -> str:
    """Return the name of a job's variant in tables, such as "clae" or "clae energy-256"."""
    return job.model if job.part == USUAL else f"{job.model} {job.part}"


class SampleQuality(ImageGeneration):
    name = "sample-quality"
    title = "What makes samples better: variants, measured on training images that are held out"
    settings = ImageSettings(
        datasets=("mnist", "cifar10", "celeba"), models=("vae", "abp", "lae", "clae"), frechet_samples=2000
    )
    quick: ClassVar = {**ImageGeneration.quick, "models": ("lae",)}
    paper: ClassVar = {}
    differences = (
        *ImageGeneration.differences,
        Difference("images that are held out", "test images", "the last tenth of the training images", "to choose by"),
    )
    needs_statistics = False

    def parts(self, data: ImageData) -> tuple[str, ...]:
        """Return the names of the variants."""
        return tuple(VARIANTS)

    def has_job(self, model: str, part: str) -> bool:
        """Return whether there is the variant of the model."""
        return model in VARIANTS[part]

    def prepare(self, data: ImageData, job: Job) -> ImageData:
        """Return the training images in two parts, the second in the place of the test images."""
        count = max(2, len(data.train_images) // HELD_OUT)
        images = data.train_images
        return replace(
            data, train_images=images[:-count], train_labels=None, test_images=images[-count:], test_labels=None
        )

    def configure(self, config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
        """Apply the variant, and keep samples of the parameters from the last quarter of the training."""
        config = super().configure(config, job, num_data)
        usual = {**vars(config), "epochs": config.num_epochs, "chains": num_data}
        options = {
            name: value * usual[name] if name in MULTIPLES else value
            for name, value in VARIANTS[job.part][job.model].items()
        }
        if "batch_size" in options:
            options["batch_size"] = min(options["batch_size"], num_data)
        if "epochs" in options:
            options["evaluate_every"] = options["epochs"]
        config = with_options(config, options)
        steps = config.num_epochs * -(-num_data // config.batch_size)
        return replace(config, ensemble_size=SAMPLES, ensemble_every=max(1, steps // (4 * SAMPLES)))

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure RE, coverage, and Fréchet distances between images that are held out and samples of all kinds."""
        model, settings = subject.model, subject.settings
        held_out, training = subject.data.test_images[: settings.frechet_images], subject.data.train_images
        extractor, count = experiment.extractor_of(settings), settings.frechet_samples
        accumulator = GaussianAccumulator()
        accumulator.update(features := torch.cat([extractor(batch).cpu() for batch in held_out.split(100)]))
        real, metric = accumulator.statistics(), extractor.metric
        z = values_of_data(model, training[: refitted_images(model)], model.sample_posterior).to(settings.device)
        samples = {
            "": generate(model, count),
            "_refitted": generate(model, count, MixturePrior.fit(z, COMPONENTS)),
            "_one_gaussian": generate(model, count, MixturePrior.fit(z, 1)),
            "_of_reconstructions": to_uint8(values_of_data(model, held_out, model.reconstruct)),
        }
        if subject.ensemble:
            averaged = AveragedModel(model)
            for member in subject.ensemble.members(model):
                averaged.update_parameters(member)
            assert isinstance(averaged.module, LatentVariableModel)
            samples["_averaged"] = generate(averaged.module, count)
        values = {"re": subject.metrics["test_re"]}
        shown = [model.to_brightness(held_out[:COLUMNS]), model.to_brightness(samples["_of_reconstructions"][:COLUMNS])]
        for suffix, images in samples.items():
            of_samples, values[f"{metric}{suffix}"] = features_and_distance(images, real, extractor)
            if suffix in ("", "_refitted"):
                values[f"coverage{suffix}"] = coverage(features, of_samples)
                shown += [model.to_brightness(images[extremes(of_samples, real, SAMPLE_ROWS)])]
        caption = (
            "a row of images that were held out and one of their reconstructions; two rows of samples as they came, a "
            f"row of the {COLUMNS} best and one of the {COLUMNS} worst of {count}; the same from the refitted prior"
        )
        return JobOutcome(values, (subject.save_picture(shown, COLUMNS, caption),))

    def summarize(self, parts: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return nothing, as each variant has a row of its own among those of :meth:`compare`."""
        return {}

    def compare(self, outcomes: Mapping[Job, JobOutcome]) -> dict[str, list[float]]:
        """Return the rows DATASET/MODEL VARIANT/METRIC, with one value a seed."""
        rows: dict[str, list[float]] = {}
        for job, outcome in outcomes.items():
            for metric, value in outcome.values.items():
                rows.setdefault(f"{job.dataset}/{row_of(job)}/{metric}", []).append(value)
        return rows

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw a panel a data set: the Fréchet distance of every variant's samples, from both priors."""
        datasets, names = distinct(outcomes, "dataset"), list(dict.fromkeys(map(row_of, outcomes)))
        picture, axes = new_picture(1, len(datasets), (4 * len(datasets), 0.8 + 0.24 * len(names)), sharey=True)
        for panel, dataset in zip(axes[0], datasets, strict=True):
            jobs = [job for job in outcomes if job.dataset == dataset]
            metric = next(name for name in outcomes[jobs[0]].values if name not in ("re", "coverage"))
            for suffix, marker, label in (("", "o", "own prior"), ("_refitted", "x", "refitted prior")):
                values = [outcomes[job].values[metric + suffix] for job in jobs]
                panel.plot(values, [names.index(row_of(job)) for job in jobs], marker, label=label)
            panel.set_yticks(range(len(names)), names, fontsize=8)
            panel.set(title=dataset, xlabel="Fréchet distance of samples")
            panel.grid(axis="y", alpha=0.3)
            panel.set_xlim(left=0)
        axes[0][0].invert_yaxis()
        axes[0][0].legend(fontsize=8)
        return picture
