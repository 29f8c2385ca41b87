"""How many parameters does the loss see? The local learning coefficient of networks of 1 to 16 hidden units.

The data come from a network of two hidden units, so wider ones have directions along which the loss hardly rises.

python examples/local_learning_coefficient.py [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ald_ext.bayes import LearningCoefficient, local_learning_coefficient

NUM_DATA, NOISE = 2000, 0.5


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log likelihood of Gaussian noise, but for a constant."""
    return (outputs - targets).square().mean() / (2 * NOISE**2)


def make_network(hidden: int) -> nn.Sequential:
    torch.manual_seed(hidden)
    return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))


def make_data() -> tuple[Tensor, Tensor]:
    """Return inputs of three dimensions, and what a network of two hidden units gives, with noise."""
    torch.manual_seed(0)
    x, teacher = torch.randn(NUM_DATA, 3), make_network(2)
    with torch.no_grad():
        for name in ("0.weight", "2.weight"):
            teacher.get_parameter(name).mul_(3)
        return x, teacher(x) + NOISE * torch.randn(NUM_DATA, 1)


def train(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Minimize the loss of all data; a coefficient is one of a minimum."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        half_squares(network(x), y).backward()
        optimizer.step()
        schedule.step()


def draw(results: dict[int, LearningCoefficient], sizes: dict[int, int], path: Path) -> None:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    errors = [2 * result.standard_error for result in results.values()]
    axes.errorbar(list(results), [result.estimate for result in results.values()], errors, fmt="o-", label="estimate")
    axes.plot(list(sizes), [size / 2 for size in sizes.values()], "--", color="0.5", label="half of the parameters")
    axes.set(xlabel="hidden units (2 made the data)", ylabel="local learning coefficient", xscale="log")
    axes.set_xticks(list(results), [str(hidden) for hidden in results])
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main(arguments: list[str] | None = None) -> dict[int, LearningCoefficient]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("learning_coefficients"), help="where results go")
    parser.add_argument("--quick", action="store_true", help="few steps")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    x, y = make_data()
    results, sizes = {}, {}
    for hidden in (1, 2, 8) if given.quick else (1, 2, 4, 8, 16):
        network = make_network(hidden)
        train(network, x, y, 1000 if given.quick else 4000)
        sizes[hidden] = sum(param.numel() for param in network.parameters())
        results[hidden] = local_learning_coefficient(
            network,
            half_squares,
            [(x, y)],  # one minibatch, of all data
            lr=0.02,
            num_data=NUM_DATA,
            localization=1.0,
            num_steps=300 if given.quick else 3000,
            burn_in=200 if given.quick else 2000,
            chains=2 if given.quick else 4,
            seed=0,
        )
        estimate, error = results[hidden].estimate, results[hidden].standard_error
        print(
            f"{hidden} hidden units: {sizes[hidden]} parameters, coefficient {estimate:.2f} ± {error:.2f}", flush=True
        )
        results[hidden].save(given.out / f"hidden_{hidden}.json")
        results[hidden].draw(given.out / f"hidden_{hidden}.png")
    draw(results, sizes, given.out / "learning_coefficients.png")
    return results


if __name__ == "__main__":
    main()
