"""Networks with data, a loss and a prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from ald_ext.data import load_dataset


@dataclass(frozen=True)
class Problem:
    """A network, its data in three parts, and the negative log-likelihood per datum.

    Attributes:
        train, validation, test: inputs and targets.
        make: the network, initialized by torch's default generator.
        nll: of outputs and targets, (n,): the loss is its mean. Of classes it is the cross-entropy.
        prior_gain: the prior of weights is N(0, 2·gain²/inputs), that of He initialization at 1.
        temperature: T of the posterior.
        budget: number of gradients of minibatches that each method has.
        shifts: functions of the test inputs, by name, that give inputs unlike the training data.
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
    budget: int = 10_000
    shifts: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        return self.nll is cross_entropy

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.nll(outputs, targets).mean()

    def loader(self, seed: int) -> DataLoader[Any]:
        """Minibatches of a shuffled epoch, each indexed at once, which is several times as fast as datum by datum."""
        generator, data = torch.Generator().manual_seed(seed), TensorDataset(*self.train)
        batches = BatchSampler(RandomSampler(data, generator=generator), self.batch_size, drop_last=False)
        return DataLoader(data, sampler=batches, batch_size=None, generator=generator)

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


def noisy(deviation: float) -> Callable[[Tensor], Tensor]:
    """Brightness in [0, 1] with Gaussian noise, always the same."""

    def shift(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        return (x + deviation * noise).clamp(0, 1)

    return shift


def rotated(degrees: float, side: int) -> Callable[[Tensor], Tensor]:
    """Square images (n, side²), turned counterclockwise by an angle, with zeros where nothing was."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])

    def shift(x: Tensor) -> Tensor:
        images = x.view(-1, 1, side, side)
        grid = F.affine_grid(turn.expand(len(x), 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False).view_as(x)

    return shift


def digits(seed: int = 0, **options: Any) -> Problem:
    """500 of scikit-learn's digits, 8 x 8 with brightness in [0, 1]; 297 for validation, 1,000 for tests."""
    data = datasets.load_digits()
    parts = split(data.data / 16, data.target, (500, 297), seed)
    shifts = {"turned": rotated(90, 8), "noisy": noisy(0.3)}
    return Problem("digits", *parts, perceptron(64, 100, 10), cross_entropy, shifts=shifts, **options)


#: Angles in degrees by which the test images of MNIST are turned.
ANGLES = (15, 30, 45, 60)
#: Number of test images of MNIST.
MNIST_TESTS = 1500


def mnist(seed: int = 0, **options: Any) -> Problem:
    """2,000 of MNIST's digits, padded to 32 x 32; 500 for validation; 1,500 for tests."""
    data = load_dataset("mnist5k")
    images, labels = torch.cat([data.train_images, data.test_images]), torch.cat([data.train_labels, data.test_labels])
    training, validation, test = split(images.flatten(1) / 255, labels, (2000, 500), seed)
    shifts = {f"turned by {angle}°": rotated(angle, 32) for angle in ANGLES}
    shifts |= {f"noise of {deviation:g}": noisy(deviation) for deviation in (0.2, 0.4)}
    parts = (training, validation, tuple(part[:MNIST_TESTS] for part in test))
    return Problem("MNIST", *parts, perceptron(1024, 100, 10), cross_entropy, budget=3000, shifts=shifts, **options)


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


def regression(name: str, x: Any, y: Any, sizes: tuple[int, int], seed: int, **options: Any) -> Problem:
    """Inputs and targets in units of the training data's deviations; a perceptron gives mean and log deviation."""
    parts = split(x, torch.as_tensor(y).float(), sizes, seed)
    (x_mean, x_deviation), (y_mean, y_deviation) = ((part.mean(0), part.std(0)) for part in parts[0])
    scaled = [((x - x_mean) / x_deviation, (y - y_mean) / y_deviation) for x, y in parts]
    return Problem(name, *scaled, perceptron(x.shape[1], 50, 2), heteroscedastic_nll, budget=3000, **options)


def diabetes_network(seed: int = 0, **options: Any) -> Problem:
    """How far diabetes has progressed after a year, from ten measurements of 442 patients."""
    data = datasets.load_diabetes()
    return regression("diabetes", data.data, data.target, (250, 60), seed, **options)


def alcohol_network(seed: int = 0, **options: Any) -> Problem:
    """The alcohol of 178 wines, from their twelve other measurements."""
    data = datasets.load_wine().data
    return regression("alcohol of wines", data[:, 1:], data[:, 0], (100, 30), seed, **options)


def friedman_network(seed: int = 0, **options: Any) -> Problem:
    """Friedman's first function, of ten variables of which five matter, with noise."""
    x, y = datasets.make_friedman1(1300, noise=1.0, random_state=0)
    return regression("Friedman's first function", x, y, (240, 60), seed, **options)


#: Those of each part of the comparison of methods: functions of the split's number.
COMPARED = {
    "digits": (digits,),
    "mnist": (mnist,),
    "regression": (diabetes_network, alcohol_network, friedman_network),
}
