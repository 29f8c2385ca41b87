"""A prior that is refitted to a trained model: a mixture of Gaussians, from which new data are drawn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..settings import require

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

#: The fewest latent variables for each component, and the iterations of EM.
DATA_FOR_EACH, ITERATIONS = 4, 15


def fit_mixture(z: np.ndarray, components: int, ridge: float) -> GaussianMixture:
    """Return a mixture of Gaussians with full covariances, fitted by EM to latent variables (n, d_z).

    Args:
        z: samples of the aggregated posterior (1/n) Σ_i p(z | x_i), which of all priors has the largest likelihood
            (Tomczak & Welling 2018).
        components: number of Gaussians; fewer where there are not four data for each.
        ridge: what is added to variances, as a share of the data's variance.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ModuleNotFoundError as error:
        raise ImportError("ald_ext.models: a mixture needs scikit-learn: pip install 'ald_ext[train]'") from error
    added = ridge * float(z.var(0).mean()) + 1e-12  # for a latent space that has collapsed
    components = max(1, min(components, len(z) // DATA_FOR_EACH))
    mixture = GaussianMixture(components, reg_covar=added, max_iter=ITERATIONS, random_state=0)
    with warnings.catch_warnings():  # it need not have converged
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(z)


@dataclass(frozen=True)
class MixturePrior:
    """A mixture of Gaussians q(z) = Σ_k w_k N(z; μ_k, L_k L_kᵀ), as :meth:`LatentVariableModel.refit_prior` fits it.

    Args:
        weights: w, (K,).
        means: μ, (K, d_z).
        scale_trils: lower triangular L, (K, d_z, d_z).
    """

    weights: Tensor
    means: Tensor
    scale_trils: Tensor

    @classmethod
    def fit(cls, z: Tensor, components: int, ridge: float = 1e-3) -> MixturePrior:
        """Return the mixture that fits latent variables (n, d_z) on any device, on the same device and of their dtype.

        Args:
            z: samples of the posteriors of the data, (n, d_z), n >= 2.
            components: number of Gaussians K; fewer where there are not four data for each.
            ridge: what is added to variances, as a share of the data's variance.

        Raises:
            ValueError: fewer than two data, integers, values that are not finite, or no components.
            ImportError: scikit-learn is missing.
        """
        owner = "ald_ext.models.MixturePrior"
        require(components >= 1, f"{owner}: components", components, ">= 1")
        require(ridge >= 0, f"{owner}: ridge", ridge, ">= 0")
        require(z.dim() == 2 and len(z) >= 2, f"{owner}: z", tuple(z.shape), "(n, d_z), two data at least")
        require(z.is_floating_point(), f"{owner}: z", str(z.dtype).removeprefix("torch."), "floating-point numbers")
        require(bool(z.isfinite().all()), f"{owner}: z", "values that are not finite", "finite ones")
        mixture = fit_mixture(z.detach().double().cpu().numpy(), components, ridge)
        values = mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_)
        return cls(*(torch.from_numpy(value).to(z) for value in values))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return independent draws, (count, d_z)."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(
            (count, self.means.shape[1]), generator=generator, device=self.means.device, dtype=self.means.dtype
        )
        return self.means[chosen] + (self.scale_trils[chosen] @ noise[:, :, None]).squeeze(2)
