"""What the figures mean, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: Which way a figure is better, if either, and its meaning, by a part of its name; the first that fits counts.
METRICS = {
    "microseconds_per_step": "↓: microseconds of a step, which gives every datum a new sample",
    "growth": "↓: the time of a step with the most data over that with the fewest",
    "seconds_to_re": (
        "↓: seconds of training to the RE that the other model ends with; `share` is over the other's seconds"
    ),
    "mse_averaged": "↓: the same error of the mean reconstruction over samples of the parameters",
    "re_averaged": "↓: RE of the mean reconstruction over samples of the parameters",
    "denoising_mse": "↓: mean squared error of noisy images' reconstructions to the clean images, pixels in [0, 1]",
    "re": (
        "↓: reconstruction error of held-out images: their mean squared error on pixels in [0, 1], or for "
        "binary images (bmnist) their cross-entropy in nats"
    ),
    "coverage": "↑: share of held-out images with a sample among the five nearest neighbours of their features",
    "auprc_normal": "↑: area under the precision-recall curve with the normal class as the positive one",
    "auprc_anomaly": "↑: area under the precision-recall curve with the anomalies as the positive class",
    "auroc": "↑: area under the ROC curve",
    "refitted": "↓: the same of samples from a mixture of Gaussians, refitted to latent variables of training images",
    "one_gaussian": "↓: the same with a single Gaussian",
    "of_reconstructions": "↓: the same of reconstructions, in which no prior has a part",
    "averaged": "↓: the same of samples from the mean of samples of the parameters",
    "fid": "↓: Fréchet Inception distance of samples to real images",
    "frechet_efficientnet_lite0": (
        "↓: Fréchet distance between Gaussians fitted to EfficientNet-Lite0's features of samples and of "
        "real images; not comparable with FID"
    ),
    "frechet_classifier": (
        "↓: Fréchet distance between Gaussians fitted to a small classifier's logits of samples and of real "
        "images; not comparable with FID"
    ),
    "frechet": "↓: Fréchet distance between Gaussians fitted to features of samples and of real images",
    "validation_auprc": (
        "↑: area under the precision-recall curve of held-out normal images, as the positive class, among synthetic "
        "anomalies"
    ),
    "empty_bins": ": share of empty bins between a pixel's smallest and largest value: how discrete it still is",
    "seconds": "↓: seconds of training",
    "mean_mse": "↓: squared error of the samples' mean, averaged over the data",
    "ess": "↑: effective sample size, averaged over data and coordinates",
    "mcse": "↓: sum over the coordinates of variance/ESS, averaged over the data",
    "standard_error": "↓: Monte Carlo standard error of a coordinate's mean, √(variance/ESS)",
    "covariance_error": "↓: largest relative error of an entry of a covariance",
    "within_mode_variance_ratio": "→ 1: variance around the modes over the exact one",
    "variance_ratio": "→ 1: a datum's sample variance over the exact one: median, smallest and largest of the data",
    "over_avi_full": "↓: ALD's total variation over that of the full Gaussian fit",
    "far_from_modes": "↓: share of samples more than three standard deviations from every mode",
    "modes": "→ 8: number of modes that have more than 1% of the samples",
    "mode_entropy": "→ 1: entropy of the shares of the eight modes, over log 8",
    "class_entropy": "→ 1: entropy of the classes that a small classifier of real digits finds in samples, over log 10",
    "mode_total_variation": "↓: total variation distance of the shares of the eight modes from 1/8",
    "total_variation": "↓: total variation distance to the exact posterior, on a grid of bins",
    "mode_share": "→ 1/8: share of the samples that the rarest and the commonest of the eight modes have",
    "mode_changes": "↑: share of chains in another mode at the next sample; 7/8 if samples were independent",
}


def find_metric(name: str) -> str | None:
    """Return the key of METRICS that a figure's name contains as whole words, or None."""
    return next((key for key in METRICS if f"_{key}_" in f"_{name}_"), None)


def direction(name: str) -> str:
    """Return the arrow that tells which way a figure is better; "" where that is not known."""
    return METRICS.get(find_metric(name) or "", "").partition(":")[0]


def best_value(name: str, values: Sequence[float | None]) -> float | None:
    """Return the best of several values of a figure; None if all are equal, or where no direction is known."""
    finite = [value for value in values if value is not None]
    pick = {"↓": min, "↑": max}.get(direction(name))
    return pick(finite) if pick and len(set(finite)) > 1 else None


def legend(names: Iterable[str]) -> str:
    """Return a list in Markdown of what the figures of these names mean; "" if none is known."""
    keys = dict.fromkeys(key for name in names if (key := find_metric(name)))
    return "\n".join(f"- `{key}` {METRICS[key]}.".replace("` :", "`:") for key in keys)
