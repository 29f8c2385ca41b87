"""From RMSprop to a Bayesian average: a digit classifier that has seen 500 labelled digits.

python examples/bayesian_classifier.py [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import SGHMC
from ald_ext.bayes import PosteriorSamples, Prediction, collect_parameters, diagnose, gaussian_prior, predict
from ald_ext.data import load_dataset

NUM_DATA, BATCH_SIZE, CHAINS, THINNING = 500, 50, 4, 25
GAIN = 4.0  # the prior is four times as wide as a network's initial weights


def load_digits() -> tuple[Tensor, Tensor]:
    """Return 2,500 digits, with a mean near 0 and a deviation near 1, and their classes."""
    data = load_dataset("mnist5k")
    assert data.train_labels is not None  # other data sets may have none
    return (data.train_images[:2500] / 255 - 0.13) / 0.31, data.train_labels[:2500]


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 100), nn.ReLU(), nn.Linear(100, 10))


def train(
    make_optimizer: Callable[[nn.Module, int], torch.optim.Optimizer], x: Tensor, y: Tensor, steps: int, **options: Any
) -> PosteriorSamples:
    """Return samples of the last two thirds of ``steps`` steps, or the last iterate, of one chain or several."""
    loader = DataLoader(TensorDataset(x, y), BATCH_SIZE, shuffle=True)
    return collect_parameters(make_network(), make_optimizer, F.cross_entropy, loader, **options, burn_in=steps)


def score(predictions: dict[str, Prediction], y: Tensor) -> dict[str, float]:
    """Return scores on the digits, mean entropies of all inputs, and the AUROC of the entropy as a sign of no digit."""
    probabilities = predictions["digits"].probabilities
    confidence, classes = probabilities.max(1)
    nll = F.nll_loss(probabilities.clamp_min(1e-12).log(), y)
    result = {"accuracy": (classes == y).float().mean(), "nll": nll, "confidence": confidence.mean()}
    entropies = {kind: prediction.entropy for kind, prediction in predictions.items()}
    result |= {f"entropy of {kind}": values.mean() for kind, values in entropies.items() if values is not None}
    values = torch.cat([each for each in entropies.values() if each is not None])
    result["auroc"] = torch.tensor(roc_auc_score(torch.arange(len(values)) >= len(y), values))
    return {name: value.item() for name, value in result.items()}


def draw(images: Tensor, prediction: Prediction, y: Tensor) -> Figure:
    """Draw the digits of the largest entropy, with the two likeliest classes of each."""
    assert prediction.entropy is not None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    order = prediction.entropy.argsort(descending=True)
    for axes, index in zip(figure.subplots(2, 8).flat, order.tolist(), strict=False):
        (first, second), (a, b) = (values.tolist() for values in prediction.probabilities[index].topk(2))
        axes.imshow(images[index, 0].numpy(), cmap="gray")
        axes.set_title(f"true {y[index]}\n{a}: {first:.2f}, {b}: {second:.2f}", fontsize=9)
        axes.set_axis_off()
    figure.suptitle("The most uncertain test digits: true class, and the two likeliest of the Bayesian average")
    return figure


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train in three ways, print scores and entropies, and write uncertain.png, diagnosis.json and diagnosis.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bayesian_classifier"))
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args(arguments)
    steps = 1200 if options.quick else 6000  # with a gradient each, over all chains
    images, labels = load_digits()
    x, y, test_images, test_y = images[:NUM_DATA], labels[:NUM_DATA], images[NUM_DATA:], labels[NUM_DATA:]
    halves = torch.cat([test_images[..., :16], test_images.roll(1, 0)[..., 16:]], -1)  # of two digits, side by side
    inputs = {"digits": test_images, "turned": test_images.rot90(1, (2, 3)).contiguous(), "halves": halves}

    last = {"steps": steps - 1, "num_samples": 1}
    per_chain = steps // CHAINS
    average = {"steps": per_chain // 3, "num_samples": 2 * per_chain // 3 // THINNING, "thinning": THINNING}
    runs = {
        "RMSprop": train(lambda net, _: torch.optim.RMSprop(net.parameters(), lr=1e-3), x, y, **last),
        "RMSprop, weight decay": train(
            lambda net, _: torch.optim.RMSprop(gaussian_prior(net, "he", NUM_DATA, gain=GAIN), lr=1e-3), x, y, **last
        ),
        "SGHMC": train(
            lambda net, chain: SGHMC(
                gaussian_prior(net, "he", NUM_DATA, gain=GAIN), lr=3e-2, num_data=NUM_DATA, seed=0, chain=chain
            ),
            x,
            y,
            **average,
            chains=CHAINS,
        ),
    }
    results = {}
    for name, samples in runs.items():
        variants = {f"{name}, last": samples[-1:]} | ({f"{name}, average": samples} if name == "SGHMC" else {})
        for variant, members in variants.items():
            predictions = {
                kind: predict(members, make_network(), values, batch_size=500) for kind, values in inputs.items()
            }
            results[variant] = score(predictions, test_y)
            print(f"{variant:28}" + "  ".join(f"{key} {value:.3f}" for key, value in results[variant].items()))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(test_images, predictions["digits"], test_y).savefig(options.out / "uncertain.png", dpi=100)
    diagnosis = diagnose(runs["SGHMC"], make_network(), test_images[:20], folder=options.out)
    found = diagnosis.summary()
    print(f"predictions of {len(runs['SGHMC'])} samples: R-hat {found['r_hat']}, ESS {found['ess']}")
    print(f"temperature {diagnosis.temperature:.3f} ± {diagnosis.temperature_error:.3f}")
    print(f"pictures in {options.out}: uncertain.png, diagnosis.png")
    return results


if __name__ == "__main__":
    main()
