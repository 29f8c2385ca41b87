"""The models by name."""

from __future__ import annotations

from ..settings import require, shortened
from .abp import ABP
from .ae import AE, SparseAE
from .clae import CLAE
from .dlgm import DLGM
from .lae import LAE
from .latent_variable_model import LatentVariableModel
from .vae import VAE

#: The models by their names on the command line.
MODELS: dict[str, type[LatentVariableModel]] = {
    model.name: model for model in (LAE, CLAE, AE, SparseAE, VAE, ABP, DLGM)
}


def find_model_class(name: str) -> type[LatentVariableModel]:
    """Return the class of a model by its name. ValueError for an unknown one."""
    require(name in MODELS, "model", shortened(name), f"one of {', '.join(MODELS)}")
    return MODELS[name]
