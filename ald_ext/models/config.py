"""The settings of a model: plain values, which JSON and checkpoints hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .. import ops
from ..settings import from_dict

DATA_KINDS = ("pixels", "real")
DECODER_OUTPUTS = ("linear", "tanh")
DEQUANTIZATIONS = ("none", "uniform", "langevin")
LIKELIHOODS = ("marginal-gaussian", "gaussian", "bernoulli")
NETWORKS = ("conv", "mlp")

Config = TypeVar("Config", bound="ModelConfig")


@dataclass(frozen=True)
class ModelConfig:
    """The size and form of a model. A model with settings of its own has a subclass, named in ``Model.config_class``.

    Args:
        shape: of a datum: (C, 32, 32) for images; (d,), or any other, with the network "mlp".
        latent_dim: d_z.
        network: "conv" or "mlp", see networks.py.
        width: channels of the hidden layers of "conv".
        hidden_units, hidden_layers: of "mlp".
        data: "pixels": uint8; "real": float32 of any range, which the likelihood sees as they are.
        likelihood: "marginal-gaussian", "gaussian" or "bernoulli", see likelihoods.py.
        precision_prior: of the marginalized Gaussian: "flat", "jeffreys" or (a, b).
        scale: σ of the Gaussian, in units of the dequantized data, which "none" scales to [-1, 1].
        learned_scale: σ is learned, beginning at ``scale``.
        dequantization: "none", "uniform" or "langevin".
        decoder_output: "linear", or "tanh" after the last layer too: the mean of a pixel lies within [-1, 1], as pixels
            do, so that it is at black and white for a range of latent variables and not for one value of them. Not for
            Langevin dequantization, whose values have no bounds, nor for Bernoulli pixels, whose means are bounded.
        num_data: number of training data: ABP and CLAE keep something for each of them.

    Raises:
        ValueError: a value out of its range.
    """

    shape: tuple[int, ...] = (1, 32, 32)
    latent_dim: int = 32
    network: str = "conv"
    width: int = 16
    hidden_units: int = 512
    hidden_layers: int = 2
    data: str = "pixels"
    likelihood: str = "marginal-gaussian"
    precision_prior: ops.PrecisionPrior = "flat"
    scale: float = 0.1
    learned_scale: bool = False
    dequantization: str = "none"
    decoder_output: str = "linear"
    num_data: int | None = None

    def __post_init__(self) -> None:
        ops.prior_shape_and_rate(self.precision_prior)
        for name in ("latent_dim", "width", "hidden_units"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("hidden_layers", self.hidden_layers >= 0, ">= 0")
        whole = all(type(size) is int and size >= 1 for size in self.shape)
        self._require("shape", len(self.shape) >= 1 and whole, "at least one dimension, all integers >= 1")
        self._require_one_of("network", NETWORKS)
        self._require_one_of("data", DATA_KINDS)
        self._require_one_of("likelihood", LIKELIHOODS)
        self._require_one_of("dequantization", DEQUANTIZATIONS)
        self._require_one_of("decoder_output", DECODER_OUTPUTS)
        self._require("scale", self.scale > 0, "> 0")
        self._require("num_data", self.num_data is None or self.num_data >= 1, "None or >= 1")
        plain = self.dequantization == "none"
        self._require("dequantization", plain or self.likelihood != "bernoulli", "none: Bernoulli data are discrete")
        self._require("dequantization", plain or self.data == "pixels", "none: real data are continuous already")
        self._require(
            "likelihood", self.likelihood != "bernoulli" or self.data == "pixels", "a Gaussian one for real data"
        )
        bounded = self.data == "pixels" and self.likelihood != "bernoulli" and self.dequantization != "langevin"
        self._require(
            "decoder_output",
            self.decoder_output == "linear" or bounded,
            "linear: only pixels without Langevin dequantization, under a Gaussian likelihood, lie within [-1, 1]",
        )

    @property
    def channels(self) -> int:
        """C of images."""
        return self.shape[0]

    def _require(self, name: str, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            raise ValueError(
                f"ald_ext.models.{type(self).__name__}: {name}: got {getattr(self, name)!r}, expected {expected}"
            )

    def _require_one_of(self, name: str, values: tuple[str, ...]) -> None:
        self._require(name, getattr(self, name) in values, f"one of {', '.join(values)}")


def config_from_dict(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Return the settings that ``dataclasses.asdict`` gave, also after a round trip through JSON.

    Raises:
        ValueError: a setting that the model does not have, a value of another type, or one out of its range.
    """
    return from_dict(config_class, values, f"ald_ext.models.{config_class.__name__}")
