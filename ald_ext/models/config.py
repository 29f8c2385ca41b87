"""The settings of a model: plain values, which JSON and checkpoints hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .. import ops
from ..settings import check_values, from_dict, require, setting, shortened
from .likelihoods import LIKELIHOODS

DEQUANTIZATIONS = ("none", "uniform", "langevin")
#: Settings that follow from the data.
SETTINGS_OF_DATA = ("data", "num_data", "shape")

Config = TypeVar("Config", bound="ModelConfig")


@dataclass(frozen=True)
class ModelConfig:
    """The size and form of a model. A model with settings of its own has a subclass, named in ``Model.config_class``.

    Args:
        shape: shape of a datum: (C, 32, 32) for images; any shape, such as (d,), with the network "mlp".
        latent_dim: number of latent variables, d_z.
        network: the built-in networks: "conv" for images of 32 x 32, "mlp" for data of any shape.
        width: channels of the hidden layers of "conv".
        hidden_units: units of each hidden layer of "mlp".
        hidden_layers: number of hidden layers of "mlp", at most 1000; 0 is a linear map.
        data: "pixels" for uint8; "real" for float32 of any range, which the likelihood sees as they are.
        likelihood: the likelihood p(x | z), a name in ``LIKELIHOODS`` of :mod:`ald_ext.models.likelihoods`.
        precision_prior: prior of the marginalized Gaussian's precision: "flat", "jeffreys" or (a, b) for Gamma(a, b).
        scale: σ of "gaussian", in units of the dequantized data, which "none" scales to [-1, 1].
        learned_scale: learn σ, beginning at ``scale``.
        dequantization: how pixels become real values, see :mod:`ald_ext.dequantization`.
        decoder_output: "linear", or "tanh" to bound the means of pixels to [-1, 1], as pixels are. A black or a white
            pixel then has a range of latent variables that decode to it, not one value. "tanh" does not go with
            Langevin dequantization, whose values have no bounds, nor with Bernoulli pixels, whose means are bounded.
        num_data: number of training data, which ABP and CLAE need, as they keep something for each datum.

    Raises:
        ValueError: a value out of its range, or values that do not go together.
    """

    shape: tuple[int, ...] = (1, 32, 32)
    latent_dim: int = setting(32, at_least=1)
    network: str = setting("conv", choices=("conv", "mlp"))
    width: int = setting(16, at_least=1)
    hidden_units: int = setting(512, at_least=1)
    hidden_layers: int = setting(2, at_least=0, at_most=1000)
    data: str = setting("pixels", choices=("pixels", "real"))
    likelihood: str = setting("marginal-gaussian", choices=LIKELIHOODS)
    precision_prior: ops.PrecisionPrior = "flat"
    scale: float = setting(0.1, above=0)
    learned_scale: bool = False
    dequantization: str = setting("none", choices=DEQUANTIZATIONS)
    decoder_output: str = setting("linear", choices=("linear", "tanh"))
    num_data: int | None = setting(None, at_least=1)

    def __post_init__(self) -> None:
        named = self.precision_prior in ("flat", "jeffreys") or not isinstance(self.precision_prior, str)
        self._require("precision_prior", named, "'flat', 'jeffreys' or (a, b)")
        ops.prior_shape_and_rate(self.precision_prior)
        check_values(self, f"ald_ext.models.{type(self).__name__}")
        whole = all(type(size) is int and size >= 1 for size in self.shape)
        self._require("shape", len(self.shape) >= 1 and whole, "at least one dimension, all integers >= 1")
        discrete, pixels = LIKELIHOODS[self.likelihood].discrete, self.data == "pixels"
        plain = self.dequantization == "none"
        self._require("dequantization", plain or not discrete, f"none: {self.likelihood} data are discrete")
        self._require("dequantization", plain or pixels, "none: real data are continuous already")
        continuous = ", ".join(name for name, likelihood in LIKELIHOODS.items() if not likelihood.discrete)
        self._require("likelihood", pixels or not discrete, f"one for real data: {continuous}")
        self._require(
            "decoder_output",
            self.decoder_output == "linear" or (pixels and not discrete and self.dequantization != "langevin"),
            "linear: only pixels without Langevin dequantization, which are not discrete, lie within [-1, 1]",
        )

    @property
    def channels(self) -> int:
        """The number C of channels of an image."""
        return self.shape[0]

    def _require(self, name: str, fulfilled: bool, expected: str) -> None:
        require(fulfilled, f"ald_ext.models.{type(self).__name__}: {name}", shortened(getattr(self, name)), expected)


def config_from_dict(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Return the settings that ``dataclasses.asdict`` gave, also after a round trip through JSON.

    Args:
        config_class: :class:`ald_ext.models.ModelConfig` or a subclass of it.
        values: the settings by name; what is missing has its default.

    Raises:
        ValueError: a setting that the model does not have, a value of another type, or one out of its range.
    """
    return from_dict(config_class, values, f"ald_ext.models.{config_class.__name__}")
