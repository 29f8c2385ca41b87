"""Reconstructions of noisy images, against the clean ones (paper: Table 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from ...data.image_data import add_noise
from ...models.likelihoods import to_brightness
from ...training.evaluation import values_of_data
from ..pictures import Figure
from ..results import Difference, Job
from .experiment import ImageExperiment, ImageSettings, JobOutcome, Subject
from .image_generation import COMMON_DIFFERENCES, paper_rows

#: Standard deviation of the noise on pixels in [0, 1]; its square is the error of an image that is left as it is.
NOISE = 0.1
NOISE_SEED = 0
SHOWN = 10

#: Table 5, as inferred from its garbled text.
PAPER_MSE = {
    "mnist": {"vae": 0.01714, "lae": 0.02243, "clae": 0.007778},
    "svhn": {"vae": 0.01041, "lae": 0.01010, "clae": 0.003676},
    "cifar10": {"vae": 0.02587, "lae": 0.02703, "clae": 0.01440},
    "celeba": {"vae": 0.02131, "lae": 0.02435, "clae": 0.009690},
}


class Denoising(ImageExperiment):
    name = "denoising"
    title = "Mean squared error of the reconstructions of noisy images to the clean ones (Table 5)"
    settings = ImageSettings(datasets=("mnist", "svhn", "cifar10", "celeba"), models=("ae", "vae", "lae", "clae"))
    quick: ClassVar = {"datasets": ("mnist5k",), "epochs": 1, "train_images": 1000, "test_images": 200}
    paper = paper_rows(PAPER_MSE, "denoising_mse")
    differences = (
        *COMMON_DIFFERENCES,
        Difference("the paper's figures", "a table that is garbled", "its most likely reading", "lost in the text"),
    )

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure the mean squared error of the reconstructions of noisy test images to the clean ones."""
        model, ensemble = subject.model, subject.ensemble
        clean = to_brightness(subject.data.test_images)
        noisy = add_noise(clean, NOISE, NOISE_SEED)  # the same for every model
        restored = {"denoising_mse": values_of_data(model, noisy, model.reconstruct)}
        if ensemble:
            averaged = ensemble.mean(model, lambda member: values_of_data(member, noisy, member.reconstruct))
            restored["denoising_mse_averaged"] = averaged
        values = {name: (images - clean).square().mean(dtype=torch.float64).item() for name, images in restored.items()}
        rows = [clean[:SHOWN], noisy[:SHOWN].clamp(0, 1), restored["denoising_mse"][:SHOWN]]
        return JobOutcome(values, (subject.save_picture(rows, SHOWN, "test images, with noise, and restored"),))

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw the errors, one row of panels a data set, with that of the noisy images themselves."""
        picture = super().draw(outcomes)
        for axes in picture.axes:
            axes.axhline(NOISE**2, color="gray", linestyle="--", linewidth=0.8)
        picture.suptitle("dashed: the noisy images themselves", fontsize=9)
        return picture
