"""The Langevin autoencoder (paper: Section 4, Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .config import ModelConfig
from .gaussian_prior import GaussianPriorModel
from .latent_variable_model import LatentVariableModel, trainable

DECODER_INFERENCE = ("bayes", "map", "mle")


@dataclass(frozen=True)
class LAEConfig(ModelConfig):
    """Settings of a Langevin autoencoder.

    Args:
        decoder_inference: what becomes of the decoder's parameters θ, whose prior is N(0, s² I): "bayes" samples them
            (SGLD, Eqs. 8, 9), "map" maximizes their posterior (noise off, prior on), "mle" their likelihood (noise off,
            prior flat).
        decoder_prior_scale: s.
    """

    decoder_inference: str = "bayes"
    decoder_prior_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_one_of("decoder_inference", DECODER_INFERENCE)
        self._require("decoder_prior_scale", self.decoder_prior_scale > 0, "> 0")


def langevin_parameter_groups(model: LatentVariableModel, config: LAEConfig, num_data: int) -> list[dict[str, Any]]:
    """The decoder's parameters as ``config`` says, all others sampled under a flat prior.

    The prior N(0, s² I) adds ‖θ‖² / 2s² to the potential of all data, and so θ / (s² n) to the gradient of the mean
    potential: it is the optimizer's weight decay.
    """
    decoder = trainable(model.decoder.parameters())
    of_decoder = {id(parameter) for parameter in decoder}
    others = [parameter for parameter in trainable(model.parameters()) if id(parameter) not in of_decoder]
    group: dict[str, Any] = {"params": decoder}
    if config.decoder_inference != "bayes":
        group["temperature"] = 0.0
    if config.decoder_inference != "mle":
        group["weight_decay"] = 1 / (config.decoder_prior_scale**2 * num_data)
    return [{"params": others}, group]


class LAE(GaussianPriorModel):
    """Encoder, decoder and prior sampled together by Langevin dynamics; each step gives new posterior samples z = f(x).

    The potential of a datum is U = -log p(x | z) - log p(z) at z = f(x) (Eqs. 8-10), with a learnable diagonal Gaussian
    p(z). Train the mean of U with :class:`ald_ext.PSGLD`, ``num_data`` = number of images (Eqs. 6, 7, 9): the noise
    makes the difference to an autoencoder.
    """

    name: ClassVar = "lae"
    config_class: ClassVar[type[ModelConfig]] = LAEConfig
    langevin: ClassVar = True
    config: LAEConfig

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Mean potential."""
        return self.potential(x).mean()

    def parameter_groups(self, num_data: int) -> list[dict[str, Any]]:
        """The decoder's parameters are sampled or optimized, see :class:`LAEConfig`; all others are sampled."""
        return langevin_parameter_groups(self, self.config, num_data)
