"""Deep latent variable models: one potential a model, one file a model."""

from .abp import ABP, ABPConfig
from .ae import AE, AEConfig, SparseAE, SparseAEConfig
from .clae import CLAE, CLAEConfig
from .config import ModelConfig, config_from_dict
from .dlgm import DLGM, DLGMConfig
from .ensemble import ParameterEnsemble
from .lae import LAE, LAEConfig
from .latent_variable_model import LatentVariableModel
from .mixture_prior import MixturePrior
from .registry import MODELS, find_model_class
from .saving import load_model, save_model
from .vae import VAE

__all__ = [
    "ABP",
    "AE",
    "CLAE",
    "DLGM",
    "LAE",
    "MODELS",
    "VAE",
    "ABPConfig",
    "AEConfig",
    "CLAEConfig",
    "DLGMConfig",
    "LAEConfig",
    "LatentVariableModel",
    "MixturePrior",
    "ModelConfig",
    "ParameterEnsemble",
    "SparseAE",
    "SparseAEConfig",
    "config_from_dict",
    "find_model_class",
    "load_model",
    "save_model",
]
