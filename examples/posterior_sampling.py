"""Amortized Langevin dynamics on a posterior that is known exactly: a linear Gaussian model with 20 data.

python examples/posterior_sampling.py [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import ald_ext
from ald_ext import samplers

NUM_DATA = 20
DTYPE = torch.float64


def make_problem() -> tuple[samplers.LinearGaussianPotential, Tensor]:
    """Return a problem with z ~ N(0, I) in two dimensions and x = Wz + noise in three, and its data x."""
    weight = torch.tensor([[1.0, 0.8], [0.7, 1.0], [0.6, 0.5]], dtype=DTYPE)
    identity = torch.eye(3, dtype=DTYPE)
    potential = samplers.LinearGaussianPotential(torch.zeros(2, dtype=DTYPE), identity[:2, :2], 0.25 * identity, weight)
    z, noise = torch.randn(NUM_DATA, 2, dtype=DTYPE), torch.randn(NUM_DATA, 3, dtype=DTYPE)
    return potential, z @ weight.T + 0.5 * noise


def sample_last_layer(potential: samplers.Potential, x: Tensor, num_samples: int) -> Tensor:
    """Sample by one weight Φ that moves all z_i = Φ g(x_i); with whitened features no datum slows another."""
    features = samplers.RandomFourierFeatures(x.shape[1], 128, length_scale=0.5, dtype=DTYPE)
    whitened = samplers.WhitenedFeatures(features, x)
    kernel = partial(samplers.HMC, step_size=0.1, num_leapfrog_steps=5, adapt_steps=200)
    sampler = samplers.LastLayerALD(whitened, potential, x, latent_dim=2, kernel=kernel, chains=4, seed=0)
    return samplers.collect(sampler, num_samples, burn_in=300)  # (draws, data, chains, 2)


def sample_whole_network(potential: samplers.Potential, x: Tensor, num_samples: int) -> Tensor:
    """Sample by the paper's Algorithm 1: all layers move. No proof covers it, and the covariance shows it."""
    network = samplers.tanh_network([x.shape[1], 64, 64, 2], dtype=DTYPE)
    optimizer = ald_ext.SGLD(network.parameters(), lr=3e-3, num_data=len(x), seed=0)
    sampler = samplers.AmortizedLangevin(network, potential, x, optimizer)
    return samplers.collect(sampler, num_samples, burn_in=num_samples // 2)[:, :, None]  # (draws, data, chains, 2)


def compare(name: str, samples: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, float]:
    """Return errors against the exact posterior, and the effective sample size."""
    table = samplers.summarize(samples)
    draws = samples.movedim(2, 1).flatten(0, 1)
    centred = draws - draws.mean(0)
    covariances = torch.einsum("sni,snj->nij", centred, centred) / (len(draws) - 1)
    result = {
        "mean_error": (draws.mean(0) - mean).square().mean().sqrt().item(),
        "variance_ratio": (covariances.diagonal(dim1=1, dim2=2) / covariance.diag()).mean().item(),
        "covariance_error": ((covariances - covariance).abs().amax((1, 2)).mean() / covariance.abs().max()).item(),
        "ess": table["ess_bulk"].median().item(),
    }
    print(f"{name:14}" + "  ".join(f"{key.replace('_', ' ')} {value:9.4g}" for key, value in result.items()))
    return result


def draw(panels: dict[str, Tensor], mean: Tensor, covariance: Tensor) -> Figure:
    """Draw samples of three data, and the ellipses that hold half and 95 % of each exact posterior."""
    figure = Figure(figsize=(11, 4.9), layout="constrained")
    angle = torch.linspace(0, 2 * torch.pi, 100, dtype=DTYPE)
    circle = torch.stack([angle.cos(), angle.sin()], 1) @ torch.linalg.cholesky(covariance).T
    order = mean.sum(1).argsort()
    for axes, (title, samples) in zip(figure.subplots(1, 2, sharex=True, sharey=True), panels.items(), strict=True):
        for colour, datum in enumerate(order[[0, NUM_DATA // 2, -1]].tolist()):  # far from each other
            cloud = samples[:, datum].reshape(-1, 2)
            axes.plot(*cloud[:: max(1, len(cloud) // 1000)].T.numpy(), ".", markersize=3, alpha=0.5, color=f"C{colour}")
            for radius in (1.177, 2.448):  # of chi with two degrees of freedom: 50 % and 95 %
                axes.plot(*(mean[datum] + radius * circle).T.numpy(), color="black", linewidth=1)
        axes.set(title=title, xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    figure.suptitle(f"Three of {NUM_DATA} data: samples, and the exact posterior's 50 % and 95 % ellipses (black)")
    return figure


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Sample both ways, print the errors, and write posterior.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/posterior_sampling"))
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    potential, x = make_problem()
    mean, covariance = potential.posterior(x)
    num_samples = 300 if options.quick else 2000
    panels = {
        "LastLayerALD, HMC with a test": sample_last_layer(potential, x, num_samples),
        "AmortizedLangevin, all layers, no test": sample_whole_network(potential, x, 2 * num_samples),
    }
    names = ("last layer", "whole network")
    results = {name: compare(name, s, mean, covariance) for name, s in zip(names, panels.values(), strict=True)}
    options.out.mkdir(parents=True, exist_ok=True)
    draw(panels, mean, covariance).savefig(options.out / "posterior.png", dpi=110)
    print(f"picture in {options.out / 'posterior.png'}")
    return results


if __name__ == "__main__":
    main()
