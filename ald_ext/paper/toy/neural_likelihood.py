"""A likelihood made by a random network, whose posteriors have many modes (paper: Figures 4 and 10, Appendix F.3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ...samplers import HMC, GaussianEncoder, fit_variational, negative_elbo, tanh_network
from ..pictures import Figure, new_picture
from ..results import Difference
from ..workers import Progress
from . import inference
from .experiment import Experiment, Outcome
from .inference import DTYPE, HIDDEN_LAYERS, NETWORK_DIFFERENCES, WIDTH, NetworkSettings, SamplingSettings

#: Standard deviations of the likelihood's random weights and biases, and of the observations' noise.
WEIGHT_SCALE, BIAS_SCALE, OBSERVATION_SCALE = 0.2, 0.1, 0.25

#: The grid covers [-LIMIT, LIMIT]²: the prior has 1e-4 of its mass outside.
LIMIT = 4.0

#: By which restarts of a fit are compared.
ELBO_SAMPLES = 2000


@dataclass(frozen=True)
class NeuralSettings(SamplingSettings):
    """Settings of the neural likelihood. Its step size is the mean ε of leapfrog steps, whose η = ε²/2.

    Attributes:
        num_data: the number of data n.
        chains: the number of independent last layers; a network whose layers all move is one chain.
        jitter: ε is uniform on [1 - jitter, 1 + jitter]·step_size.
        bins: the bins of the histograms along each side.
        points_a_bin: the grid's points along each side of a bin.
        avi_steps, avi_lr, avi_samples: steps, learning rate and samples a step of the variational fits.
        avi_restarts: the number of fits, of which the one with the best ELBO counts, as a fit may end in a minor mode.
    """

    burn_in: int = 50
    step_size: float = 0.75
    transitions: int = 30
    num_data: int = 3
    chains: int = 20
    jitter: float = 0.95
    bins: int = 32
    points_a_bin: int = 8
    avi_steps: int = 3000
    avi_lr: float = 3e-3
    avi_samples: int = 16
    avi_restarts: int = 3

    @property
    def num_chains(self) -> int:
        return self.chains if self.network is None else 1


@dataclass
class NeuralPotential:
    """U(x, z) = ‖z‖²/2 + ‖x - f(z)‖²/(2σ²), with f a ReLU network of random weights."""

    decoder: nn.Module

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        misfit = (x - self.decoder(z)).square().sum(1) / OBSERVATION_SCALE**2
        return (z.square().sum(1) + misfit) / 2


def random_decoder() -> nn.Sequential:
    """Return four hidden ReLU layers, with weights and biases from torch's default generator."""
    sizes = [2, *[WIDTH] * HIDDEN_LAYERS, 2]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=DTYPE)
        nn.init.normal_(linear.weight, std=WEIGHT_SCALE)
        nn.init.normal_(linear.bias, std=BIAS_SCALE)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def grid_points(settings: NeuralSettings) -> Tensor:
    """Return the middles of the grid's cells, (bins² · points_a_bin², 2)."""
    count = settings.bins * settings.points_a_bin
    line = ((torch.arange(count, dtype=DTYPE) + 0.5) / count * 2 - 1) * LIMIT
    return torch.cartesian_prod(line, line)


def masses_of(log_density: Tensor, settings: NeuralSettings) -> Tensor:
    """Return the probabilities of the bins, (bins, bins), from log densities on the grid."""
    bins, points = settings.bins, settings.points_a_bin
    cell = (2 * LIMIT / (bins * points)) ** 2
    return (log_density.exp() * cell).view(bins, points, bins, points).sum((1, 3))


def grid_truth(potential: NeuralPotential, x: Tensor, settings: NeuralSettings) -> Tensor:
    """Return the posteriors' probabilities of the bins, (n, bins, bins), normalized on the grid."""
    grid = grid_points(settings)
    potentials = [potential(datum, grid) for datum in x[:, None]]
    truth = torch.stack([masses_of(value.min() - value, settings) for value in potentials])
    return truth / truth.sum((1, 2), keepdim=True)


def fit_encoder(
    settings: NeuralSettings, potential: NeuralPotential, x: Tensor, covariance: str, seed: int, progress: Progress
) -> GaussianEncoder:
    outputs = GaussianEncoder.num_outputs(2, covariance)
    encoders, losses = [], []
    for restart in range(settings.avi_restarts):
        network_seed = seed * settings.avi_restarts + restart
        network = tanh_network([2, *[WIDTH] * HIDDEN_LAYERS, outputs], seed=network_seed, dtype=DTYPE)
        encoders.append(GaussianEncoder(network, 2, covariance))
        options: Any = {"num_steps": settings.avi_steps, "lr": settings.avi_lr, "num_samples": settings.avi_samples}
        fit_variational(encoders[-1], potential, x, **options, on_step=lambda: progress(1))
        with torch.no_grad():
            losses.append(negative_elbo(encoders[-1], potential, x, ELBO_SAMPLES).mean().item())
    return encoders[losses.index(min(losses))]


@torch.no_grad()
def encoder_masses(encoder: GaussianEncoder, x: Tensor, settings: NeuralSettings) -> Tensor:
    """Return the probabilities of the bins under q(z | x), (n, bins, bins), from its density."""
    grid = grid_points(settings)
    posterior = encoder(x)
    covariances = (
        posterior.covariance_matrix if isinstance(posterior, MultivariateNormal) else posterior.variance.diag_embed()
    )
    densities = [MultivariateNormal(*one).log_prob(grid) for one in zip(posterior.mean, covariances, strict=True)]
    return torch.stack([masses_of(density, settings) for density in densities])


def histograms(samples: Tensor, bins: int) -> Tensor:
    """Return the shares of the bins, (n, bins, bins), of samples (draws, n, 2); some may be outside the grid."""
    sides = [-LIMIT, LIMIT, -LIMIT, LIMIT]
    counts = [torch.histogramdd(of_datum, [bins, bins], range=sides).hist for of_datum in samples.movedim(1, 0)]
    return torch.stack(counts) / len(samples)


def resampled(truth: Tensor, num_samples: int) -> Tensor:
    """Return the shares of the bins in independent draws, from torch's default generator."""
    counts = [torch.bincount(mass.flatten().multinomial(num_samples, True), minlength=mass.numel()) for mass in truth]
    return torch.stack(counts).to(truth).view_as(truth) / num_samples


def total_variation(mass: Tensor, truth: Tensor) -> float:
    """Return ½ Σ|p - q| over the bins and what of p is outside them, averaged over the data."""
    outside = 1 - mass.sum((1, 2))
    return (((mass - truth).abs().sum((1, 2)) + outside.clamp_min(0)) / 2).mean().item()


PROBLEM_DIFFERENCES = (
    Difference(
        "scale of the likelihood's weights and biases",
        "N(0, 0.2 I), N(0, 0.1 I)",
        "standard deviations 0.2 and 0.1",
        "as variances they give outputs of scale 70, and posteriors of isolated points unlike Figure 10",
    ),
    Difference("activation of the inference network", "as the likelihood's, ReLU", "tanh", "the paper prefers it"),
)


class NeuralLikelihood(Experiment[NeuralSettings]):
    name = "neural-likelihood"
    title = "Multimodal posteriors of a neural likelihood: grid truth, Gaussian AVI, ALD (Figures 4, 10)"
    presets: ClassVar = {
        "default": NeuralSettings(),
        "paper": NeuralSettings(burn_in=1000, network=NetworkSettings(lr=0.003)),
    }
    quick: ClassVar = {"num_samples": 2000, "transitions": 5} | {
        "avi_steps": 300,
        "avi_lr": 1e-2,
        "avi_samples": 8,
        "avi_restarts": 1,
    }
    differences: ClassVar = {
        "default": (
            *PROBLEM_DIFFERENCES,
            *inference.last_layer_differences(
                "four frozen tanh layers of random weights",
                "three data and 128 features have full rank",
                "30; 20 chains of 500 samples, so that no mode depends on one start",
            ),
            Difference(
                "step size",
                "0.003",
                "random at every transition, η = ε²/2 with ε uniform on 0.04 to 1.46",
                "small steps explore a mode, large ones go from mode to mode; the test makes either exact",
            ),
        ),
        "paper": (*PROBLEM_DIFFERENCES, *NETWORK_DIFFERENCES),
    }

    def units(self, settings: NeuralSettings) -> int:
        fits = 2 * settings.avi_steps * settings.avi_restarts
        return fits + settings.burn_in + settings.num_samples // settings.num_chains

    def run_seed(self, settings: NeuralSettings, seed: int, progress: Progress) -> Outcome:
        decoder = random_decoder()
        potential = NeuralPotential(decoder)
        x = decoder(torch.randn(settings.num_data, 2, dtype=DTYPE))
        x = x + OBSERVATION_SCALE * torch.randn_like(x)
        truth = grid_truth(potential, x, settings)
        masses = {"truth": truth}
        for covariance in ("diagonal", "full"):
            encoder = fit_encoder(settings, potential, x, covariance, seed, progress)
            masses[f"avi_{covariance}"] = encoder_masses(encoder, x, settings)
        chains = settings.num_chains
        options: Any = {"kernel": HMC, "num_leapfrog_steps": 1, "jitter": settings.jitter, "chains": chains}
        features = inference.frozen_tanh_layers(2, seed)
        sampler = inference.make_sampler(settings, features, potential, x, 2, seed, **options)
        samples = inference.draw_samples(sampler, settings.num_samples // chains, progress, burn_in=settings.burn_in)
        masses["ald"] = histograms(samples, settings.bins)
        # What as many independent draws from the truth would have.
        masses["exact_sampling"] = resampled(truth, settings.num_samples)
        values = {f"{name}_total_variation": total_variation(mass, truth) for name, mass in masses.items()}
        del values["truth_total_variation"]
        values["ald_over_avi_full"] = values["ald_total_variation"] / values["avi_full_total_variation"]
        return Outcome(values, {"masses": masses, "samples": samples})

    def draw(self, settings: NeuralSettings, outcomes: Sequence[Outcome]) -> Figure:
        """Draw the truth, both Gaussian fits, ALD's histogram and its samples, one row a datum, as Figure 10 does.

        The seed shown is the one whose posteriors are the least Gaussian by the total variation of the full fit.
        """
        seed = max(range(len(outcomes)), key=lambda seed: outcomes[seed].values["avi_full_total_variation"])
        masses, samples = outcomes[seed].drawn["masses"], outcomes[seed].drawn["samples"]
        columns = [("truth", "exact"), ("avi_diagonal", "AVI, diagonal"), ("avi_full", "AVI, full"), ("ald", "ALD")]
        picture, axes = new_picture(settings.num_data, 5, (12, 2.5 * settings.num_data))
        extent = (-LIMIT, LIMIT, -LIMIT, LIMIT)
        for datum in range(settings.num_data):
            for axis, (name, title) in zip(axes[datum], columns, strict=False):
                largest = masses["truth"][datum].max().item()
                axis.imshow(masses[name][datum].T.numpy(), origin="lower", extent=extent, vmax=largest)
                axis.set_title(title, fontsize=9)
            axis = axes[datum, 4]
            axis.plot(*samples[::4, datum].numpy().T, ".", markersize=1)
            axis.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
            axis.set_title("ALD, samples", fontsize=9)
        picture.suptitle(f"Seed {seed}, on which Gaussians fit worst", fontsize=10)
        return picture
