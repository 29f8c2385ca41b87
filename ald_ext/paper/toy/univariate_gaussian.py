"""The conjugate univariate Gaussian with minibatches (paper: Figure 3, Appendix F.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...samplers import LangevinDynamics, RandomFourierFeatures
from ...samplers.diagnostics import effective_sample_size
from ..pictures import Figure, new_picture
from ..results import Difference
from ..workers import Progress
from . import inference
from .experiment import Experiment, Outcome
from .inference import DTYPE, NETWORK_DIFFERENCES, NetworkSettings, SamplingSettings

#: Σ_x.
LIKELIHOOD_COVARIANCE = ((0.01,),)


@dataclass(frozen=True)
class UnivariateSettings(SamplingSettings):
    """Settings of the conjugate univariate Gaussian.

    Attributes:
        num_data: the number of data n.
        batch_size: the minibatch's size m; SGALD moves one minibatch a sample.
        num_features, length_scale: the number and the length scale of the random Fourier features.
        ld_step_size: η of plain Langevin dynamics, which moves all data at every step.
    """

    num_samples: int = 20_000
    step_size: float = 0.01
    transitions: int = 5
    num_data: int = 100
    batch_size: int = 10
    num_features: int = 512
    length_scale: float = 0.003
    ld_step_size: float = 0.001


def accuracy(samples: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, float]:
    """Compare samples (draws, n, 1) with the exact posterior: sample over true variance, MSE of the mean, and ESS."""
    ratios = samples.var(0).flatten() / covariance
    return {
        "variance_ratio_median": ratios.median().item(),
        "variance_ratio_min": ratios.min().item(),
        "variance_ratio_max": ratios.max().item(),
        "mean_mse": (samples.mean(0) - mean).square().mean().item(),
        "ess": effective_sample_size(samples, "mean").mean().item(),
    }


LD_DIFFERENCE = Difference("step size of LD", "not printed", "0.001", "the bias of its variance is 5%")


class UnivariateGaussian(Experiment[UnivariateSettings]):
    name = "univariate-gaussian"
    title = "Conjugate univariate Gaussian: SGALD and LD over 100 data (Figure 3)"
    presets: ClassVar = {
        "default": UnivariateSettings(),
        "paper": UnivariateSettings(network=NetworkSettings(lr=0.001)),
        "all-layers": UnivariateSettings(num_samples=40_000, burn_in=5_000, network=NetworkSettings(lr=1e-4)),
    }
    quick: ClassVar = {"num_samples": 1500, "burn_in": 200}
    differences: ClassVar = {
        "default": (
            LD_DIFFERENCE,
            *inference.last_layer_differences(
                "512 random Fourier features of length scale 0.003",
                "the Gram matrix of tanh features of one-dimensional data has no full rank",
                "5 of each datum of the minibatch",
            ),
        ),
        "paper": (LD_DIFFERENCE, *NETWORK_DIFFERENCES),
        "all-layers": (
            LD_DIFFERENCE,
            *NETWORK_DIFFERENCES,
            Difference("step size", "0.001", "0.0001", "the variance is nearer the true one"),
            Difference("samples", "20,000", "40,000 after 5,000 of burn-in", "smaller steps mix more slowly"),
        ),
    }

    def units(self, settings: UnivariateSettings) -> int:
        return 2 * (settings.num_samples + settings.burn_in)

    def run_seed(self, settings: UnivariateSettings, seed: int, progress: Progress) -> Outcome:
        potential, x = inference.conjugate_gaussian(LIKELIHOOD_COVARIANCE, settings.num_data)
        mean, covariance = potential.posterior(x)
        features = RandomFourierFeatures(1, settings.num_features, settings.length_scale, seed=seed, dtype=DTYPE)
        samplers = {
            "sgald": inference.make_sampler(settings, features, potential, x, 1, seed, settings.batch_size),
            "ld": LangevinDynamics(potential, x, torch.zeros_like(x), step_size=settings.ld_step_size, seed=seed),
        }
        values: dict[str, float] = {}
        drawn = {"mean": mean, "deviation": covariance.sqrt(), "x": x}
        for name, sampler in samplers.items():
            samples = inference.draw_samples(sampler, settings.burn_in + settings.num_samples, progress)
            kept = samples[settings.burn_in :]
            values |= {f"{name}_{key}": value for key, value in accuracy(kept, mean, covariance).items()}
            drawn[name] = samples
        return Outcome(values, drawn)

    def draw(self, settings: UnivariateSettings, outcomes: Sequence[Outcome]) -> Figure:
        """Draw traces of three data from the first step on, all data's variance ratios, and errors of their means."""
        drawn = outcomes[0].drawn
        order = drawn["x"].flatten().argsort()
        chosen = [int(order[int(share * (len(order) - 1))]) for share in (0.1, 0.5, 0.9)]
        names = [("ld", "LD"), ("sgald", "SGALD")]
        picture, axes = new_picture(2, 3, (11, 6))
        for row, (name, label) in enumerate(names):
            axes[row, 0].plot(drawn[name][: 5 * settings.burn_in, chosen, 0].numpy(), linewidth=0.5)
            for mean in drawn["mean"][chosen, 0].tolist():
                for deviations, style in ((0, "-"), (-1, "--"), (1, "--")):
                    height = mean + deviations * drawn["deviation"].item()
                    axes[row, 0].axhline(height, color="k", linewidth=0.6 if deviations else 0.8, linestyle=style)
            axes[row, 0].set_xlabel("MCMC steps", fontsize=8)
            axes[row, 0].set_title(f"{label}, three data from the first step on", fontsize=9)
            kept = drawn[name][settings.burn_in :, :, 0]
            axes[row, 1].hist((kept.var(0) / drawn["deviation"].item() ** 2).numpy(), bins=20)
            axes[row, 1].axvline(1, color="k", linewidth=0.8)
            axes[row, 1].set_title(f"{label}: sample variance / true variance", fontsize=9)
            errors = kept.mean(0) - drawn["mean"][:, 0]
            axes[row, 2].plot(drawn["mean"][:, 0].numpy(), errors.numpy(), ".")
            axes[row, 2].axhline(0, color="k", linewidth=0.8)
            axes[row, 2].set_title(f"{label}: error of the mean against the true mean", fontsize=9)
        return picture
