"""Networks with data, a loss and a prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Problem:
    """A network, its data in three parts, and the negative log-likelihood per datum.

    Attributes:
        train, validation, test: inputs and targets.
        make: the network, initialized by torch's default generator.
        nll: of outputs and targets, (n,): the loss is its mean. Of classes it is the cross-entropy.
        prior_gain: the prior of weights is N(0, 2·gain²/inputs), that of He initialization at 1.
        temperature: T of the posterior.
    """

    name: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    make: Callable[[], nn.Module]
    nll: Callable[[Tensor, Tensor], Tensor]
    prior_gain: float = 1.0
    temperature: float = 1.0
    batch_size: int = 50

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.nll(outputs, targets).mean()

    def loader(self, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(TensorDataset(*self.train), self.batch_size, shuffle=True, generator=generator)

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups whose weight decay is the prior; a bias has that of its layer's weights."""
        groups = []
        for layer in network.modules():
            parameters = list(layer.parameters(recurse=False))
            if parameters:
                variance = 2 * self.prior_gain**2 / parameters[0][0].numel()
                groups.append({"params": parameters, "weight_decay": 1 / (len(self.train[0]) * variance)})
        return groups


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def normal_nll(deviation: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Of outputs (n, 1), with noise of a known deviation."""

    def nll(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs[..., 0] - targets) / deviation).square() / 2 + math.log(deviation * math.sqrt(2 * math.pi))

    return nll


def heteroscedastic_nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of outputs (n, 2): mean and logarithm of the deviation."""
    mean, log_deviation = outputs.unbind(-1)
    return ((targets - mean) / log_deviation.exp()).square() / 2 + log_deviation + math.log(2 * math.pi) / 2


def split(x: Any, y: Any, sizes: tuple[int, int], seed: int) -> list[tuple[Tensor, Tensor]]:
    """Shuffle, and cut into training, validation and test parts; the last has what is left."""
    x, y = torch.as_tensor(x).float(), torch.as_tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = order.split([*sizes, len(x) - sum(sizes)])
    return [(x[part], y[part]) for part in parts]


def standardized(values: Any) -> Tensor:
    values = torch.as_tensor(values).float()
    return (values - values.mean(0)) / values.std(0)


def perceptron(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> Callable[[], nn.Module]:
    """A multilayer perceptron of these layer sizes."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
        return nn.Sequential(*layers[:-1])

    return make


def digits(seed: int = 0, **options: Any) -> Problem:
    """500 of scikit-learn's digits, 8 x 8 with brightness in [0, 1]; 297 for validation, 1,000 for tests."""
    data = datasets.load_digits()
    parts = split(data.data / 16, data.target, (500, 297), seed)
    return Problem("digits", *parts, perceptron(64, 100, 10), cross_entropy, **options)


def wine() -> Problem:
    """Logistic regression of three kinds of wine on 13 measurements."""
    data = datasets.load_wine()
    parts = split(standardized(data.data), data.target, (90, 0), 0)
    return Problem("wine, logistic regression", *parts, perceptron(13, 3), cross_entropy, prior_gain=2.0, batch_size=30)


def diabetes() -> Problem:
    """Linear regression, with the noise's deviation known to be 0.7 of that of the targets."""
    data = datasets.load_diabetes()
    parts = split(standardized(data.data), standardized(data.target), (250, 0), 0)
    return Problem("diabetes, linear regression", *parts, perceptron(10, 1), normal_nll(0.7))


def heteroscedastic() -> Problem:
    """Regression in one dimension with a noise that grows with x; the network gives mean and deviation."""
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(1200, 1, generator=generator) - 2
    noise = (0.05 + 0.15 * (x[:, 0] + 2)) * torch.randn(1200, generator=generator)
    parts = split(x, torch.sin(2 * x[:, 0]) + noise, (200, 0), 0)
    make = perceptron(1, 50, 2, activation=nn.Tanh)
    return Problem("heteroscedastic regression", *parts, make, heteroscedastic_nll, prior_gain=2.0)


def friedman() -> Problem:
    """Friedman's first function of 10 variables, of which 5 matter, with noise of a known deviation."""
    x, y = datasets.make_friedman1(1500, noise=1.0, random_state=0)
    parts = split(standardized(x), (torch.as_tensor(y).float() - 14) / 5, (300, 0), 0)
    return Problem("friedman, perceptron", *parts, perceptron(10, 50, 1), normal_nll(0.2))


def small_convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def convolutional_digits() -> Problem:
    """A convolutional network on 500 digits of 8 x 8."""
    data = datasets.load_digits()
    parts = split(data.data / 16, data.target, (500, 0), 1)
    return Problem("digits, convolutional", *parts, small_convolutional, cross_entropy, prior_gain=2.0)
