"""The Langevin autoencoder (paper: Section 4, Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..settings import require, setting
from .config import ModelConfig
from .latent_variable_model import GaussianPriorModel, LatentVariableModel, trainable

#: Attributes of models that are the prior's networks.
PRIOR_MODULES = ("prior", "energy_network", "sampler")
#: Spread below which z is taken to be the same for all data.
SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class LAEConfig(ModelConfig):
    """Settings of a Langevin autoencoder.

    Args:
        decoder_inference: how the decoder's parameters θ, whose prior is N(0, s² I), are inferred: "bayes" samples them
            (SGLD, Eqs. 8, 9), "map" maximizes their posterior (no noise), "mle" maximizes their likelihood (no noise,
            flat prior).
        decoder_prior_scale: standard deviation s of the decoder's prior.
        encoder_temperature: temperature T of the encoder's parameters, in units of the optimizer's; None stands for
            n/p, see :func:`leverage_temperature`.
        prior_eps: λ of the optimizer for the prior's parameters, which then have no momentum either; None gives them
            the settings of all others. Their gradients are small beside those of the networks, so with a large λ the
            prior follows z slowly and stays wider than the distribution of z.
        initial_spread: standard deviation of z over data, averaged over coordinates, at the beginning of training; the
            encoder's last layer is scaled to it. None leaves the layer's initial weights, which give some hundredths.
    """

    decoder_inference: str = setting("bayes", choices=("bayes", "map", "mle"))
    decoder_prior_scale: float = setting(1.0, above=0)
    encoder_temperature: float | None = setting(1.0, at_least=0)
    prior_eps: float | None = setting(None, above=0)
    initial_spread: float | None = setting(None, above=0)


def leverage_temperature(encoder: nn.Module, num_data: int) -> float:
    """Return n/p for an encoder whose last layer has p inputs and n data; 1 if there are fewer data than inputs.

    Suppose that z_i = Wᵀ g_i, a linear layer of features g_i, is sampled at T = 1, and that the potentials U_i are
    quadratic with the same curvature. The variance of z_i is then h_i times that of p(z | x_i), where
    h_i = g_iᵀ (Σ_j g_j g_jᵀ)⁻¹ g_i is the leverage of its features; the h_i add up to p. So an amortized posterior has
    on average p/n of the right variance, which T = n/p restores. In a deep encoder earlier layers move, too.
    """
    weights = [parameter for parameter in encoder.parameters() if parameter.dim() >= 2]
    return max(1.0, num_data / weights[-1][0].numel()) if weights else 1.0


@torch.no_grad()
def scale_to_spread(network: nn.Module, inputs: Tensor, target: float | None) -> None:
    """Scale the outputs of a network to a :func:`spread`, unless that is None or the outputs are all the same.

    That is done by its last linear layer or convolution. ValueError for a network without one.
    """
    if target is None or not (current := spread(network(inputs))) > SMALLEST_SPREAD:
        return
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    require(layers, "initial_spread: network", type(network).__name__, "a linear or Conv2d layer in it")
    for parameter in layers[-1].parameters():
        parameter.mul_(target / current)


def spread(z: Tensor) -> Tensor:
    """Return the standard deviation over a minibatch, averaged over coordinates."""
    return z.std(0, correction=0).mean()


class SampledByLangevin(LatentVariableModel):
    """A model whose encoder, decoder and prior are sampled together by Langevin dynamics."""

    langevin: ClassVar = True
    config: LAEConfig

    def initialize(self, x: Tensor) -> None:
        """Scale the encoder, and a sampler of the prior, as ``initial_spread`` says."""
        scale_to_spread(self.encoder, self.network_input(x), self.config.initial_spread)

    def parameter_groups(self, num_data: int) -> list[dict[str, Any]]:
        """Return groups in which the decoder's parameters have a prior, and all others are sampled under a flat one.

        The prior N(0, s² I) adds ‖θ‖² / 2s² to the potential of all data, and so θ / (s² n) to the gradient of the mean
        potential, which is the optimizer's weight decay.
        """
        decoder, encoder = trainable(self.decoder.parameters()), trainable(self.encoder.parameters())
        config, temperature = self.config, self.config.encoder_temperature
        temperature = leverage_temperature(self.encoder, num_data) if temperature is None else temperature
        encoder = [] if temperature == 1 else encoder
        modules = [getattr(self, name, None) for name in PRIOR_MODULES] if config.prior_eps is not None else []
        prior = [parameter for module in modules if module is not None for parameter in trainable(module.parameters())]
        apart = {id(parameter) for parameter in (*decoder, *encoder, *prior)}
        groups: list[dict[str, Any]] = [{"params": [p for p in trainable(self.parameters()) if id(p) not in apart]}]
        if prior:
            groups.append({"params": prior, "eps": config.prior_eps, "momentum": 0.0})
        if encoder:
            groups.append({"params": encoder, "temperature": temperature})
        of_decoder: dict[str, Any] = {"params": decoder}
        if config.decoder_inference != "bayes":
            of_decoder["temperature"] = 0.0
        if config.decoder_inference != "mle":
            of_decoder["weight_decay"] = 1 / (config.decoder_prior_scale**2 * num_data)
        return [*groups, of_decoder]


class LAE(SampledByLangevin, GaussianPriorModel):
    """Encoder, decoder and prior sampled together by Langevin dynamics; each step gives new posterior samples z = f(x).

    The potential of a datum is U = -log p(x | z) - log p(z) at z = f(x) (Eqs. 8-10), with a learnable diagonal Gaussian
    p(z). Train the mean of U with :class:`ald_ext.PSGLD`, ``num_data`` = number of images (Eqs. 6, 7, 9); its noise is
    what distinguishes this model from an autoencoder.
    """

    name: ClassVar = "lae"
    config_class: ClassVar[type[ModelConfig]] = LAEConfig

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the mean potential of the minibatch at z = f(x)."""
        return self.potential(x).mean()
