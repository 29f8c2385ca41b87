"""What dequantization does to a pixel's values and to samples (paper: Figures 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...data import ImageData
from ...dequantization import BINS, LangevinDequantizer, UniformDequantizer
from ...models import LatentVariableModel
from ...models.config import DEQUANTIZATIONS
from ...training import TrainingConfig
from ...training.evaluation import values_of_data
from ..pictures import Figure, new_picture
from ..results import Difference, Job, distinct
from .experiment import ImageExperiment, ImageSettings, JobOutcome, Subject, with_options
from .image_generation import COMMON_DIFFERENCES, sample_quality

#: Bins of the histograms: eight for each value of a pixel.
HISTOGRAM_BINS = 8 * BINS
#: Values of a pixel that the lower panels show: few enough to tell one from the next.
SHOWN_VALUES = 32
#: Images that the histograms count.
HISTOGRAM_IMAGES = 10_000


def chosen_pixel(images: Tensor) -> int:
    """Return the top left pixel, as in the paper, or where it is constant the one with the most different values."""
    flat = images.flatten(1)
    if len(flat[:, 0].unique()) > 1:
        return 0
    return max(range(flat.shape[1]), key=lambda position: len(flat[:, position].unique()))


def unit_values(model: LatentVariableModel, images: Tensor) -> Tensor:
    """Return dequantized images in (0, 1), (n, C, H, W): a pixel of value k is in (k, k + 1) / 256.

    Without dequantization it is at k / 256.
    """
    dequantizer = model.likelihood.dequantizer
    observed = values_of_data(model, images, model.observe)
    if isinstance(dequantizer, LangevinDequantizer):
        return observed.sigmoid()
    if isinstance(dequantizer, UniformDequantizer):
        return (observed + 1) / 2
    return images / BINS


def empty_bins(counts: Tensor) -> float:
    """Return the share of empty bins among those between the pixel's smallest and largest value."""
    filled = counts.nonzero().flatten()
    return 1 - len(filled) / int(filled[-1] - filled[0] + 1)


def ranges(counts: Sequence[float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the range of all bins, and that of the values that most images have, without the ends of the scale."""
    width = SHOWN_VALUES * HISTOGRAM_BINS // BINS
    starts = range(width, HISTOGRAM_BINS - 2 * width, width)
    start = max(starts, key=lambda first: sum(counts[first : first + width]))
    return (0, HISTOGRAM_BINS), (start, start + width)


class Dequantization(ImageExperiment):
    name = "dequantization"
    title = "A pixel's values before and after dequantization, samples and RE (Figures 8 and 9)"
    settings = ImageSettings(datasets=("mnist",), models=("lae",))
    differences = (
        *COMMON_DIFFERENCES,
        Difference("pixel", "top left, of SVHN", "top left; of MNIST, where it is 0, another", "one that varies"),
    )
    needs_statistics = True

    def parts(self, data: ImageData) -> tuple[str, ...]:
        return DEQUANTIZATIONS

    def configure(self, config: TrainingConfig, job: Job, num_data: int) -> TrainingConfig:
        """Set the job's dequantization; with Langevin's a sigmoid bounds the pixels, not the decoder's output."""
        output = "linear" if job.part == "langevin" else config.network.decoder_output
        return with_options(config, {"dequantization": job.part, "decoder_output": output})

    def evaluate(self, subject: Subject) -> JobOutcome:
        """Measure RE, the Fréchet distance of samples, and the histogram of a pixel."""
        quality, picture = sample_quality(subject)
        images = subject.data.train_images[:HISTOGRAM_IMAGES]
        position = chosen_pixel(images)
        pixels = unit_values(subject.model, images).flatten(1)[:, position].double()
        counts = torch.histc(pixels, HISTOGRAM_BINS, 0, 1)
        curves = {"counts": counts.tolist(), "position": [float(position)]}
        values = {"re": subject.metrics["test_re"], **quality, "empty_bins": empty_bins(counts)}
        return JobOutcome(values, (picture,), curves)

    def summarize(self, parts: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the metrics by the way of dequantization, such as re_uniform."""
        return {f"{metric}_{part}": value for part, values in parts.items() for metric, value in values.items()}

    def draw(self, outcomes: Mapping[Job, JobOutcome]) -> Figure:
        """Draw the histograms of the first seed, over the whole range and over a few values."""
        datasets = distinct(outcomes, "dataset")
        picture, axes = new_picture(2 * len(datasets), len(DEQUANTIZATIONS), (12, 4 * len(datasets)))
        for index, dataset in enumerate(datasets):
            for column, part in enumerate(DEQUANTIZATIONS):
                jobs = [job for job in outcomes if (job.dataset, job.part) == (dataset, part)]
                counts = outcomes[jobs[0]].curves["counts"]
                for panel, (first, last) in zip(axes[2 * index : 2 * index + 2, column], ranges(counts), strict=True):
                    places = [(place + 0.5) / HISTOGRAM_BINS for place in range(first, last)]
                    panel.bar(places, counts[first:last], width=1 / HISTOGRAM_BINS)
                axes[2 * index, column].set_title(f"{dataset}: {part}", fontsize=9)
        picture.suptitle("a pixel's values, dequantized, in [0, 1]; below, a part of the same", fontsize=9)
        return picture
