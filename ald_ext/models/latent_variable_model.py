"""The base of all models: networks, likelihood, inference, reconstruction, scores."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .. import ops, samplers
from ..dequantization import scale_pixels
from ..distributions import DiagonalGaussian
from ..settings import require
from .adaptive_langevin import PersistentChains
from .config import ModelConfig, config_from_dict
from .likelihoods import LIKELIHOODS, at_least_float32, to_brightness
from .mixture_prior import MixturePrior
from .networks import make_decoder, make_dequantizer, make_encoder

#: Data of which latent variables are inferred at once.
REFIT_BATCH = 500


class LatentVariableModel(nn.Module, ABC):
    """A decoder p(x | z), a prior on z and, in most models, an encoder. A subclass states its potential and its loss.

    Data are uint8 (N, *shape), or brightness in [0, 1] as floats; with ``data="real"`` they are floats of any range.
    :meth:`sample`, :meth:`reconstruct`, :meth:`interpolate` and :meth:`score` return values without gradients.
    :meth:`decode` of :meth:`sample_prior` or of :meth:`encode`, and :meth:`potential`, have gradients.

    Args:
        config: size and form.
        encoder: network (N, *shape) -> (N, encoder_outputs · d_z) to use instead of the built-in one; its inputs are
            floats in [-1, 1], or real data.
        decoder: network (N, d_z) -> (N, *shape) to use instead of the built-in one.
        options: settings of ``config_class``, instead of ``config``.

    Raises:
        ValueError: a setting out of its range, settings beside a config, or a network that does not map the shapes.
    """

    #: The name on the command line and in files.
    name: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    #: Number of encoder outputs for each latent variable; 0 if the model has no encoder.
    encoder_outputs: ClassVar[int] = 1
    #: True if the parameters are sampled by PSGLD, False if they are optimized by Adam.
    langevin: ClassVar[bool] = False
    #: False if p(z) cannot be drawn from.
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
        place = f"ald_ext.models.{type(self).__name__}"
        require(config is None or not options, f"{place}: {', '.join(options)}", "settings beside config", "either")
        self.config = self.config_class(**options) if config is None else as_config_of(self.config_class, config)
        outputs = self.encoder_outputs * self.config.latent_dim
        require(outputs or encoder is None, f"{place}: encoder", "one", "none, as the model infers z by Langevin steps")
        if self.encoder_outputs:
            self.encoder = make_encoder(self.config, outputs) if encoder is None else encoder
        self.decoder = make_decoder(self.config) if decoder is None else decoder
        latent, shape = (self.config.latent_dim,), self.config.shape
        #: Names of the networks that are not the built-in ones.
        self.own_networks: list[str] = []
        for name, network, inputs, targets in (
            ("encoder", encoder, shape, (outputs,)),
            ("decoder", decoder, latent, shape),
        ):
            if network is not None:
                check_network(f"{place}: {name}", network, inputs, targets, self.config)
                self.own_networks.append(name)
        self.likelihood = LIKELIHOODS[self.config.likelihood](self.config, make_dequantizer(self.config))
        #: Scalars about the latest loss, for logs.
        self.diagnostics: dict[str, Tensor] = {}

    @abstractmethod
    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean over a minibatch of the loss that training lowers.

        Args:
            x: data (m, *shape), uint8 or real.
            index: index of each datum in its data set, (m,) int64, for models that keep something for each datum.
        """

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return :meth:`loss`, so that wrappers such as DistributedDataParallel and torch.compile know what to run.

        Args:
            x: data (m, *shape), uint8 or real.
            index: index of each datum in its data set, (m,) int64.

        Raises:
            ValueError: several processes, of a model that keeps chains, which wrappers do not gather.
        """
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if several and any(isinstance(module, PersistentChains) for module in self.modules()):
            raise ValueError(
                f"ald_ext.models.{type(self).__name__}: got chains in a process group, where a wrapper loses what "
                "other processes moved, expected ald_ext.training.train, which gathers them"
            )
        return self.loss(x, index)

    def log_prior(self, z: Tensor) -> Tensor | float:
        """Return log p(z) up to a constant, (N, d_z) -> (N,); 0 for a flat prior."""
        return 0.0

    def network_input(self, x: Tensor) -> Tensor:
        """Return the encoder's input: pixels scaled to [-1, 1], real data as they are."""
        return x if self.config.data == "real" else scale_pixels(x)

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent variables that the model infers, (N, *shape) -> (N, d_z)."""
        return at_least_float32(self.encoder(self.network_input(x)))

    def output(self, z: Tensor) -> Tensor:
        """Return the decoder's output for the likelihood, (N, d_z) -> (N, *shape)."""
        output = at_least_float32(self.decoder(z))
        return output.tanh() if self.config.decoder_output == "tanh" else output

    def decode(self, z: Tensor) -> Tensor:
        """Return brightness in [0, 1] (or real values), (N, *shape), of latent variables (N, d_z)."""
        return self.likelihood.to_unit(self.output(z))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstructions of x, (N, *shape): brightness in [0, 1] (or real values), without x's noise."""
        return self.decode(self.encode(x))

    def negative_log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return -log p(x | z), (N,)."""
        return -self.likelihood.log_prob(x, self.output(z))

    def potential(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Return U(x, z) = -log p(x | z) - log p(z), (N,) (paper: Eq. 2); z = encode(x) if none is given."""
        z = self.encode(x) if z is None else z
        return self.negative_log_likelihood(x, z) - self.log_prior(z)

    def observed_potential(self, observed: Tensor, z: Tensor) -> Tensor:
        """Return U at values that :meth:`observe` gave, (N,), so that steps of z see data that are dequantized once."""
        return -self.likelihood.log_density(observed, self.output(z)) - self.log_prior(z)

    def observe(self, x: Tensor) -> Tensor:
        """Return dequantized data, without gradients, for :meth:`observed_potential`."""
        with torch.no_grad():
            return at_least_float32(self.likelihood.observe(x))

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """Return RE of each datum, (N,) (paper: Table 2): squared error in [0, 1], or Bernoulli cross-entropy."""
        return self.likelihood.reconstruction_error(x, self.output(self.encode(x)))

    @torch.no_grad()
    def score(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return how anomalous each datum is, (N,): its potential at the inferred z (paper: Section 8).

        Where a model draws for it, the draws are keyed by the values of the datum and the seed, whatever is beside it.
        """
        return self.potential(x)

    def noise_index(self, x: Tensor) -> Tensor:
        """Return indices that key noise by the values of each datum, (N,) int64; brightness counts as its pixels."""
        brightness = self.config.data == "pixels" and x.dtype != torch.uint8
        return ops.index_by_content(x.mul(255).round().byte() if brightness else x)

    def infer(self, x: Tensor, num_steps: int, *, step_size: float = 1e-3, seed: int = 0) -> Tensor:
        """Return samples of p(z | x) by MALA from the inferred z on, (N, d_z) (paper: Algorithm 2).

        Args:
            x: data (N, *shape).
            num_steps: number of steps; in the first half each datum's step size adapts. 0 gives :meth:`encode`'s z.
            step_size: initial step size.
            seed: seed of the noise.

        Raises:
            ValueError: num_steps < 0.
        """
        require(num_steps >= 0, f"ald_ext.models.{type(self).__name__}: num_steps", num_steps, ">= 0")
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

    @torch.no_grad()
    def interpolate(self, first: Tensor, second: Tensor, count: int) -> Tensor:
        """Return images along the lines between the latent variables of pairs of data, (N, count, *shape).

        Args:
            first: data (N, *shape), where the lines begin.
            second: data (N, *shape), where they end.
            count: number of images on a line, both ends included, >= 2.

        Raises:
            ValueError: count < 2.
        """
        require(count >= 2, f"ald_ext.models.{type(self).__name__}: count", count, ">= 2")
        begin, end = self.encode(first), self.encode(second)
        weights = torch.linspace(0, 1, count, device=begin.device, dtype=begin.dtype)[None, :, None]
        z = begin[:, None] * (1 - weights) + end[:, None] * weights
        images = self.decode(z.flatten(0, 1))
        return images.view(len(first), count, *images.shape[1:])

    def sample_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of z ~ p(z), (count, d_z). ValueError for a model without a prior."""
        raise ValueError(f"ald_ext.models.{type(self).__name__}: {self.name} has no prior to sample")

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator | None = None, *, prior: MixturePrior | None = None
    ) -> Tensor:
        """Return new data, (count, *shape): brightness in [0, 1] (or real values).

        Args:
            count: number of data.
            generator: source of random numbers; torch's default one if not given.
            prior: what z is drawn from in the place of the model's own prior; see :meth:`refit_prior`.

        Raises:
            ValueError: a model without a prior, and none given.
        """
        return self.decode((self.sample_prior if prior is None else prior.sample)(count, generator))

    def sample_posterior(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return one sample of the posterior that the model infers for each datum, (N, *shape) -> (N, d_z).

        Of a model whose encoder's output is such a sample, or a point estimate, it is :meth:`encode`'s. Other draws are
        keyed by the values of the datum and the seed.
        """
        return self.encode(x)

    @torch.no_grad()
    def refit_prior(self, x: Tensor, components: int = 20) -> MixturePrior:
        """Return a prior that fits the trained model better than its own: a mixture of Gaussians with full covariances.

        It is fitted to a sample of the posterior of each datum. These are samples of the aggregated posterior
        (1/n) Σ_i p(z | x_i), which of all priors has the largest likelihood (Tomczak & Welling 2018). The model stays
        as it is; ``sample(count, prior=…)`` draws from the mixture.

        Args:
            x: training data (n, *shape), thousands if there are so many, on any device.
            components: number of Gaussians; 1 is a single one.

        Raises:
            ValueError: fewer than two data, or no components.
            ImportError: scikit-learn is missing, which is in the extra "train".
        """
        device = next(self.parameters()).device
        z = [self.sample_posterior(batch.to(device)) for batch in x.split(REFIT_BATCH)]
        return MixturePrior.fit(torch.cat(z), components)

    def initialize(self, x: Tensor) -> None:
        """Set initial values that depend on data, of which ``x`` are some; most models have none."""

    def parameter_groups(self, num_data: int) -> list[dict[str, Any]]:
        """Return the parameters that training moves, in groups with the options that differ from the optimizer's.

        A group's ``temperature`` is in units of the optimizer's.
        """
        return [{"params": trainable(self.parameters())}]

    def to_brightness(self, x: Tensor) -> Tensor:
        """Return data as :meth:`reconstruct` gives them: brightness in [0, 1]; real data as they are."""
        return x if self.config.data == "real" else to_brightness(x)


class GaussianPriorModel(LatentVariableModel):
    """A model with the prior p(z) = N(μ_z, diag σ_z²), whose parameters are learned (paper: F.4)."""

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.prior = DiagonalGaussian(self.config.latent_dim)

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log N(z; μ_z, diag σ_z²), (N, d_z) -> (N,)."""
        return self.prior.log_prob(z)

    def sample_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of the prior, (count, d_z)."""
        return self.prior.sample(count, generator)


@torch.no_grad()
def check_network(
    owner: str, network: nn.Module, inputs: tuple[int, ...], outputs: tuple[int, ...], config: ModelConfig
) -> None:
    """Raise a ValueError that begins with ``owner`` if a network does not map (N, *inputs) to (N, *outputs).

    It is tried on two data, which leave it and the random state as they were.
    """
    parameters = [*network.parameters(), torch.empty(0)]
    if any(parameter.is_meta or is_lazy(parameter) for parameter in parameters):  # nothing to try yet
        return
    first = parameters[0]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.random.fork_rng([first.device] if first.is_cuda else []):
            result = network(torch.zeros((2, *inputs), dtype=first.dtype, device=first.device))
        got = f"{tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
    except RuntimeError as error:
        got = f"an error ({(str(error).splitlines() or [''])[0]})"
    finally:
        for module, training in modes:
            module.training = training
    expected = f"{(2, *outputs)}: shape is {config.shape}, latent_dim {config.latent_dim}"
    require(got == f"{(2, *outputs)}", owner, f"{got} for inputs {(2, *inputs)}", expected)


def trainable(parameters: Any) -> list[nn.Parameter]:
    """Return the parameters that are not fixed."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def as_config_of(config_class: type[ModelConfig], config: ModelConfig) -> ModelConfig:
    """Return a config as the model's class, with defaults for its own settings. ValueError for another model's."""
    if isinstance(config, config_class):
        return config
    return config_from_dict(config_class, dataclasses.asdict(config))
