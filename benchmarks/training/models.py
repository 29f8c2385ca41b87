"""The models as a PyTorch user writes them: networks and losses of ald_ext.models, without any op of ours.

Upsampling with the convolution after it is one transposed convolution of torch's, faster than upsampling first.
Scalings are computed once a minibatch, nothing is logged or watched, and dynamics keep what they have evaluated: what
these leave out makes them faster, so that they are the stronger baseline.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ald_ext import reference
from ald_ext.models import LatentVariableModel
from ald_ext.models.adaptive_langevin import ADAPTATION_RATE, LARGEST_STEP_SIZE, SMALLEST_STEP_SIZE
from ald_ext.models.networks import UpsampledConv2d


class PlainModel(nn.Module, ABC):
    """Networks copied from a model of ours, with the marginalized Gaussian likelihood and, if any, a Gaussian prior.

    Args:
        model: of ald_ext.models, with pixels that are scaled and not dequantized, and a flat prior of the precision.
        our_layers: whether layers that this package has a faster form of keep it.
    """

    #: What torch.compile leaves to eager PyTorch.
    left_eager: str | None = None

    def __init__(self, model: LatentVariableModel, our_layers: bool = False) -> None:
        super().__init__()
        if model.encoder_outputs:
            self.encoder = copy.deepcopy(model.encoder)
        self.decoder = copy.deepcopy(model.decoder)
        for layer in [] if our_layers else self.decoder.modules():
            if isinstance(layer, UpsampledConv2d):
                layer.in_one_product = False
        if hasattr(model, "prior"):
            self.prior_mean = nn.Parameter(model.prior.mean.detach().clone())
            self.prior_log_scale = nn.Parameter(model.prior.log_scale.detach().clone())

    @abstractmethod
    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        """What training lowers, of uint8 pixels and the indices of the data."""

    def compile_loss(self) -> None:
        """Compiles the loss, its gradient included, or what can be compiled of it."""
        self.loss = torch.compile(self.loss, dynamic=False)

    def negative_log_likelihood(self, observed: Tensor, z: Tensor) -> Tensor:
        return -reference.marginal_gaussian_log_prob(observed, self.decoder(z), 1.0, 0.0)

    def log_prior(self, z: Tensor) -> Tensor:
        standardized = (z - self.prior_mean) * torch.exp(-self.prior_log_scale)
        return (-standardized.square() / 2 - self.prior_log_scale - math.log(2 * math.pi) / 2).sum(1)

    def potential(self, observed: Tensor, z: Tensor) -> Tensor:
        return self.negative_log_likelihood(observed, z) - self.log_prior(z)


def scaled(x: Tensor) -> Tensor:
    """Pixels in [-1, 1]."""
    return x.float() * (2 / 255) - 1


class PlainLAE(PlainModel):
    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        observed = scaled(x)
        return self.potential(observed, self.encoder(observed)).mean()


class PlainAE(PlainModel):
    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        observed = scaled(x)
        return self.negative_log_likelihood(observed, self.encoder(observed)).mean()


class PlainCLAE(PlainModel):
    """Without the tilt, and a chain a datum. The energy's gradient is written out, which torch.compile takes."""

    def __init__(self, model: LatentVariableModel, our_layers: bool = False) -> None:
        super().__init__(model, our_layers)
        self.smoothness = model.config.energy_smoothness
        self.energy_network, self.sampler = copy.deepcopy(model.energy_network), copy.deepcopy(model.sampler)
        self.register_buffer("inputs", model.inputs.clone())

    def energy(self, z: Tensor) -> Tensor:
        return self.energy_network(z).squeeze(1)

    def energy_gradient(self, z: Tensor) -> Tensor:
        hidden, activations = z, []
        for layer in self.energy_network:
            hidden = layer(hidden)
            if isinstance(layer, nn.Tanh):
                activations.append(hidden)
        *linears, last = (layer for layer in self.energy_network if isinstance(layer, nn.Linear))
        gradient = last.weight
        for linear, activation in zip(reversed(linears), reversed(activations), strict=True):
            gradient = (gradient * (1 - activation.square())) @ linear.weight
        return gradient

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        observed = scaled(x)
        z = self.encoder(observed)
        negative = self.sampler(self.inputs[index])
        reversed_ = 2 * negative.detach() - negative  # of the same value; the gradient has the other sign
        potential = self.negative_log_likelihood(observed, z) + self.energy(z)
        steepness = self.energy_gradient(torch.cat([z, negative]).detach()).square().sum(1).mean()
        return potential.mean() - self.energy(reversed_).mean() + self.smoothness / 2 * steepness


class PlainVAE(PlainModel):
    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        observed = scaled(x)
        mean, log_scale = self.encoder(observed).chunk(2, dim=1)
        scale = log_scale.exp()
        z = mean + scale * torch.randn_like(mean)
        log_ratio = log_scale - self.prior_log_scale
        shift = (mean - self.prior_mean) * torch.exp(-self.prior_log_scale)
        divergence = ((torch.exp(2 * log_ratio) + shift.square() - 1) / 2 - log_ratio).sum(1)
        return (self.negative_log_likelihood(observed, z) + divergence).mean()


class PlainChainModel(PlainModel):
    """A model whose latent variables make Langevin steps inside the loss, of a size that adapts."""

    left_eager = "the loop of Langevin steps; its potential and gradient are compiled"

    def __init__(self, model: LatentVariableModel, our_layers: bool = False) -> None:
        super().__init__(model, our_layers)
        self.steps, self.target = model.config.langevin_steps, model.config.target_acceptance
        self.register_buffer("step_size", torch.tensor(model.config.step_size, dtype=torch.float64))
        self.potential_of_chains: Callable[[Tensor, Tensor], Tensor] = self.potential

    def compile_loss(self) -> None:
        """The potential, once with gradients for the networks and once for z alone."""
        self.potential_of_chains = torch.compile(self.frozen_potential, dynamic=False)
        self.potential = torch.compile(self.potential, dynamic=False)

    def frozen_potential(self, observed: Tensor, z: Tensor) -> Tensor:
        """The potential, whose compiled gradient leaves the networks out."""
        frozen = {name: parameter.detach() for name, parameter in self.decoder.named_parameters()}
        output = torch.func.functional_call(self.decoder, frozen, (z,))
        return -reference.marginal_gaussian_log_prob(observed, output, 1.0, 0.0) - self.log_prior(z)

    def evaluate(self, observed: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient for z."""
        leaf = z.detach().requires_grad_()
        value = self.potential_of_chains(observed, leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    def moved(self, observed: Tensor, z: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """z after the Langevin steps, given U and its gradient at first."""
        for step in range(self.steps):
            noise = torch.randn_like(z)
            z = z - self.step_size * gradient + torch.sqrt(2 * self.step_size) * noise
            if step + 1 < self.steps:
                new_value, new_gradient = self.evaluate(observed, z)
                self.adapt(noise, value - new_value, gradient + new_gradient)
                value, gradient = new_value, new_gradient
        return z

    def adapt(self, noise: Tensor, decrease: Tensor, gradients: Tensor) -> None:
        """The step size, by the mean acceptance probability in a Metropolis test that is not made."""
        if self.target is None:
            return
        a = torch.sqrt(self.step_size / 2) * gradients
        acceptance = (decrease + (a * (noise - a / 2)).sum(1)).clamp_max(0).exp().mean()
        self.step_size *= torch.exp(ADAPTATION_RATE * (acceptance - self.target))
        self.step_size.clamp_(SMALLEST_STEP_SIZE, LARGEST_STEP_SIZE)


class PlainABP(PlainChainModel):
    def __init__(self, model: LatentVariableModel, our_layers: bool = False) -> None:
        super().__init__(model, our_layers)
        self.register_buffer("z", model.chains.z.clone())

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        observed, z = scaled(x), self.z[index]
        z = self.moved(observed, z, *self.evaluate(observed, z))
        self.z[index] = z
        return self.potential(observed, z).mean()


class PlainDLGM(PlainChainModel):
    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        observed = scaled(x)
        mean, log_scale = self.encoder(observed).chunk(2, dim=1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        value, gradient = self.evaluate(observed, z)
        negative_elbo = ((gradient * z).sum(1) - log_scale.sum(1)).mean()  # up to its value
        final = self.moved(observed, z.detach(), value, gradient)
        return self.potential(observed, final).mean() + (negative_elbo - negative_elbo.detach())


#: By the names of ours.
PLAIN_MODELS: dict[str, type[PlainModel]] = {
    plain.__name__.removeprefix("Plain").lower(): plain
    for plain in (PlainLAE, PlainCLAE, PlainVAE, PlainAE, PlainABP, PlainDLGM)
}
