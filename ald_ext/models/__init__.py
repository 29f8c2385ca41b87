"""Deep latent variable models: one potential a model, one file a model."""

from .ae import AE
from .autoencoder import Autoencoder, ModelConfig
from .lae import LAE
from .vae import VAE

#: By the names of the command line.
MODELS: dict[str, type[Autoencoder]] = {"lae": LAE, "ae": AE, "vae": VAE}

__all__ = ["AE", "LAE", "MODELS", "VAE", "Autoencoder", "ModelConfig"]
