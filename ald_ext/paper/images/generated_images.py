"""What a trained model draws: images from its prior, their Fréchet distance to real ones, and which are shown."""

from __future__ import annotations

import torch
from torch import Tensor

from ...metrics import GaussianAccumulator, GaussianStatistics, frechet_distance, to_uint8
from ...models import LatentVariableModel
from ...training.evaluation import EVALUATION_BATCH, evaluating, values_of_data
from ...training.pictures import pair_up
from ..results import Picture
from .experiment import Subject, extractor_of, real_statistics

#: Images in a row of the pictures; rows of pairs, of samples as they come, of the best, and of the worst.
COLUMNS, PAIR_ROWS, SAMPLE_ROWS, EXTREME_ROWS = 10, 2, 4, 1
#: Seed of the prior's draws, the same for every model.
DRAWING_SEED = 0

CAPTION = "two rows of test images, each above its reconstructions"
CAPTION_OF_SAMPLES = (
    "; four rows of samples as they came; a row of the {columns} best and one of the {columns} worst of {count} "
    "samples, by the Mahalanobis distance of their features from the mean of real images' features"
)


def typical_first(features: Tensor, real: GaussianStatistics) -> Tensor:
    """Return the indices of features (n, d), the most typical first.

    They are ordered by (f - μ)ᵀ (C + c I)⁻¹ (f - μ), with mean μ and covariance C of real images' features. c is their
    mean variance, without which directions in which real images hardly vary would decide everything.
    """
    offset = features.double().cpu() - real.mean
    ridge = real.covariance.diagonal().mean() * torch.eye(len(real.mean), dtype=torch.float64)
    return (offset @ torch.linalg.inv(real.covariance + ridge) * offset).sum(1).argsort()


def generate(model: LatentVariableModel, count: int) -> Tensor:
    """Draw from the prior images of the data's kind, (n, C, H, W) uint8; Bernoulli pixels are drawn too."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(DRAWING_SEED)
    with evaluating(model):
        brightness = [
            model.likelihood.draw_unit(model.decode(z), generator).cpu()
            for z in model.sample_prior(count, generator).split(EVALUATION_BATCH)
        ]
    return torch.cat([to_uint8(each) for each in brightness])


def sample_quality(subject: Subject) -> tuple[dict[str, float], Picture]:
    """Return the Fréchet distance by its name, and a picture of reconstructions and samples.

    A model without a prior has no samples, and so no distance.
    """
    model, images = subject.model, subject.data.test_images[: COLUMNS * PAIR_ROWS]
    shown = [pair_up(model.to_brightness(images), values_of_data(model, images, model.reconstruct), COLUMNS)]
    if not model.has_prior:
        return {}, subject.save_picture(shown, COLUMNS, CAPTION)
    extractor = extractor_of(subject.settings)
    real = real_statistics(subject.data, subject.settings, subject.runs)
    samples = generate(model, subject.settings.frechet_samples)
    features = torch.cat([extractor(batch).cpu() for batch in samples.split(100)])
    accumulator = GaussianAccumulator()
    accumulator.update(features)
    order, extreme = typical_first(features, real), COLUMNS * EXTREME_ROWS
    chosen = torch.cat([torch.arange(COLUMNS * SAMPLE_ROWS), order[:extreme], order[-extreme:]])
    shown.append(model.to_brightness(samples[chosen[chosen < len(samples)]]))
    caption = CAPTION + CAPTION_OF_SAMPLES.format(columns=COLUMNS, count=len(samples))
    distance = frechet_distance(real, accumulator.statistics())
    return {extractor.metric: distance}, subject.save_picture(shown, COLUMNS, caption)
