"""What several toy experiments sample with: the paper's network, all of it or its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...optim import PSGLD
from ...samplers import AmortizedLangevin, LastLayerSGALD, WhitenedFeatures, tanh_network
from ...samplers.collection import Sampler, collect
from ...samplers.potential import LinearGaussianPotential, Potential
from ..results import Difference
from ..workers import Progress

#: Width and number of the hidden layers (paper: F.1, F.2: "four fully-connected layers of 128 units").
WIDTH, HIDDEN_LAYERS = 128, 4

#: The type of data, latent variables and networks.
DTYPE = torch.float64


@dataclass(frozen=True)
class NetworkSettings:
    """ALD of a whole network by pSGLD, V on summed gradients; α and λ are ours, as the paper does not print them.

    Attributes:
        lr: the paper's η.
        eps: λ.
        alpha: the decay of V.
        freeze_after: the number of steps after which V is frozen; None: never.
        weight_decay: the precision of a Gaussian prior on φ.
    """

    lr: float
    eps: float = 1e-5
    alpha: float = 0.99
    freeze_after: int | None = None
    weight_decay: float = 0.0


@dataclass(frozen=True)
class SamplingSettings:
    """Settings that the experiments with an inference network have in common.

    Attributes:
        num_samples: the samples of each sampler, of all chains together.
        burn_in: the steps before those.
        step_size: the step size of MALA in the space of z.
        transitions: the transitions of MALA for one sample of the data or of a minibatch.
        network: settings of the network whose layers all move; None: only the last layer moves.
    """

    num_samples: int = 10_000
    burn_in: int = 500
    step_size: float = 0.2
    transitions: int = 8
    network: NetworkSettings | None = None


def make_sampler(
    settings: SamplingSettings,
    features: torch.nn.Module,
    potential: Potential,
    x: Tensor,
    latent_dim: int,
    seed: int,
    batch_size: int | None = None,
    **options: Any,
) -> Any:
    """Return SGALD of the last layer on whitened features, or with settings of a network ALD of all its layers.

    The latter is the paper's Algorithm 1, with minibatches Eq. 7. ``options`` are further ones of ``LastLayerSGALD``.
    """
    if settings.network is None:
        whitened = WhitenedFeatures(features, x)
        options |= {"step_size": settings.step_size, "transitions": settings.transitions}
        return LastLayerSGALD(whitened, potential, x, latent_dim, batch_size=batch_size, seed=seed, **options)
    network = tanh_network([x.shape[1], *[WIDTH] * HIDDEN_LAYERS, latent_dim], seed=seed, dtype=x.dtype)
    optimizer = PSGLD(network.parameters(), num_data=1, seed=seed, **asdict(settings.network))
    return AmortizedLangevin(network, potential, x, optimizer, batch_size=batch_size, reduction="sum", seed=seed)


def frozen_tanh_layers(input_dim: int, seed: int) -> torch.nn.Module:
    """Return all layers of the paper's network but the last."""
    layers = tanh_network([input_dim, *[WIDTH] * HIDDEN_LAYERS], seed=seed, dtype=DTYPE)
    return torch.nn.Sequential(layers, torch.nn.Tanh())


def conjugate_gaussian(
    likelihood_covariance: Sequence[Sequence[float]], num_data: int
) -> tuple[LinearGaussianPotential, Tensor]:
    """Return U(x, z) where z ~ N(0, I) and x ~ N(z, Σ_x), and data x, (n, d), from torch's default generator."""
    covariance = torch.tensor(likelihood_covariance, dtype=DTYPE)
    unit = torch.eye(len(covariance), dtype=DTYPE)
    z, noise = torch.randn(2, num_data, len(covariance), dtype=DTYPE)
    x = z + noise @ torch.linalg.cholesky(covariance).T
    return LinearGaussianPotential(torch.zeros_like(unit[0]), unit, covariance), x


class Reported:
    """A sampler that reports every step as progress."""

    def __init__(self, sampler: Sampler, progress: Progress) -> None:
        self.sampler, self.progress = sampler, progress

    def step(self) -> Tensor:
        state = self.sampler.step()
        self.progress(1)
        return state


def draw_samples(
    sampler: Sampler, num_samples: int, progress: Progress, *, burn_in: int = 0, thinning: int = 1
) -> Tensor:
    """Draw samples (num_samples · chains, n, d), one of each chain every ``thinning`` steps after ``burn_in`` steps."""
    samples: Tensor = collect(Reported(sampler, progress), num_samples, burn_in=burn_in, thinning=thinning)
    return samples.movedim(2, 1).flatten(0, 1) if samples.dim() == 4 else samples


def last_layer_differences(features: str, reason_for_features: str, transitions: str) -> Sequence[Difference]:
    """Return how sampling the last layer differs from the paper's dynamics of the whole network."""
    return (
        Difference(
            "what moves",
            "all layers of the inference network",
            f"the last layer on {features}, whitened on the data",
            f"the printed dynamics of all layers has no proof and over-disperses (preset paper); {reason_for_features}",
        ),
        Difference(
            "Metropolis test",
            "none",
            "each datum's move is accepted or rejected by itself",
            "removes the error of the step size; exact where the Gram matrix has full rank",
        ),
        Difference("transitions a sample", "1", transitions, "less correlated samples; the costs are in the rows"),
    )


#: Differences of the presets in which all layers move.
NETWORK_DIFFERENCES = (
    Difference("pSGLD's decay of V and eps", "not printed", "0.99 and 1e-5", "the method's usual ones"),
    Difference(
        "gradients that V squares", "not said", "sums over the data", "the printed step makes no sense with means"
    ),
)
