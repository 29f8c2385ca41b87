"""Draws the pictures of docs/bayesian_networks.md: docs/pictures/bayesian_*.png. `make docs-pictures`, a minute."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ald_ext import SGHMC
from ald_ext.bayes import PosteriorSamples, collect_parameters, diagnose, gaussian_prior, predict

PICTURES = Path(__file__).parent / "pictures"
NUM_DATA, NOISE = 40, 0.2
BLUE = "#2060b0"


def make_data() -> tuple[Tensor, Tensor]:
    """Two groups of inputs with a gap between them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.rand(NUM_DATA // 2, 1, generator=generator) - 2, torch.rand(NUM_DATA // 2, 1, generator=generator) + 1]
    )
    return x, torch.sin(2 * x) + NOISE * torch.randn(NUM_DATA, 1, generator=generator)


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 50), nn.Tanh(), nn.Linear(50, 1))


def collect(network: nn.Module, x: Tensor, y: Tensor) -> PosteriorSamples:
    """Four chains of the potential of all data, y = f(x) + N(0, NOISE²)."""
    prior = {"": "he", "0": 2.0}
    return collect_parameters(
        network,
        lambda module, chain: SGHMC(
            gaussian_prior(module, prior, NUM_DATA), lr=3e-3, momentum=0.98, num_data=NUM_DATA, seed=0, chain=chain
        ),
        lambda output, target: mse_loss(output, target) / (2 * NOISE**2),
        [(x, y)],
        burn_in=1000,
        num_samples=100,
        thinning=40,
        chains=4,
    )


def draw_regression(x: Tensor, y: Tensor, network: nn.Module, samples: PosteriorSamples) -> Figure:
    """Bands of the function's mean and two deviations, and with the noise, over the data and a few samples."""
    grid = torch.linspace(-4, 4, 300)[:, None]
    prediction = predict(samples, network, grid, kind="regression")
    few = [predict(samples[number : number + 1], network, grid, kind="regression").mean for number in range(0, 400, 57)]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    mean, line = prediction.mean[:, 0], grid[:, 0].numpy()
    for deviation, alpha, label in (
        ((prediction.std[:, 0] ** 2 + NOISE**2).sqrt(), 0.15, "with the noise, ± 2 sd"),
        (prediction.std[:, 0], 0.3, "function, ± 2 sd"),
    ):
        low, high = (mean - 2 * deviation).numpy(), (mean + 2 * deviation).numpy()
        axes.fill_between(line, low, high, color=BLUE, alpha=alpha, linewidth=0, label=label)
    for sample in few:
        axes.plot(line, sample[:, 0].numpy(), color=BLUE, linewidth=0.6, alpha=0.7)
    axes.plot(line, mean.numpy(), color=BLUE, linewidth=2, label="mean of 400 samples")
    axes.plot(line, [math.sin(2 * value) for value in line], color="black", linestyle=":", label="truth")
    axes.plot(x[:, 0].numpy(), y[:, 0].numpy(), "k.", label="data")
    axes.set(xlim=(-4, 4), ylim=(-4, 4))
    axes.legend(fontsize=8, ncols=3, loc="lower center")
    return figure


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    x, y = make_data()
    network = make_network()
    samples = collect(network, x, y)
    figures = {
        "bayesian_regression": draw_regression(x, y, network, samples),
        "bayesian_diagnosis": diagnose(samples, network, torch.linspace(-4, 4, 41)[:, None], kind="regression").draw(),
    }
    for name, figure in figures.items():
        figure.savefig(PICTURES / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
