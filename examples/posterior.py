"""One posterior in one call: logistic regression on 569 real tumours, with the scale of its weights.

python examples/posterior.py [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.distributions import Bernoulli, HalfNormal, Normal, constraints

from ald_ext.samplers import Posterior, sample


def draw(posterior: Posterior, names: list[str]) -> Figure:
    """Draw 95 % intervals of the weights in the order of their means, and the traces of the scale of all chains."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    intervals, traces = figure.subplots(1, 2, width_ratios=(3, 2))
    order = posterior.mean["weight"].argsort()
    weights = posterior.samples["weight"].flatten(0, 1)[:, order]
    low, middle, high = weights.quantile(torch.tensor([0.025, 0.5, 0.975]), 0)
    places = range(len(names))
    intervals.hlines(places, low.numpy(), high.numpy(), color="#2060b0", linewidth=3)
    intervals.plot(middle.numpy(), places, "o", color="black", markersize=4)
    intervals.axvline(0, color="#808080", linewidth=1)
    intervals.set_yticks(places, [names[place] for place in order.tolist()], fontsize=8)
    intervals.set(title="weights: medians and 95 % intervals", xlabel="log odds of a benign tumour")
    traces.plot(posterior.samples["scale"].numpy(), linewidth=0.4)
    largest = float(posterior.r_hat["scale"])
    traces.set(title=f"scale of the weights, all chains: R-hat {largest:.3f}", xlabel="draw")
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Sample, print what was found, and write posterior.png, posterior.json and, for ArviZ, posterior.nc."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/posterior"))
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    options = parser.parse_args(arguments)
    data = load_breast_cancer()
    x = torch.tensor(data.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.tensor(data.target, dtype=torch.float32)

    def log_density(p: dict[str, Tensor]) -> Tensor:
        prior = HalfNormal(1.0).log_prob(p["scale"]) + Normal(0.0, 5.0).log_prob(p["intercept"])
        prior = prior + Normal(0.0, p["scale"]).log_prob(p["weight"]).sum()
        return prior + Bernoulli(logits=x @ p["weight"] + p["intercept"]).log_prob(y).sum()

    posterior = sample(
        log_density,
        {"intercept": (), "weight": (30,), "scale": ()},
        constraints={"scale": constraints.positive},
        num_samples=100 if options.quick else 1000,
        seed=0,
        progress=True,
    )
    mean, size, r_hat = posterior.mean, posterior.effective_sample_size, posterior.r_hat
    accuracy = ((x.double() @ mean["weight"] + mean["intercept"] > 0) == (y > 0)).double().mean()
    results: dict[str, Any] = {
        "chains": posterior.sampler.z.shape[1],
        "draws": len(posterior.samples["scale"]),
        "gradients of a chain": posterior.num_gradients,
        "divergences": int(posterior.divergences.sum()),
        "smallest effective sample size": min(float(values.min()) for values in size.values()),
        "largest R-hat": max(float(values.max()) for values in r_hat.values()),
        "scale": [float(mean["scale"]), float(posterior.standard_deviation["scale"])],
        "accuracy on the data themselves": float(accuracy),
    }
    for name, value in results.items():
        print(f"{name:32} {value if isinstance(value, (int, list)) else round(value, 4)}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "posterior.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(posterior, data.feature_names.tolist()).savefig(options.out / "posterior.png", dpi=100)
    posterior.save_netcdf(options.out / "posterior.nc")
    print(f"picture, figures and draws in {options.out}")
    return results


if __name__ == "__main__":
    main()
