"""What a trained model draws: images from its prior, their Fréchet distance to real ones, and which are shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...metrics import FeatureExtractor, GaussianAccumulator, GaussianStatistics, frechet_distance, to_uint8
from ...models import LatentVariableModel
from ...training.evaluation import EVALUATION_BATCH, evaluating, values_of_data
from ...training.pictures import pair_up, save_grid
from ..results import Picture
from .experiment import Subject, extractor_of, real_statistics

#: Images in a row of the pictures; rows of pairs, of samples as they come, of the best, and of the worst.
COLUMNS, PAIR_ROWS, SAMPLE_ROWS, EXTREME_ROWS = 10, 2, 4, 1
#: Seed of the prior's draws, the same for every model.
DRAWING_SEED = 0

CAPTION = (
    "{name}: two rows of test images, each above its reconstructions; four rows of samples as they came; a row of the "
    "{columns} best and one of the {columns} worst of {count} samples, by the Mahalanobis distance of their features "
    "from the mean of real images' features"
)
CAPTION_WITHOUT_PRIOR = "{name}: two rows of test images, each above its reconstructions"


@dataclass(frozen=True)
class GeneratedImages:
    """Images (n, C, H, W) uint8, in the order in which they were drawn, and their features (n, d)."""

    images: Tensor
    features: Tensor

    def statistics(self) -> GaussianStatistics:
        accumulator = GaussianAccumulator()
        accumulator.update(self.features)
        return accumulator.statistics()

    def by_typicality(self, real: GaussianStatistics) -> Tensor:
        """Return the images' indices, the most typical first.

        Images are ordered by (f - μ)ᵀ (C + c I)⁻¹ (f - μ), with mean μ and covariance C of real images' features. c is
        their mean variance, without which directions in which real images hardly vary would decide everything.
        """
        offset = self.features.double().cpu() - real.mean
        ridge = real.covariance.diagonal().mean() * torch.eye(len(real.mean), dtype=torch.float64)
        return (offset @ torch.linalg.inv(real.covariance + ridge) * offset).sum(1).argsort()


def generate(model: LatentVariableModel, extractor: FeatureExtractor, count: int) -> GeneratedImages:
    """Draw from the prior images of the data's kind; Bernoulli pixels are drawn too."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(DRAWING_SEED)
    images, features = [], []
    with evaluating(model):
        for z in model.sample_prior(count, generator).split(EVALUATION_BATCH):
            brightness = model.likelihood.draw_unit(model.decode(z), generator)
            images.append(to_uint8(brightness.cpu()))
    for batch in torch.cat(images).split(100):
        features.append(extractor(batch).cpu())
    return GeneratedImages(torch.cat(images), torch.cat(features))


def sample_quality(subject: Subject) -> tuple[dict[str, float], GeneratedImages | None]:
    """Return the Fréchet distance by its name, and the images; nothing for a model without a prior."""
    if not subject.trained.model.has_prior:
        return {}, None
    extractor = extractor_of(subject.settings)
    generated = generate(subject.trained.model, extractor, subject.settings.frechet_samples)
    real = real_statistics(subject.data, subject.settings, subject.runs)
    return {extractor.metric: frechet_distance(real, generated.statistics())}, generated


def save_sheet(subject: Subject, generated: GeneratedImages | None) -> Picture:
    """Save reconstructions and samples of a model as one picture; :data:`CAPTION` says what it shows."""
    model, images = subject.trained.model, subject.data.test_images[: COLUMNS * PAIR_ROWS]
    shown = [pair_up(model.to_brightness(images), values_of_data(model, images, model.reconstruct), COLUMNS)]
    caption = CAPTION_WITHOUT_PRIOR
    if generated is not None:
        order = generated.by_typicality(real_statistics(subject.data, subject.settings, subject.runs))
        extreme = COLUMNS * EXTREME_ROWS
        chosen = torch.cat([torch.arange(COLUMNS * SAMPLE_ROWS), order[:extreme], order[-extreme:]])
        chosen = chosen[chosen < len(generated.images)]
        shown.append(model.to_brightness(generated.images[chosen]))
        caption = CAPTION
    file = f"{subject.job.name}.png"
    save_grid(subject.out / file, torch.cat(shown), COLUMNS)
    count = 0 if generated is None else len(generated.images)
    return Picture(file, caption.format(name=subject.job.name, columns=COLUMNS, count=count))
