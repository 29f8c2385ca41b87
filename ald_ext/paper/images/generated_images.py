"""What a trained model draws: images of its prior, their Fréchet distance to real ones, and which of them are shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...metrics import FeatureExtractor, GaussianAccumulator, GaussianStatistics, frechet_distance, to_uint8
from ...models import LatentVariableModel
from ...training.evaluation import EVALUATION_BATCH, evaluating, values_of_data
from ...training.pictures import pair_up, save_grid
from .image_experiment import Picture, Subject

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
    """
    Attributes:
        images: (n, C, H, W) uint8, in the order in which they were drawn.
        features: (n, d) of them.
    """

    images: Tensor
    features: Tensor

    def statistics(self) -> GaussianStatistics:
        accumulator = GaussianAccumulator()
        accumulator.update(self.features)
        return accumulator.statistics()

    def by_typicality(self, real: GaussianStatistics) -> Tensor:
        """The images' indices, the most typical first.

        By (f - μ)ᵀ (C + c I)⁻¹ (f - μ), with mean μ and covariance C of real images' features; c, the mean variance,
        keeps directions in which real images hardly vary from deciding everything.
        """
        offset = self.features.double().cpu() - real.mean
        ridge = real.covariance.diagonal().mean() * torch.eye(len(real.mean), dtype=torch.float64)
        return (offset @ torch.linalg.inv(real.covariance + ridge) * offset).sum(1).argsort()


def generate(model: LatentVariableModel, extractor: FeatureExtractor, count: int) -> GeneratedImages:
    """Draws of the prior, as images of the same kind as the data: of Bernoulli pixels a draw, too."""
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
    """The Fréchet distance under the extractor's name for it, and the images; nothing for a model without a prior."""
    if not subject.trained.model.has_prior:
        return {}, None
    extractor = subject.extractor()
    generated = generate(subject.trained.model, extractor, subject.settings.frechet_samples)
    return {extractor.metric: frechet_distance(subject.real_statistics(), generated.statistics())}, generated


def save_sheet(subject: Subject, generated: GeneratedImages | None) -> Picture:
    """Reconstructions and samples of a model as one picture; see :data:`CAPTION`."""
    model, images = subject.trained.model, subject.data.test_images[: COLUMNS * PAIR_ROWS]
    shown = [pair_up(model.to_brightness(images), values_of_data(model, images, model.reconstruct), COLUMNS)]
    caption = CAPTION_WITHOUT_PRIOR
    if generated is not None:
        order = generated.by_typicality(subject.real_statistics())
        extreme = COLUMNS * EXTREME_ROWS
        chosen = torch.cat([torch.arange(COLUMNS * SAMPLE_ROWS), order[:extreme], order[-extreme:]])
        chosen = chosen[chosen < len(generated.images)]
        shown.append(model.to_brightness(generated.images[chosen]))
        caption = CAPTION
    file = f"{subject.job.name}.png"
    save_grid(subject.place.out / file, torch.cat(shown), COLUMNS)
    count = 0 if generated is None else len(generated.images)
    return Picture(file, caption.format(name=subject.job.name, columns=COLUMNS, count=count))
