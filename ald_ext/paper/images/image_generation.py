"""Reconstruction error and sample quality of every model (paper: Table 2, Figures 7 and 11 to 14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ...models.lae import LAEConfig
from ...training import TrainingConfig
from ...training.evaluation import averaged_reconstruction_error
from ..pictures import Figure, new_picture
from ..results import Difference, Job, distinct
from .experiment import ImageExperiment, JobOutcome, Subject
from .generated_images import sample_quality
from .settings import FEWER_TRAINED_IMAGES, PRIOR_SETTINGS, ImageSettings

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


def paper_rows(table: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    """Return a table of the paper by the names of rows."""
    return {f"{dataset}/{model}/{metric}": value for dataset, row in table.items() for model, value in row.items()}


def configure(config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
    """Let the LAE's prior, which samples are drawn from, follow its latent variables."""
    if isinstance(config.network, LAEConfig) and config.model == "lae":
        return replace(config, network=replace(config.network, prior_eps=PRIOR_SETTINGS["prior_eps"]))
    return config


def evaluate(subject: Subject) -> JobOutcome:
    """Measure RE of the test images, and the Fréchet distance of samples where there is a prior."""
    values = {"re": subject.metrics["test_re"]}
    averaged = averaged_reconstruction_error(subject.model, subject.ensemble, subject.data.test_images)
    if averaged is not None:
        values["re_averaged"] = averaged
    quality, picture = sample_quality(subject)
    return JobOutcome(values | quality, pictures=(picture,))


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


#: Changes for a smoke test of experiments that draw samples.
QUICK = {
    "datasets": ("mnist5k",),
    "epochs": 1,
    "frechet_samples": 100,
    "frechet_images": 300,
    "train_images": 1000,
    "test_images": 100,
}

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

EXPERIMENT = ImageExperiment(
    name="image-generation",
    title="Reconstruction error and Fréchet distance of every model (Table 2, Figures 7 and 11 to 14)",
    settings=ImageSettings(datasets=("bmnist", "mnist", "svhn", "cifar10", "celeba")),
    quick=QUICK,
    configure=configure,
    evaluate=evaluate,
    draw=partial(bars_by_model, paper=PAPER_RE),
    paper=paper_rows(PAPER_RE, "re") | paper_rows(PAPER_FID, "fid"),
    differences=(
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
    ),
    # The LAE's steps are cheap, and these take no more time than ABP has.
    trained_images={**FEWER_TRAINED_IMAGES, "lae": 960_000},
    needs_statistics=True,
)
