"""A CLAE whose sampler has more and more inputs, up to a GAN's generator, beside a GAN (paper: Appendix E)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ...data import ImageData, load_dataset
from ...dequantization import scale_pixels
from ...metrics import GaussianAccumulator, GaussianStatistics, frechet_distance
from ...models import CLAE, CLAEConfig, ModelConfig
from ...models.lae import SampledByLangevin, scale_to_spread
from ...models.networks import Encoder
from ...training import TrainingConfig, fit
from ...training.pictures import grid
from ..pictures import Figure, new_picture
from ..results import Difference
from ..workers import Progress
from .eight_gaussians import NUM_MODES, EightGaussiansSettings, centers, exact_spread
from .experiment import Experiment, Outcome

#: The target of the experiment eight-gaussians.
TARGET = EightGaussiansSettings()
#: Standard deviations of a mode beyond which a sample is far from it.
FAR = 3
#: Share of the samples that a mode has to have to count.
SMALLEST_SHARE = 0.01
NUM_CLASSES = 10
CLASSIFIER_EPOCHS, CLASSIFIER_LR = 6, 3e-3
SHOWN_IMAGES, SHOWN_COLUMNS = 36, 6


class GAN(CLAE):
    """A GAN with the -log D trick on the networks of a CLAE, D = σ(-E): E rises, and -log D falls, at its samples."""

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean of -log p(x | z) - log D(z) - log(1 - D(z⁻)), and of -log D(z⁻) for the generator alone."""
        z, negative = self.encode(x), self.prior_states(torch.arange(len(x)))
        fixed = {name: parameter.detach() for name, parameter in self.energy_network.named_parameters()}
        generator = functional_call(self.energy_network, fixed, (negative,)).squeeze(1)
        discriminator = F.softplus(self.energy(z)) + F.softplus(-self.energy(negative.detach()))
        loss = (self.negative_log_likelihood(x, z) + discriminator + F.softplus(generator)).mean()
        return loss + self.config.energy_smoothness / 2 * self.steepness(torch.cat([z, negative]))


class NoisyGenerator(CLAE):
    """A CLAE whose inputs are drawn anew in each step, and whose sampler still has the noise of n chains."""

    parameter_groups = SampledByLangevin.parameter_groups


@dataclass(frozen=True)
class Variant:
    """A CLAE or a GAN: its class, its number of chains over that of the data, and its temperature."""

    model: type[CLAE] = CLAE
    chains: float = math.inf
    temperature: float = 1.0


#: From the sampler of Eq. 15 to a GAN; each but k=inf+noise differs by one thing from the one before.
VARIANTS = {
    "k=0.1n": Variant(chains=0.1),
    "k=n": Variant(chains=1),
    "k=10n": Variant(chains=10),
    "k=inf+noise": Variant(NoisyGenerator),
    "k=inf": Variant(),
    "k=inf+mle": Variant(temperature=0.0),
    "gan": Variant(GAN, temperature=0.0),
}


@dataclass(frozen=True)
class GANLimitSettings:
    """Settings of the CLAEs and GANs, which have all but the variant in common.

    Attributes:
        digits: digits of mnist5k, or else draws of the eight Gaussians.
        latent_dim: d_z of an encoder and a decoder; None: z = x, so that the energy is one of data.
        num_data: the number n of data, at most 4,500 of the digits.
        variants: names of :data:`VARIANTS`.
        epochs, batch_size, lr, eps: of the training.
        hidden_units: units of the hidden layer of encoder and decoder.
        energy_units: units of the two hidden layers of energy and sampler.
        sampler_inputs: d_u.
        energy_smoothness: γ.
        initial_spread: standard deviation of the sampler's outputs at first; None: as its weights give it.
        num_samples: draws of each model.
    """

    digits: bool = False
    latent_dim: int | None = None
    num_data: int = 1000
    variants: tuple[str, ...] = tuple(VARIANTS)
    epochs: int = 300
    batch_size: int = 100
    lr: float = 1e-3
    eps: float = 0.01
    hidden_units: int = 256
    energy_units: int = 64
    sampler_inputs: int = 8
    energy_smoothness: float = 0.1
    initial_spread: float | None = 1.4
    num_samples: int = 2000


def draw_ring(count: int) -> Tensor:
    """Return draws of the mixture, (count, 2)."""
    middle = centers(TARGET).float()
    return middle[torch.randint(NUM_MODES, (count,))] + TARGET.deviation * torch.randn(count, 2)


def train_model(settings: GANLimitSettings, variant: Variant, data: ImageData, seed: int, progress: Progress) -> CLAE:
    """Return a trained model; ``progress`` counts its data."""
    shape = tuple(data.train_images.shape[1:])
    if settings.latent_dim is None:  # p(x | z) is constant at z = x
        size: dict[str, Any] = {"latent_dim": math.prod(shape), "likelihood": "gaussian", "scale": 1.0}
    else:
        size = {"latent_dim": settings.latent_dim, "hidden_units": settings.hidden_units, "hidden_layers": 1}
    fresh = math.isinf(variant.chains)
    network = CLAEConfig(
        **size,
        chains=None if fresh else max(1, round(variant.chains * len(data.train_images))),
        prior_sampler="generator" if fresh else "amortized",
        network="mlp",
        data="pixels" if settings.digits else "real",
        decoder_output="linear" if settings.latent_dim is None else "tanh",
        energy_units=settings.energy_units,
        sampler_inputs=settings.sampler_inputs,
        energy_smoothness=settings.energy_smoothness,
    )
    config = TrainingConfig(
        model="clae",
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        eps=settings.eps,
        temperature=variant.temperature,
        seed=seed,
        threads=1,
        evaluate_every=settings.epochs,
        ensemble_size=0,
        network=network,
    )

    def make_model(network: ModelConfig) -> CLAE:
        own = {} if settings.latent_dim else {"encoder": nn.Flatten(), "decoder": nn.Unflatten(1, shape)}
        model = variant.model(network, **own)
        scale_to_spread(model.sampler, torch.randn(1000, settings.sampler_inputs), settings.initial_spread)
        return model

    model = fit(config, data, make_model=make_model, progress=progress).model
    assert isinstance(model, CLAE)
    return model


def evenness(shares: Tensor) -> float:
    """Return the entropy of shares over its largest value: 1 where all are equal, 0 where one has all."""
    return (-torch.xlogy(shares, shares).sum() / math.log(len(shares))).item()


def shares_of(kinds: Tensor, number: int) -> Tensor:
    return torch.bincount(kinds, minlength=number).double() / len(kinds)


def ring_figures(samples: Tensor) -> dict[str, float]:
    """Return what samples (N, 2) of the ring have to do with its modes; each counts for the nearest."""
    middle = centers(TARGET)
    distance, mode = torch.cdist(samples.double(), middle).min(1)
    shares = shares_of(mode, NUM_MODES)
    return {
        "modes": float((shares > SMALLEST_SHARE).sum()),
        "mode_entropy": evenness(shares),
        "mode_total_variation": (shares - 1 / NUM_MODES).abs().sum().item() / 2,
        "within_mode_variance_ratio": (distance.square().mean() / 2 / exact_spread(TARGET)).item(),
        "far_from_modes": (distance > FAR * TARGET.deviation).double().mean().item(),
    }


class Classifier:
    """A small network that tells digits apart, and the Gaussian of its logits on the training images."""

    def __init__(self, data: ImageData) -> None:
        assert data.train_labels is not None
        self.network = Encoder(data.channels, NUM_CLASSES, width=16)
        optimizer = torch.optim.Adam(self.network.parameters(), CLASSIFIER_LR)
        images = scale_pixels(data.train_images)
        for _ in range(CLASSIFIER_EPOCHS):
            for index in torch.randperm(len(images)).split(100):
                optimizer.zero_grad()
                F.cross_entropy(self.network(images[index]), data.train_labels[index]).backward()
                optimizer.step()
        self.real = self.statistics(self.logits(data.train_images / 255))

    @torch.no_grad()
    def logits(self, brightness: Tensor) -> Tensor:
        logits: Tensor = self.network(2 * brightness - 1)
        return logits

    def statistics(self, logits: Tensor) -> GaussianStatistics:
        accumulator = GaussianAccumulator()
        accumulator.update(logits)
        return accumulator.statistics()

    def figures(self, brightness: Tensor) -> dict[str, float]:
        """Return how even the classes of images are, and how far their logits from those of the training images."""
        logits = self.logits(brightness)
        return {
            "class_entropy": evenness(shares_of(logits.argmax(1), NUM_CLASSES)),
            "frechet_classifier": frechet_distance(self.statistics(logits), self.real),
        }


COMMON_DIFFERENCES = (
    Difference("all settings", "no experiment", "ours", "Appendix E argues without one"),
    Difference("prior of the energy", "none", "energy_smoothness, also for the GAN", "energies run away without it"),
    Difference("optimizer of the GAN", "SGD", "pSGLD at T = 0, which is RMSprop", "the same for all"),
    Difference("energy of the GAN", "-log D", "D is the logistic function of -E", "the same networks for all"),
)


class GANLimit(Experiment[GANLimitSettings]):
    name = "gan-limit"
    title = "A CLAE as the number k of its sampler's inputs grows, beside a GAN (Appendix E)"
    presets: ClassVar = {
        "default": GANLimitSettings(),
        "digits": GANLimitSettings(
            digits=True,
            latent_dim=8,
            num_data=4500,
            epochs=10,
            batch_size=50,
            energy_units=128,
            sampler_inputs=32,
            initial_spread=None,
            num_samples=1000,
        ),
        "digits-images": GANLimitSettings(
            digits=True,
            num_data=4500,
            epochs=20,
            energy_units=128,
            sampler_inputs=32,
            initial_spread=None,
            num_samples=1000,
        ),
    }
    quick: ClassVar = {"num_data": 200, "epochs": 2, "num_samples": 200}
    differences: ClassVar = dict.fromkeys(presets, COMMON_DIFFERENCES)

    def units(self, settings: GANLimitSettings) -> int:
        return len(settings.variants) * settings.epochs * settings.num_data

    def run_seed(self, settings: GANLimitSettings, seed: int, progress: Progress) -> Outcome:
        figures: Callable[[Tensor], dict[str, float]] = ring_figures
        if settings.digits:
            digits = load_dataset("mnist5k")
            classifier = Classifier(digits)
            data = ImageData(digits.train_images[: settings.num_data], None, digits.test_images, None)
            real, figures = digits.test_images / 255, classifier.figures
        else:
            real = draw_ring(settings.num_samples)
            data = ImageData(draw_ring(settings.num_data), None, real, None)
        samples = {"data": real}
        for name in settings.variants:
            model = train_model(settings, VARIANTS[name], data, seed, progress)
            samples[name] = model.sample(settings.num_samples, torch.Generator().manual_seed(seed))
        by_name = {name: figures(drawn) for name, drawn in samples.items()}
        values = {f"{figure}_{name}": by_name[name][figure] for figure in by_name["data"] for name in by_name}
        shown = {name: drawn[:SHOWN_IMAGES] if settings.digits else drawn for name, drawn in samples.items()}
        return Outcome(values, {"samples": shown})

    def draw(self, settings: GANLimitSettings, outcomes: Sequence[Outcome]) -> Figure:
        """Draw samples of the first seed, and two figures of all seeds, by variant."""
        samples = outcomes[0].drawn["samples"]
        columns = math.ceil((len(samples) + 2) / 2)
        picture, axes = new_picture(2, columns, (2.6 * columns, 5.6))
        panels = axes.flatten()
        for panel, (name, drawn) in zip(panels, samples.items(), strict=False):
            if settings.digits:
                panel.imshow(grid(drawn, SHOWN_COLUMNS).numpy())
                panel.axis("off")
            else:
                limit = TARGET.radius + 5 * TARGET.deviation
                panel.plot(*drawn.numpy().T, ".", markersize=1, alpha=0.5)
                panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            panel.set_title(name, fontsize=9)
        ring, digits = ("mode_entropy", "within_mode_variance_ratio"), ("class_entropy", "frechet_classifier")
        for panel, figure in zip(panels[len(samples) :], digits if settings.digits else ring, strict=False):
            for outcome in outcomes:
                panel.plot([outcome.values[f"{figure}_{name}"] for name in samples], "o", color="C0", alpha=0.6)
            panel.set_xticks(range(len(samples)), samples, rotation=90, fontsize=8)
            panel.set_ylim(bottom=0)
            panel.set_title(figure, fontsize=9)
        for panel in panels[len(samples) + 2 :]:
            panel.axis("off")
        return picture
