"""Reconstruction error and sample quality of every model (paper: Table 2, Figures 7 and 11 to 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...metrics import FeatureExtractor, GaussianAccumulator, GaussianStatistics, frechet_distance, to_uint8
from ...models import LatentVariableModel, MixturePrior
from ...training import TrainingConfig
from ...training.evaluation import EVALUATION_BATCH, averaged_reconstruction_error, evaluating, values_of_data
from ...training.pictures import pair_up
from ..results import Difference, Job, Picture
from . import experiment
from .experiment import ImageExperiment, ImageSettings, JobOutcome, Subject, with_options

#: Table 2: RE.
PAPER_RE = {
    "bmnist": {"vae": 108.3, "abp": 185.9, "dlgm": 106.9, "lae": 108.4, "clae": 40.54},
    "mnist": {"vae": 0.01653, "abp": 0.01884, "dlgm": 0.01634, "lae": 0.01860, "clae": 0.00294},
    "svhn": {"vae": 0.01019, "abp": 0.02144, "dlgm": 0.01025, "lae": 0.009903, "clae": 0.00352},
    "cifar10": {"vae": 0.02587, "abp": 0.03078, "dlgm": 0.02563, "lae": 0.02654, "clae": 0.01408},
    "celeba": {"vae": 0.02129, "abp": 0.02416, "dlgm": 0.02124, "lae": 0.02303, "clae": 0.00919},
}
#: Table 2: FID.
PAPER_FID = {
    "svhn": {"vae": 167.6, "abp": 292.6, "dlgm": 136.3, "lae": 134.1, "clae": 91.11},
    "cifar10": {"vae": 249.0, "abp": 304.6, "dlgm": 262.8, "lae": 241.6, "clae": 223.9},
    "celeba": {"vae": 123.6, "abp": 172.4, "dlgm": 108.2, "lae": 111.1, "clae": 86.4},
}


#: Images in a row of the pictures; rows of pairs, of samples as they come, of the best, and of the worst.
COLUMNS, PAIR_ROWS, SAMPLE_ROWS, EXTREME_ROWS = 10, 2, 4, 1
#: Seed of the prior's draws, the same for every model.
DRAWING_SEED = 0
#: Gaussians of a refitted prior, and the training images that it is fitted to: fewer where inference is slow.
COMPONENTS, REFITTED_IMAGES, FEWER_REFITTED_IMAGES = 10, 10_000, {"abp": 2000, "dlgm": 5000}

CAPTION = "two rows of test images, each above its reconstructions"
CAPTION_OF_SAMPLES = {
    "": (
        "; four rows of samples as they came; a row of the {columns} best and one of the {columns} worst of {count} "
        "samples, by the Mahalanobis distance of their features from the mean of real images' features"
    ),
    "_refitted": "; the same of {count} samples from the refitted prior",
}


def paper_rows(table: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    """Return a table of the paper by the names of rows."""
    return {f"{dataset}/{model}/{metric}": value for dataset, row in table.items() for model, value in row.items()}


def typical_first(features: Tensor, real: GaussianStatistics) -> Tensor:
    """Return the indices of features (n, d), the most typical first.

    They are ordered by (f - μ)ᵀ (C + c I)⁻¹ (f - μ), with mean μ and covariance C of real images' features. c is their
    mean variance, without which directions in which real images hardly vary would decide everything.
    """
    offset = features.double().cpu() - real.mean
    ridge = real.covariance.diagonal().mean() * torch.eye(len(real.mean), dtype=torch.float64)
    return (offset @ torch.linalg.inv(real.covariance + ridge) * offset).sum(1).argsort()


def extremes(features: Tensor, real: GaussianStatistics, rows: int) -> Tensor:
    """Return indices of samples for rows of a picture: the first ones, then the most and the least typical."""
    order, extreme = typical_first(features, real), COLUMNS * EXTREME_ROWS
    chosen = torch.cat([torch.arange(COLUMNS * rows), order[:extreme], order[-extreme:]])
    return chosen[chosen < len(features)]


def refitted_images(model: LatentVariableModel) -> int:
    """Return to how many training images a model's prior is refitted at most."""
    return FEWER_REFITTED_IMAGES.get(model.name, REFITTED_IMAGES)


def generate(model: LatentVariableModel, count: int, prior: MixturePrior | None = None) -> Tensor:
    """Draw images of the data's kind, (n, C, H, W) uint8, from a model's own prior or another one.

    Bernoulli pixels are drawn, too.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(DRAWING_SEED)
    with evaluating(model):
        latents = (model.sample_prior if prior is None else prior.sample)(count, generator)
        brightness = [
            model.likelihood.draw_unit(model.decode(z), generator).cpu() for z in latents.split(EVALUATION_BATCH)
        ]
    return torch.cat([to_uint8(each) for each in brightness])


def features_and_distance(
    images: Tensor, real: GaussianStatistics, extractor: FeatureExtractor
) -> tuple[Tensor, float]:
    """Return the features of images (n, C, H, W) uint8, and the Fréchet distance to real images' features."""
    features = torch.cat([extractor(batch).cpu() for batch in images.split(100)])
    accumulator = GaussianAccumulator()
    accumulator.update(features)
    return features, frechet_distance(real, accumulator.statistics())


def sample_quality(subject: Subject, refit: bool = False) -> tuple[dict[str, float], Picture]:
    """Return Fréchet distances by their names, and a picture of reconstructions and samples.

    A model without a prior has samples only if ``refit`` asks for those from a refitted prior, too.
    """
    model, data = subject.model, subject.data
    images = data.test_images[: COLUMNS * PAIR_ROWS]
    shown = [pair_up(model.to_brightness(images), values_of_data(model, images, model.reconstruct), COLUMNS)]
    priors: dict[str, MixturePrior | None] = {"": None} if model.has_prior else {}
    if refit:
        with evaluating(model):
            priors["_refitted"] = model.refit_prior(data.train_images[: refitted_images(model)], COMPONENTS)
    values, caption = {}, CAPTION
    for suffix, prior in priors.items():
        extractor = experiment.extractor_of(subject.settings)
        real = experiment.real_statistics(data, subject.settings, subject.runs)
        samples = generate(model, subject.settings.frechet_samples, prior)
        features, values[extractor.metric + suffix] = features_and_distance(samples, real, extractor)
        shown.append(model.to_brightness(samples[extremes(features, real, SAMPLE_ROWS)]))
        caption += CAPTION_OF_SAMPLES[suffix].format(columns=COLUMNS, count=len(samples))
    return values, subject.save_picture(shown, COLUMNS, caption)


COMMON_DIFFERENCES = (
    Difference("networks", "64 channels; the table that tells the rest is lost", "width channels", "see settings"),
    Difference("decoders", "no activation after the last layer", "tanh after it", "sharper samples of every model"),
    Difference("minibatch, step size", "500, 0.01/n", "25, 0.004 with a cosine schedule", "reconstructs better"),
    Difference("λ of pSGLD", "not printed", "0.3", "reconstructs better; small λ shakes parameters without gradients"),
    Difference("epochs", "not printed", "480,000 images in all (ABP 180,000, DLGM 240,000)", "minutes on a CPU"),
    Difference(
        "LAE on binary images, LAE and CLAE on colour ones",
        "gradients as they are",
        "their running means: momentum 0.9, step size 0.001, λ 0.03 (the prior's 0.01); z of spread 1 at first",
        "reconstructs and samples better; the other models have Adam, and so momentum, too",
    ),
    Difference("λ of energy and sampler, binary and grey images", "one λ", "0.1", "else the sampler lags behind z"),
)


class ImageGeneration(ImageExperiment):
    name = "image-generation"
    title = "Reconstruction error and Fréchet distance of every model (Table 2, Figures 7 and 11 to 14)"
    settings = ImageSettings(datasets=("bmnist", "mnist", "svhn", "cifar10", "celeba"))
    paper: ClassVar = paper_rows(PAPER_RE, "re") | paper_rows(PAPER_FID, "fid")
    differences: Sequence[Difference] = (
        *COMMON_DIFFERENCES,
        Difference(
            "samples' distance",
            "FID",
            "Fréchet distance of EfficientNet-Lite0's features",
            "needs no download; --extractor inception gives FID",
        ),
        Difference("LAE", "T = 1", "n/p for the encoder (encoder_temperature)", "posteriors as wide as they should be"),
        Difference("λ of the LAE's prior", "one λ", "0.01", "else it lags behind z and is too wide"),
        Difference("LAE's epochs", "not printed", "960,000 images", "in the time that ABP has for 180,000, or less"),
        Difference(
            "CLAE",
            "d_u = 8, no prior on f_z",
            "d_u = 32, energy_smoothness 0.3 (3 on binary images)",
            "samples cover more classes; energies stay together",
        ),
    )
    # The LAE's steps are cheap, and these take no more time than ABP has.
    trained_images: ClassVar = {**ImageExperiment.trained_images, "lae": 960_000}
    needs_statistics = True

    def configure(self, config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
        """Let the LAE's prior, which samples are drawn from, follow its latent variables."""
        options = {"prior_eps": experiment.PRIOR_SETTINGS["prior_eps"]} if config.model == "lae" else {}
        return with_options(config, options)

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure RE of the test images, and the Fréchet distance of samples from the own and from a refitted prior."""
        values = {"re": subject.metrics["test_re"]}
        averaged = averaged_reconstruction_error(subject.model, subject.ensemble, subject.data.test_images)
        if averaged is not None:
            values["re_averaged"] = averaged
        quality, picture = sample_quality(subject, refit=True)
        return JobOutcome(values | quality, pictures=(picture,))
