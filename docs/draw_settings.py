"""Draws what each setting of an optimizer does, right and wrong: docs/pictures/*.png. `make docs-pictures`, 20 seconds.

Every target is known exactly: the standard normal, or the posterior of the mean of Gaussian data. A parameter of
CHAINS elements is that many independent chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import PSGLD, SGLD
from ald_ext.bayes import suggest_settings

PICTURES = Path(__file__).parent / "pictures"
CHAINS = 4000
BLUE, RED, GREY = "#2060b0", "#c03030", "#808080"


def run(optimizer: type[torch.optim.Optimizer], loss: Callable[[Tensor], Tensor], steps: int, **options: Any) -> Tensor:
    """(steps, CHAINS) iterates from 0; the loss of each chain is that of one parameter."""
    theta = torch.zeros(CHAINS, requires_grad=True)
    chain = optimizer([theta], seed=0, **options)
    trace = torch.empty(steps, CHAINS)
    for step in range(steps):
        chain.zero_grad()
        loss(theta).sum().backward()
        chain.step()
        trace[step] = theta.detach()
    return trace


def standard_normal(theta: Tensor) -> Tensor:
    """U = θ²/2 of N(0, 1): a potential, so that num_data is 1."""
    return theta.square() / 2


def histogram(
    axes: Axes, samples: Tensor, title: str, *, right: bool, mean: float = 0.0, deviation: float = 1.0
) -> None:
    """The samples' density over the exact one."""
    width = max(4 * deviation, 3.2 * samples.std().item())
    x = torch.linspace(mean - width, mean + width, 4000)
    density = torch.exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
    bins = torch.linspace(mean - width, mean + width, 80).tolist()
    axes.hist(samples.flatten().numpy(), bins=bins, density=True, color=BLUE if right else RED, alpha=0.6)
    axes.plot(x.numpy(), density.numpy(), color="black", linewidth=1.2)
    axes.set_title(title, fontsize=10)
    axes.set_yticks([])


def traces(axes: Axes, trace: Tensor, title: str, *, right: bool) -> None:
    axes.plot(trace[:, :3].numpy(), linewidth=0.7, color=BLUE if right else RED, alpha=0.8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)


def panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.4 * count, 2.7), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False).flat)


def draw_lr() -> Figure:
    """Of N(0, 1), 300 steps of three chains each: too slow, right, too large."""
    figure, axes = panels(3)
    for place, lr, verdict in zip(axes, (0.001, 0.1, 1.9), ("too small", "right", "too large"), strict=True):
        trace = run(SGLD, standard_normal, 300, lr=lr, num_data=1)
        variance = trace[-1].var().item()
        traces(place, trace, f"lr = {lr}, {verdict}: variance {variance:.2f}", right=verdict == "right")
        place.axhspan(-2, 2, color=GREY, alpha=0.2)
    return figure


def draw_num_data() -> Figure:
    """The mean of 1,000 data of N(0, 1), whose posterior under a flat prior is N(0, 1/1000)."""
    figure, axes = panels(3)
    for place, num_data in zip(axes, (1000, 1, 1_000_000), strict=True):
        samples = run(SGLD, standard_normal, 200, lr=0.1, num_data=num_data)[100:]
        title = f"num_data = {num_data:,}: sd {samples.std():.2g}"
        histogram(place, samples, title, right=num_data == 1000, deviation=1000**-0.5)
        place.set_xlim(-0.25, 0.25)
    return figure


def draw_temperature() -> Figure:
    figure, axes = panels(3)
    for place, temperature in zip(axes, (1.0, 0.1, 4.0), strict=True):
        samples = run(SGLD, standard_normal, 200, lr=0.05, num_data=1, temperature=temperature)[100:]
        histogram(place, samples, f"temperature = {temperature:g}: sd {samples.std():.2f}", right=temperature == 1)
        place.set_xlim(-6.5, 6.5)
    return figure


def draw_eps() -> Figure:
    """A parameter whose gradient is zero: nothing holds it, and its noise is √(2·lr·T/(N·λ)) a step."""
    figure, axes = panels(3)
    for place, eps in zip(axes, (0.1, 1e-3, 1e-8), strict=True):
        trace = run(PSGLD, lambda theta: 0 * theta, 1000, lr=1e-3, num_data=1000, eps=eps)
        traces(place, trace, f"eps = {eps:g}: sd {trace[-1].std():.2g} after 1,000 steps", right=eps == 0.1)
    return figure


def draw_freeze_after() -> Figure:
    figure, axes = panels(2)
    for place, freeze_after in zip(axes, (500, None), strict=True):
        options = {"lr": 0.01, "num_data": 1, "alpha": 0.99, "freeze_after": freeze_after}
        samples = run(PSGLD, standard_normal, 4000, **options)[1500::50]
        title = f"freeze_after = {freeze_after}: variance {samples.var():.2f}"
        histogram(place, samples, title, right=freeze_after is not None)
    return figure


def draw_suggestion() -> Figure:
    """What suggest_settings measured of a perceptron on Friedman's first function, for SGLD."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(300, 10, generator=generator)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = (y + torch.randn(300, generator=generator) - 14) / 5
    loader = DataLoader(TensorDataset(x, y), 50, shuffle=True, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 1))
    groups = [{"params": list(network.parameters()), "weight_decay": 1 / len(x)}]
    return suggest_settings(
        network, lambda mean, y: ((mean[:, 0] - y) / 0.2).square().mean() / 2, loader, params=groups
    ).draw()


def draw_localization() -> Figure:
    """The mean of 20 data, N(0, 1/20) under a flat prior, with anchors at 1."""
    figure, axes = panels(3)
    for place, localization in zip(axes, (0.0, 20.0, 200.0), strict=True):
        anchors = {"localization": localization, "anchors": [torch.ones(CHAINS)]} if localization else {}
        samples = run(SGLD, standard_normal, 1000, lr=0.01, num_data=20, **anchors)[500:]
        precision = 20 + localization
        title = f"localization = {localization:g}: mean {samples.mean():.2f}, sd {samples.std():.2f}"
        exact = {"mean": localization / precision, "deviation": precision**-0.5}
        histogram(place, samples, title, right=True, **exact)
        place.axvline(1.0, color=GREY, linestyle=":")
        place.set_xlim(-1.0, 1.6)
    return figure


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name in ("lr", "num_data", "temperature", "localization", "eps", "freeze_after", "suggestion"):
        globals()[f"draw_{name}"]().savefig(PICTURES / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
