"""How wide optimizers with minibatches make a posterior that is known: <out>/gradient_noise.json.

python -m benchmarks.samplers.gradient_noise --out benchmarks/results [--quick]
python -m benchmarks.samplers.gradient_noise --page [--check]

Bayesian linear regression with a flat prior and minibatches of 32 of 1,000 data, drawn anew for each of many
independent chains, which begin at exact draws of the posterior. Where features are independent, so are the gradient
noises of the parameters; where features are correlated, both they and the posterior are. The second command writes
docs/results/gradient_noise.md and its picture of the file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ald_ext import SGHMC, SGNHT
from ald_ext.files import write_atomically, write_json
from ald_ext.paper.pictures import new_picture, save_picture
from ald_ext.paper.report.tables import markdown_table

from ..harness import make_folder, progress
from ..page import PAGES, RESULTS
from ..provenance import describe_run

NUM_DATA, DIMENSION, BATCH, CHAINS = 1000, 4, 32, 256
STEPS, BURN_IN, QUICK_STEPS, QUICK_BURN_IN = 3000, 1000, 60, 20
LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4.6e-3, 1e-2, 2e-2)
#: Each parameter's feature is its column's mixture of independent ones.
CORRELATED = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 1.0, 0.0, 0.0], [0.0, 0.3, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5]])
DESIGNS = {"independent": torch.eye(DIMENSION), "correlated": CORRELATED}
#: Optimizers by what the page calls them, as functions of parameters and lr.
OPTIMIZERS: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "SGHMC": lambda params, lr: SGHMC(params, lr, num_data=NUM_DATA, seed=1),
    "SGNHT": lambda params, lr: SGNHT(params, lr, num_data=NUM_DATA, seed=1),
    "SGNHT, diffusion=0.3": lambda params, lr: SGNHT(params, lr, num_data=NUM_DATA, seed=1, diffusion=0.3),
}


@dataclass(frozen=True)
class Regression:
    """Features (n, d), responses (n,) of unit noise, and the posterior of the weights, N(mean, covariance)."""

    features: Tensor
    responses: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of_design(cls, mixture: Tensor) -> Regression:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(NUM_DATA, DIMENSION, generator=generator) @ mixture
        weights = torch.tensor([1.0, -1.0, 0.5, 2.0])
        responses = features @ weights + torch.randn(NUM_DATA, generator=generator)
        covariance = torch.linalg.inv((features.T @ features).double())
        mean = covariance @ (features.T @ responses).double()
        return cls(features, responses, mean.float(), covariance.float())

    def minibatch_gradient(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """The gradient of the mean loss, (chains, d), on a minibatch of each chain's own."""
        batch = torch.randint(NUM_DATA, (len(weights), BATCH), generator=generator)
        features = self.features[batch]
        residuals = (features @ weights[..., None])[..., 0] - self.responses[batch]
        return (residuals[..., None] * features).mean(1)


def sd_ratios(
    regression: Regression, make: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int, burn_in: int
) -> tuple[list[float], list[float]]:
    """Return sampled over exact sd of each weight, with standard errors from the spread over chains."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(CHAINS, DIMENSION, generator=generator)
    weights = (regression.mean + noise @ torch.linalg.cholesky(regression.covariance).T).requires_grad_()
    optimizer, squares = make([weights]), torch.zeros(CHAINS, DIMENSION, dtype=torch.float64)
    sd = regression.covariance.diagonal().sqrt()
    for step in range(steps):
        weights.grad = regression.minibatch_gradient(weights.detach(), generator)
        optimizer.step()
        if step >= burn_in:
            squares += ((weights.detach() - regression.mean) / sd).square().double() / (steps - burn_in)
    ratio = squares.mean(0).sqrt()
    return ratio.tolist(), (squares.std(0) / math.sqrt(CHAINS) / (2 * ratio)).tolist()


def measure_all(quick: bool) -> list[dict[str, Any]]:
    rows = []
    steps, burn_in = (QUICK_STEPS, QUICK_BURN_IN) if quick else (STEPS, BURN_IN)
    for design, mixture in DESIGNS.items():
        regression = Regression.of_design(mixture)
        for name, make in OPTIMIZERS.items():
            for lr in LEARNING_RATES[-2:] if quick else LEARNING_RATES:
                ratios, errors = sd_ratios(
                    regression, lambda params, make=make, lr=lr: make(params, lr), steps, burn_in
                )
                rows.append({"features": design, "optimizer": name, "lr": lr, "sd_ratios": ratios, "errors": errors})
                progress(f"{design}: {name}, lr {lr}: {min(ratios):.3f} to {max(ratios):.3f}")
    return rows


INTRODUCTION = """# Noise of minibatches

The noise of a minibatch's gradient heats every optimizer here but {{class}}`~ald_ext.SGNHT`, whose friction takes it
up. In a Bayesian linear regression on {num_data} data with minibatches of {batch}, whose posterior is known, the ratio
of sampled to exact sd is, from the smallest to the largest of {dimension} weights (standard errors up to {error:.3f}),
for several `lr`:"""

READING = """The heat grows with `lr` and with 1/(batch size), and falls with friction. Take **SGHMC** where the step is
so small, or the minibatch so large, that it does not matter: its friction needs no time to settle. Take **SGNHT** where
the sd under SGHMC falls when `lr` is halved. Its friction is one for each parameter: it takes up the noise of each, but
not the correlations between them. On independent features its sd is right, up to the error of the largest steps. On
correlated features it is too small, by much less than SGHMC's is too large; a larger `diffusion` makes the noise of
gradients a smaller part of all noise, and a smaller `lr` helps both.

![Ratio of sampled to exact sd over lr](gradient_noise.png)"""


def noise_page(results: dict[str, Any]) -> str:
    rows = results["rows"]
    rates = sorted({row["lr"] for row in rows})
    parts = [
        INTRODUCTION.format(
            num_data=f"{NUM_DATA:,}",
            batch=BATCH,
            dimension=DIMENSION,
            error=max(error for row in rows for error in row["errors"]),
        )
    ]
    for design in DESIGNS:
        lines = [
            [
                name,
                *(
                    f"{min(row['sd_ratios']):.2f} to {max(row['sd_ratios']):.2f}"
                    for row in rows
                    if (row["features"], row["optimizer"]) == (design, name)
                ),
            ]
            for name in OPTIMIZERS
        ]
        parts.append(markdown_table([f"{design} features", *(f"{lr:g}" for lr in rates)], lines))
    parts.append(READING)
    parts.append(
        f"`benchmarks/results/gradient_noise.json`, {results['date'][:10]}, by `{results['origin']}`: torch "
        f"{results['versions']['torch']}, ald_ext {results['versions']['ald_ext']}."
    )
    return "\n\n".join(parts) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    picture, panels = new_picture(1, 2, (9, 3.6), sharey=True)
    for axes, design in zip(panels[0], DESIGNS, strict=True):
        axes.axhspan(0.95, 1.05, color="black", alpha=0.08)
        axes.axhline(1, color="black", linewidth=1)
        for color, name in zip(("#c03030", "#2060b0", "#50a050"), OPTIMIZERS, strict=True):
            rows = [row for row in results["rows"] if (row["features"], row["optimizer"]) == (design, name)]
            ratios = [row["sd_ratios"] for row in rows]
            rates = [row["lr"] for row in rows]
            axes.fill_between(
                rates, [min(each) for each in ratios], [max(each) for each in ratios], color=color, alpha=0.3
            )
            axes.plot(rates, [sum(each) / len(each) for each in ratios], "o-", markersize=4, color=color, label=name)
        axes.set(xscale="log", xlabel="lr", title=f"{design} features")
    panels[0, 0].set_ylabel("sampled / exact sd")
    panels[0, 0].legend()
    save_picture(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the file; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few steps: figures mean nothing")
    parser.add_argument("--page", action="store_true", help="write the page of the file, and measure nothing")
    parser.add_argument("--check", action="store_true", help="with --page: fail where it is not of the file")
    arguments = parser.parse_args()
    path = arguments.out / "gradient_noise.json"
    if arguments.quick and arguments.out.resolve() == RESULTS:
        parser.error("--quick: its rough figures do not go to benchmarks/results; give another folder by --out")
    if not arguments.page:
        make_folder(arguments.out, parser)
        torch.set_num_threads(1)
        facts = describe_run(torch.device("cpu"), "python -m benchmarks.samplers.gradient_noise")
        write_json(path, {**facts, "quick": arguments.quick, "rows": measure_all(arguments.quick)})
        return
    results = json.loads(path.read_text())
    pages = PAGES if arguments.out.resolve() == RESULTS else arguments.out
    page, text = pages / "gradient_noise.md", noise_page(results)
    if arguments.check:
        if not page.exists() or page.read_text() != text:
            sys.exit(f"{page}: got a text that is not of {path.name}; --page without --check writes it")
        return
    write_atomically(page, lambda file: file.write_text(text))
    draw(results, pages / "gradient_noise.png")


if __name__ == "__main__":
    main()
