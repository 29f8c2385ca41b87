"""Unconditional amortized sampling of a mixture of eight Gaussians (paper: Figure 5, Eqs. 15 and 16)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...samplers import Potential, RandomFourierFeatures, prior_potential
from ..pictures import Figure, new_picture
from ..results import Difference
from ..workers import Progress
from . import inference
from .experiment import Experiment, Outcome
from .inference import DTYPE, NETWORK_DIFFERENCES, NetworkSettings, SamplingSettings

NUM_MODES = 8


@dataclass(frozen=True)
class EightGaussiansSettings(SamplingSettings):
    """Settings of the mixture of eight Gaussians. Its burn-in is counted in epochs.

    Attributes:
        radius, deviation: the radius of the ring of modes and their standard deviation; the paper prints neither.
        num_inputs: the number k of fixed inputs u ~ N(0, I), each of which is a chain.
        input_dim: d_u.
        batch_size: the number m of chains that move at a step.
        epochs_a_sample: the epochs between two samples of a chain.
        num_features, length_scale: the number and the length scale of the random Fourier features.
    """

    burn_in: int = 10
    step_size: float = 0.08
    transitions: int = 20
    radius: float = 2.0
    deviation: float = 0.3
    num_inputs: int = 1000
    input_dim: int = 8
    batch_size: int = 100
    epochs_a_sample: int = 5
    num_features: int = 2048
    length_scale: float = 1.0


def centers(settings: EightGaussiansSettings) -> Tensor:
    """Return the modes' centres, (8, 2)."""
    angle = torch.arange(NUM_MODES, dtype=DTYPE) * (2 * math.pi / NUM_MODES)
    return settings.radius * torch.stack([angle.cos(), angle.sin()], 1)


def ring_potential(settings: EightGaussiansSettings) -> Potential:
    """Return U(z) = -log Σ_j exp(-‖z - c_j‖²/(2σ²))."""
    middle = centers(settings)

    def energy(z: Tensor) -> Tensor:
        return -torch.logsumexp(-(z[:, None] - middle).square().sum(2) / (2 * settings.deviation**2), 1)

    return prior_potential(energy=energy)


def shares_and_spread(samples: Tensor, settings: EightGaussiansSettings) -> dict[str, float]:
    """Return the shares of the modes and the spread around them; samples (draws, k, 2) count for the nearest centre.

    mode_changes is the share of chains that are in another mode at the next sample, 7/8 for independent samples.
    """
    middle = centers(settings)
    mode = torch.cdist(samples, middle).argmin(-1)
    shares = torch.bincount(mode.flatten(), minlength=NUM_MODES) / mode.numel()
    offset = samples - middle[mode]
    return {
        "mode_share_min": shares.min().item(),
        "mode_share_max": shares.max().item(),
        "within_mode_variance_ratio": (offset.square().mean() / exact_spread(settings)).item(),
        "mode_changes": (mode[1:] != mode[:-1]).double().mean().item(),
    }


@functools.cache
def exact_spread(settings: EightGaussiansSettings) -> Tensor:
    """Return the mean of offset² in :func:`shares_and_spread` under the exact density, by quadrature."""
    middle = centers(settings)
    limit = settings.radius + 6 * settings.deviation
    line = torch.linspace(-limit, limit, 600, dtype=DTYPE)
    grid = torch.cartesian_prod(line, line)
    weight = torch.softmax(-ring_potential(settings)(None, grid), 0)
    offset = grid - middle[torch.cdist(grid, middle).argmin(1)]
    return (weight * offset.square().mean(1)).sum()


TARGET_DIFFERENCE = Difference(
    "the target", "not printed", "radius 2, standard deviation 0.3", "as it looks in Figure 5, with barriers of 2.6"
)


class EightGaussians(Experiment[EightGaussiansSettings]):
    name = "eight-gaussians"
    title = "A mixture of eight Gaussians sampled without data, by fixed inputs (Figure 5)"
    presets: ClassVar = {
        "default": EightGaussiansSettings(),
        "paper": EightGaussiansSettings(
            batch_size=1000, burn_in=1000, epochs_a_sample=100, network=NetworkSettings(lr=0.003)
        ),
    }
    quick: ClassVar = {"num_inputs": 200, "num_samples": 2000, "num_features": 512, "batch_size": 50}
    differences: ClassVar = {
        "default": (
            TARGET_DIFFERENCE,
            *inference.last_layer_differences(
                "2,048 random Fourier features of the inputs",
                "1,000 inputs have full rank in them",
                "20 of each chain of the minibatch, 5 times",
            ),
        ),
        "paper": (
            TARGET_DIFFERENCE,
            *NETWORK_DIFFERENCES,
            Difference(
                "step size, number of inputs", "not printed", "0.003, as in F.1; 1,000 of 8 dimensions", "a guess"
            ),
        ),
    }

    def units(self, settings: EightGaussiansSettings) -> int:
        epochs = settings.burn_in + settings.epochs_a_sample * (settings.num_samples // settings.num_inputs)
        return epochs * (settings.num_inputs // settings.batch_size)

    def run_seed(self, settings: EightGaussiansSettings, seed: int, progress: Progress) -> Outcome:
        u = torch.randn(settings.num_inputs, settings.input_dim, dtype=DTYPE)
        scale = settings.length_scale
        features = RandomFourierFeatures(settings.input_dim, settings.num_features, scale, seed=seed, dtype=DTYPE)
        potential = ring_potential(settings)
        size = settings.batch_size
        sampler = inference.make_sampler(settings, features, potential, u, 2, seed, size, initial_scale=0.1)
        epoch = settings.num_inputs // size
        samples = inference.draw_samples(
            sampler,
            settings.num_samples // settings.num_inputs,
            progress,
            burn_in=settings.burn_in * epoch,
            thinning=settings.epochs_a_sample * epoch,
        )
        return Outcome(shares_and_spread(samples, settings), {"samples": samples.flatten(0, 1)})

    def draw(self, settings: EightGaussiansSettings, outcomes: Sequence[Outcome]) -> Figure:
        """Draw the density, the samples of the first seed, and the shares of the modes in all seeds."""
        samples = outcomes[0].drawn["samples"]
        limit = settings.radius + 4 * settings.deviation
        line = torch.linspace(-limit, limit, 200, dtype=DTYPE)
        density = (-ring_potential(settings)(None, torch.cartesian_prod(line, line))).exp().view(200, 200)
        picture, axes = new_picture(1, 3, (11, 3.6))
        extent = (-limit, limit, -limit, limit)
        axes[0, 0].imshow(density.T.numpy(), origin="lower", extent=extent)
        axes[0, 0].set_title("exact density", fontsize=9)
        axes[0, 1].plot(*samples.numpy().T, ".", markersize=1, alpha=0.5)
        axes[0, 1].set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        axes[0, 1].set_title("ALD's samples", fontsize=9)
        for outcome in outcomes:
            mode = torch.cdist(outcome.drawn["samples"], centers(settings)).argmin(1)
            shares = torch.bincount(mode, minlength=NUM_MODES) / len(mode)
            axes[0, 2].plot(shares.numpy(), "o-", markersize=3, linewidth=0.5)
        axes[0, 2].axhline(1 / NUM_MODES, color="k", linewidth=0.8)
        axes[0, 2].set_ylim(bottom=0)
        axes[0, 2].set_title("share of each mode, one line a seed", fontsize=9)
        return picture
