"""From RMSprop to a Bayesian average by one line: a digit classifier that has seen 500 labelled digits.

python examples/bayesian_classifier.py [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from ald_ext import PSGLD
from ald_ext.data import load_dataset

NUM_DATA, BATCH_SIZE, THINNING = 500, 50, 50
PRIOR_PRECISION = 3.0  # every parameter has the prior N(0, 1/3)


def load_digits() -> tuple[Tensor, Tensor]:
    """Return 2,500 digits, brightness in [0, 1], and their classes."""
    data = load_dataset("mnist5k")
    assert data.train_labels is not None  # other data sets may have none
    return data.train_images[:2500] / 255, data.train_labels[:2500]


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 100), nn.ReLU(), nn.Linear(100, 10))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> list[Tensor]:
    """Train, and return the thinned parameters of the last two thirds, each as one vector."""
    kept = []
    for step in range(1, steps + 1):
        batch = torch.randint(len(x), (BATCH_SIZE,))
        optimizer.zero_grad()
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
        if step == steps // 3 and isinstance(optimizer, PSGLD):
            optimizer.freeze_preconditioner()  # while it adapts, the samples are biased
        if step > steps // 3 and step % THINNING == 0:
            kept.append(nn.utils.parameters_to_vector(network.parameters()).detach().clone())
    return kept


@torch.no_grad()
def predict(network: nn.Module, samples: list[Tensor], x: Tensor) -> Tensor:
    """Return class probabilities, averaged over samples of the parameters."""
    total = torch.zeros(len(x), 10)
    for sample in samples:
        nn.utils.vector_to_parameters(sample, network.parameters())
        total += network(x).softmax(1)
    return total / len(samples)


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of each row of probabilities, in nats."""
    return torch.special.entr(probabilities).sum(1)


def score(predictions: dict[str, Tensor], y: Tensor) -> dict[str, float]:
    """Return scores on the digits, mean entropies of all inputs, and the AUROC of the entropy as a sign of no digit."""
    confidence, classes = predictions["digits"].max(1)
    nll = F.nll_loss(predictions["digits"].clamp_min(1e-12).log(), y)
    result = {"accuracy": (classes == y).float().mean(), "nll": nll, "confidence": confidence.mean()}
    entropies = {kind: entropy(probabilities) for kind, probabilities in predictions.items()}
    result |= {f"entropy of {kind}": values.mean() for kind, values in entropies.items()}
    values = torch.cat(list(entropies.values()))
    result["auroc"] = torch.tensor(roc_auc_score(torch.arange(len(values)) >= len(y), values))
    return {name: value.item() for name, value in result.items()}


def draw(images: Tensor, probabilities: Tensor, y: Tensor) -> Figure:
    """Draw the digits of the largest entropy, with the two likeliest classes of each."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    order = entropy(probabilities).argsort(descending=True)
    for axes, index in zip(figure.subplots(2, 8).flat, order.tolist(), strict=False):
        (first, second), (a, b) = (values.tolist() for values in probabilities[index].topk(2))
        axes.imshow(images[index, 0].numpy(), cmap="gray")
        axes.set_title(f"true {y[index]}\n{a}: {first:.2f}, {b}: {second:.2f}", fontsize=9)
        axes.set_axis_off()
    figure.suptitle("The most uncertain test digits: true class, and the two likeliest of the Bayesian average")
    return figure


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train in three ways, print scores and entropies, and write uncertain.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bayesian_classifier"))
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args(arguments)
    steps = 1500 if options.quick else 6000
    images, labels = load_digits()
    x, y, test_images, test_y = images[:NUM_DATA], labels[:NUM_DATA], images[NUM_DATA:], labels[NUM_DATA:]
    halves = torch.cat([test_images[..., :16], test_images.roll(1, 0)[..., 16:]], -1)  # of two digits, side by side
    inputs = {"digits": test_images, "turned": test_images.rot90(1, (2, 3)).contiguous(), "halves": halves}
    decay = PRIOR_PRECISION / NUM_DATA
    optimizers = {
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
        "RMSprop, weight decay": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=decay),
        "PSGLD": lambda p: PSGLD(p, lr=1e-2, num_data=NUM_DATA, weight_decay=decay, eps=1e-2, seed=0),  # the one line
    }
    results = {}
    for name, make_optimizer in optimizers.items():
        network = make_network()
        samples = train(network, make_optimizer(network.parameters()), x, y, steps)
        variants = {f"{name}, last": samples[-1:]} | ({f"{name}, average": samples} if name == "PSGLD" else {})
        for variant, members in variants.items():
            predictions = {kind: predict(network, members, values) for kind, values in inputs.items()}
            results[variant] = score(predictions, test_y)
            print(f"{variant:28}" + "  ".join(f"{key} {value:.3f}" for key, value in results[variant].items()))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(test_images, predictions["digits"], test_y).savefig(options.out / "uncertain.png", dpi=100)
    print(f"picture in {options.out / 'uncertain.png'}")
    return results


if __name__ == "__main__":
    main()
