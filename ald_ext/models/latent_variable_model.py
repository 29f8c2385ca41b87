"""What all models share: networks, likelihood, inference, reconstruction, scores."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import samplers
from ..dequantization import scale_pixels
from .config import ModelConfig, config_from_dict
from .likelihoods import LIKELIHOODS, at_least_float32, to_brightness
from .networks import make_decoder, make_dequantizer, make_encoder


class LatentVariableModel(nn.Module, ABC):
    """A decoder p(x | z), a prior on z and, in most, an encoder. A subclass states its potential and its loss.

    Data are uint8 (N, *shape), or brightness in [0, 1] as floats, which the encoder takes too; with ``data="real"``
    floats of any range.

    Args:
        config: size and form; the settings of ``config_class`` may be given as keywords instead.
        encoder: (N, *shape) floats in [-1, 1] (or real data) -> (N, encoder_outputs · d_z), instead of the built-in.
        decoder: (N, d_z) -> (N, *shape), instead of the built-in one.

    Raises:
        ValueError: a setting out of its range.
    """

    #: The name on the command line and in files.
    name: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    #: Encoder outputs for each latent variable; 0: the model has no encoder.
    encoder_outputs: ClassVar[int] = 1
    #: True if the parameters are sampled by PSGLD, False if they are optimized by Adam.
    langevin: ClassVar[bool] = False
    #: False if p(z) is not a distribution that can be drawn from.
    has_prior: ClassVar[bool] = True
    #: What may keep training from diverging, beside a smaller lr and a larger eps.
    divergence_remedies: ClassVar[tuple[str, ...]] = ()
    #: Why a step cannot be captured as one CUDA graph; None if it can.
    why_not_captured: ClassVar[str | None] = None

    def __init__(
        self,
        config: ModelConfig | None = None,
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.config = self.config_class(**options) if config is None else as_config_of(self.config_class, config)
        if self.encoder_outputs:
            outputs = self.encoder_outputs * self.config.latent_dim
            self.encoder = make_encoder(self.config, outputs) if encoder is None else encoder
        self.decoder = make_decoder(self.config) if decoder is None else decoder
        self.likelihood = LIKELIHOODS[self.config.likelihood](self.config, make_dequantizer(self.config))
        #: Scalars about the latest loss, beside the loss itself, for logs.
        self.diagnostics: dict[str, Tensor] = {}

    @abstractmethod
    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """The mean over a minibatch of what training lowers.

        Args:
            x: uint8 (m, *shape), or real data.
            index: (m,) int64, the index of each datum in its data set, for models that keep something for each.
        """

    def log_prior(self, z: Tensor) -> Tensor | float:
        """log p(z), (N, d_z) -> (N,), up to a constant; 0 for a flat prior."""
        return 0.0

    def network_input(self, x: Tensor) -> Tensor:
        """What the encoder sees: pixels scaled to [-1, 1], real data as they are."""
        return x if self.config.data == "real" else scale_pixels(x)

    def encode(self, x: Tensor) -> Tensor:
        """The latent variables that the model infers, (N, *shape) -> (N, d_z)."""
        return at_least_float32(self.encoder(self.network_input(x)))

    def output(self, z: Tensor) -> Tensor:
        """The decoder's output, (N, d_z) -> (N, *shape), as the likelihood sees it."""
        output = at_least_float32(self.decoder(z))
        return output.tanh() if self.config.decoder_output == "tanh" else output

    def decode(self, z: Tensor) -> Tensor:
        """Latent variables (N, d_z) -> brightness in [0, 1] (or real values), (N, *shape)."""
        return self.likelihood.to_unit(self.output(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Brightness in [0, 1] (or real values) of the reconstructions, which are free of noise that x may have."""
        return self.decode(self.encode(x))

    def negative_log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x | z), (N,)."""
        return -self.likelihood.log_prob(x, self.output(z))

    def potential(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """U(x, z) = -log p(x | z) - log p(z), (N,) (paper: Eq. 2); at z = encode(x) if none is given."""
        z = self.encode(x) if z is None else z
        return self.negative_log_likelihood(x, z) - self.log_prior(z)

    def observed_potential(self, observed: Tensor, z: Tensor) -> Tensor:
        """U at values that ``likelihood.observe`` gave, (N,): dequantized once, whatever number of steps z makes."""
        return -self.likelihood.log_density(observed, self.output(z)) - self.log_prior(z)

    def observe(self, x: Tensor) -> Tensor:
        """Dequantized data, without gradients, for :meth:`observed_potential`."""
        with torch.no_grad():
            return at_least_float32(self.likelihood.observe(x))

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """RE of each datum, (N,) (paper: Table 2): squared error on [0, 1], or cross-entropy of Bernoulli pixels."""
        return self.likelihood.reconstruction_error(x, self.output(self.encode(x)))

    def score(self, x: Tensor) -> Tensor:
        """How anomalous each datum is, (N,): its potential at the inferred z; higher is more so (paper: Section 8)."""
        return self.potential(x)

    def infer(self, x: Tensor, num_steps: int, *, step_size: float = 1e-3, seed: int = 0) -> Tensor:
        """Samples of p(z | x) from the inferred z on: MALA, whose step size adapts for each datum (paper: Algorithm 2).

        Args:
            x: data.
            num_steps: of MALA; in the first half its step size adapts. 0 gives :meth:`encode`'s.
            step_size: at first.
            seed: of the noise.

        Returns:
            (N, d_z), the states after the last step.

        Raises:
            ValueError: num_steps < 0.
        """
        if num_steps < 0:
            raise ValueError(f"ald_ext.models.{type(self).__name__}: num_steps: got {num_steps}, expected >= 0")
        if num_steps == 0:
            return self.encode(x).detach()
        sampler = samplers.MALA(
            self.observed_potential,
            self.observe(x),
            self.encode(x),
            step_size=step_size,
            adapt_steps=(num_steps + 1) // 2,
            seed=seed,
        )
        for _ in range(num_steps):
            sampler.step()
        return sampler.z

    def interpolate(self, first: Tensor, second: Tensor, count: int) -> Tensor:
        """Images between two, along the line between their latent variables.

        Args:
            first, second: data (N, *shape).
            count: number of images, both ends included, >= 2.

        Returns:
            (N, count, *shape).

        Raises:
            ValueError: count < 2.
        """
        if count < 2:
            raise ValueError(f"ald_ext.models.{type(self).__name__}: count: got {count}, expected >= 2")
        begin, end = self.encode(first), self.encode(second)
        weights = torch.linspace(0, 1, count, device=begin.device, dtype=begin.dtype)[None, :, None]
        z = begin[:, None] * (1 - weights) + end[:, None] * weights
        images = self.decode(z.flatten(0, 1))
        return images.view(len(first), count, *images.shape[1:])

    def sample_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """z ~ p(z), (count, d_z). ValueError for a model without a prior."""
        raise ValueError(f"ald_ext.models.{type(self).__name__}: {self.name} has no prior to sample")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Brightness in [0, 1] (or real values) of new data, (count, *shape). ValueError without a prior."""
        return self.decode(self.sample_prior(count, generator))

    def initialize(self, x: Tensor) -> None:
        """Sets initial values that depend on data, of which ``x`` are some; there are none in most models."""

    def parameter_groups(self, num_data: int) -> list[dict[str, Any]]:
        """The parameters that training moves, with the options that differ from the optimizer's own.

        ``temperature`` is in units of the optimizer's.
        """
        return [{"params": trainable(self.parameters())}]

    def to_brightness(self, x: Tensor) -> Tensor:
        """Data as :meth:`reconstruct` gives them: brightness in [0, 1]; real data as they are."""
        return x if self.config.data == "real" else to_brightness(x)


def trainable(parameters: Any) -> list[nn.Parameter]:
    """Those that are not fixed."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def as_config_of(config_class: type[ModelConfig], config: ModelConfig) -> ModelConfig:
    """A plain ModelConfig as the model's own kind, with its own settings at their defaults.

    Raises:
        ValueError: the settings of another kind of model.
    """
    if isinstance(config, config_class):
        return config
    return config_from_dict(config_class, dataclasses.asdict(config))
