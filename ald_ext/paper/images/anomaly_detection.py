"""Each class as the normal one, and how well a model's score tells the others from it (paper: Table 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from ...data import ImageData
from ...detection.preparation import standardized
from ...detection.prior import RefittedPrior
from ...models import CLAE, LatentVariableModel
from ...training import TrainingConfig
from ...training.evaluation import values_of_data
from ..pictures import Figure, new_picture
from ..results import Difference, Job, distinct
from .experiment import ImageExperiment, ImageSettings, JobOutcome, Subject, with_options

BATCH_SIZE, WARM_UP, EPOCHS, CONVOLUTIONAL_EPOCHS, HIDDEN_UNITS = 100, 100, 30, 8, 256
#: The number of samples of the parameters, from the second half of the training, that scores are averaged over.
SAMPLES = 3


@dataclass(frozen=True)
class Candidate:
    """Settings that are chosen among: the network, the images and the likelihood.

    Args:
        hidden_layers: those of an MLP, of 256 units each; 0 stands for the convolutional networks.
        latent_dim: number of latent variables.
        standardize: give each image mean 0 and standard deviation 1.
        scale: σ of a Gaussian likelihood; None for the one with its precision integrated out.
    """

    hidden_layers: int
    latent_dim: int
    standardize: bool
    scale: float | None

    @property
    def name(self) -> str:
        """Its name in rows, such as mlp1_16_standardized_marginal."""
        network = f"mlp{self.hidden_layers}" if self.hidden_layers else "conv"
        images = "standardized" if self.standardize else "pixels"
        likelihood = "marginal" if self.scale is None else f"sigma{self.scale}"
        return f"{network}_{self.latent_dim}_{images}_{likelihood}"

    def options(self) -> dict[str, Any]:
        """Return settings of the models."""
        mlp = {"network": "mlp", "hidden_units": HIDDEN_UNITS, "hidden_layers": self.hidden_layers}
        return {
            **(mlp if self.hidden_layers else {}),
            "latent_dim": self.latent_dim,
            "data": "real" if self.standardize else "pixels",
            "decoder_output": "linear" if self.standardize else "tanh",
            **({"likelihood": "marginal-gaussian"} if self.scale is None else {"likelihood": "gaussian"}),
            **({} if self.scale is None else {"scale": self.scale}),
        }


class Choice(NamedTuple):
    """A candidate, and the number of components of the refitted prior."""

    candidate: Candidate
    components: int


#: Settings that were chosen by the figures of test images.
CHOSEN_BY_TEST = {
    model: Choice(Candidate(1, 16, True, 1.0 if model == "vae" else 0.15), 20) for model in ("ae", "vae", "lae", "clae")
}
#: Settings that the search of anomaly-settings chose, without any test image.
CHOSEN = {
    "ae": Choice(Candidate(0, 32, True, None), 40),
    "vae": Choice(Candidate(0, 32, False, None), 40),
    "lae": Choice(Candidate(0, 32, False, None), 40),
    "clae": Choice(Candidate(0, 32, False, None), 40),
}
#: Table 3, for the digits 0 to 9; that the normal class is the positive one is an inference from the figures.
PAPER_AUPRC = {
    "ae": (0.974, 0.996, 0.762, 0.845, 0.863, 0.706, 0.837, 0.952, 0.765, 0.872),
    "vae": (0.971, 0.995, 0.768, 0.837, 0.844, 0.699, 0.845, 0.927, 0.754, 0.874),
    "lae": (0.915, 0.997, 0.749, 0.875, 0.853, 0.844, 0.914, 0.936, 0.779, 0.913),
    "clae": (0.976, 0.862, 0.788, 0.752, 0.915, 0.777, 0.899, 0.790, 0.798, 0.865),
}


def printed_score(model: CLAE, x: Tensor) -> Tensor:
    """Return the score of Eq. 18 as it is printed, with the wrong sign of the energy: -log p(x | z) - E(z)."""
    z = model.encode(x)
    return model.negative_log_likelihood(x, z) - model.energy(z)


def scores_of(subject: Subject, images: Tensor, components: int) -> dict[str, Tensor]:
    """Return the model's scores by the suffix of their rows; the one without a suffix is its score in the table.

    For LAE and CLAE that is the potential with a :class:`RefittedPrior`, averaged over samples of the parameters;
    "_own_prior" is the potential under the model's own prior. For AE and VAE, whose parameters are not sampled, it is
    RE or -ELBO; "_aggregated" is what the refitted prior alone does for them.
    """
    model, ensemble = subject.model, subject.ensemble

    def own(member: LatentVariableModel) -> Tensor:
        return values_of_data(member, images, member.score).double()

    def aggregated(member: LatentVariableModel) -> Tensor:
        return RefittedPrior.fit(member, subject.data.train_images, components).potential(member, images)

    if not ensemble:
        return {"": own(model), "_aggregated": aggregated(model)}
    scores = {
        "": ensemble.mean(model, aggregated),
        "_one_sample": aggregated(model),
        "_own_prior": own(model),
        "_own_prior_averaged": ensemble.mean(model, own),
    }
    if isinstance(model, CLAE):
        scores["_printed_sign"] = values_of_data(model, images, lambda x: printed_score(model, x)).double()
    return scores


def measures(scores: Tensor, normal: Tensor) -> dict[str, float]:
    """Return AUPRC with normal images, whose scores are low, or with anomalies as the positive class, and AUROC."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "auprc_normal": float(average_precision_score(normal.numpy(), -scores.numpy())),
        "auprc_anomaly": float(average_precision_score(~normal.numpy(), scores.numpy())),
        "auroc": float(roc_auc_score(~normal.numpy(), scores.numpy())),
    }


COMMON_DIFFERENCES = (
    Difference(
        "score of LAE and CLAE",
        "the potential",
        "the potential with a prior refitted to posterior samples, averaged over 3 samples of the parameters",
        "AUPRC; rows _own_prior have the model's own, and _aggregated what the refitted prior does for AE and VAE",
    ),
    Difference("Eq. 18", "- f_z(z)", "+ f_z(z)", "p(z) ∝ exp(-f_z(z)); rows _printed_sign have the other"),
    Difference("the positive class", "not named", "both; the paper's figures stand by the normal class", "they fit"),
)


class AnomalyDetection(ImageExperiment):
    name = "anomaly-detection"
    title = "Each digit as the normal class, all others as anomalies (Table 3)"
    settings = ImageSettings(datasets=("mnist",), models=("ae", "vae", "lae", "clae"), epochs=EPOCHS)
    quick: ClassVar = {"datasets": ("mnist5k",), "epochs": 2, "train_images": 1000, "test_images": 500}
    network = f"MLPs of {HIDDEN_UNITS} hidden units with 16 latent variables"
    paper: ClassVar = {
        f"mnist/{model}/auprc_normal{digit}": value
        for model, values in PAPER_AUPRC.items()
        for digit, value in {"": float(np.mean(values)), **{f"_{i}": each for i, each in enumerate(values)}}.items()
    }
    differences: Sequence[Difference] = (
        Difference("networks", "the convolutional ones of Table 2, d_z = 32", "an MLP, d_z = 16", "AUPRC, every model"),
        Difference("images", "as they are", "each with mean 0 and standard deviation 1", "AUPRC, every model"),
        *COMMON_DIFFERENCES,
    )
    choices: ClassVar[Mapping[str, Choice]] = CHOSEN_BY_TEST
    batch_size, samples = BATCH_SIZE, SAMPLES

    def parts(self, data: ImageData) -> tuple[str, ...]:
        """Return the classes of the test images."""
        if data.test_labels is None or data.train_labels is None:
            raise ValueError(
                f"experiment anomaly-detection: datasets: got {data.name}, which has no labels, expected some"
            )
        return tuple(str(label) for label in data.test_labels.unique().tolist())

    def prepare(self, data: ImageData, job: Job) -> ImageData:
        """Return images, standardized if so chosen: the normal class alone to train on, and all classes to test."""
        assert data.train_labels is not None
        images = standardized if self.candidate(job).standardize else Tensor.contiguous
        normal = data.train_labels == int(job.part)
        return replace(
            data,
            train_images=images(data.train_images[normal]),
            train_labels=data.train_labels[normal],
            test_images=images(data.test_images),
            name=f"{data.name}-{job.part}",
        )

    def candidate(self, job: Job) -> Candidate:
        """Return the settings of a job's model."""
        return self.choices[job.model].candidate

    def configure(self, config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
        """Give a model its settings; samples of the parameters are of the second half of the training."""
        batch_size = min(self.batch_size, num_data)
        steps = config.num_epochs * -(-num_data // batch_size)
        options = {
            **self.candidate(job).options(),
            "batch_size": batch_size,
            "warm_up": min(WARM_UP, steps // 4),
            "ensemble_size": self.samples,
            "ensemble_every": max(1, steps // (2 * SAMPLES)),
        }
        return with_options(config, options)

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure AUPRC with either class as the positive one, and AUROC, of every score of the model."""
        assert subject.data.test_labels is not None
        images, normal = subject.data.test_images, subject.data.test_labels == int(subject.job.part)
        components = self.choices[subject.job.model].components
        scores = {suffix: measures(scores, normal) for suffix, scores in scores_of(subject, images, components).items()}
        return JobOutcome({f"{name}{suffix}": value for suffix, of in scores.items() for name, value in of.items()})

    def summarize(self, parts: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the means over the classes, then each class's figures, such as auprc_normal_3."""
        names = list(next(iter(parts.values())))
        means = {name: float(np.mean([values[name] for values in parts.values()])) for name in names}
        return means | {f"{name}_{part}": values[name] for name in names for part, values in parts.items()}

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw AUPRC with the normal class as positive: a group of bars a class, means over the seeds."""
        datasets, models = distinct(outcomes, "dataset"), distinct(outcomes, "model")
        picture, axes = new_picture(len(datasets), 1, (11, 3 * len(datasets)))
        for (panel,), dataset in zip(axes, datasets, strict=True):
            classes = list(dict.fromkeys(job.part for job in outcomes if job.dataset == dataset))
            for index, model in enumerate(models):
                jobs = [job for job in outcomes if (job.dataset, job.model) == (dataset, model)]
                values = [
                    [outcomes[job].values["auprc_normal"] for job in jobs if job.part == part] for part in classes
                ]
                heights = [np.mean(of_class) for of_class in values]
                places = np.arange(len(classes)) + (index - (len(models) - 1) / 2) * 0.8 / len(models)
                panel.bar(places, heights, width=0.8 / len(models), label=f"{model}, mean {np.mean(heights):.3f}")
            panel.set_xticks(range(len(classes)), classes)
            panel.set(xlabel="normal class", ylabel="AUPRC, normal positive", title=dataset)
            panel.legend(ncols=len(models), loc="lower center")
        return picture


class AnomalyDetectionChosen(AnomalyDetection):
    name = "anomaly-detection-chosen"
    title = "The same as anomaly-detection, with the settings that anomaly-settings chose without test images"
    settings = replace(AnomalyDetection.settings, epochs=CONVOLUTIONAL_EPOCHS)
    network = "convolutional networks of width 16 with 32 latent variables"
    differences = (
        Difference("channels", "64", "16", "training time"),
        Difference("images", "as they are", "for the AE each with mean 0 and standard deviation 1", "so chosen"),
        *COMMON_DIFFERENCES,
    )
    choices = CHOSEN
