"""The prior that suits a trained model best: a mixture of Gaussians, fitted to the latent variables of its data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ..models import LatentVariableModel
from ..models.mixture_prior import fit_mixture
from ..settings import require
from ..training.evaluation import values_of_data
from .preparation import check_tensor

#: The mixture's components, and what is added to its variances as a share of the data's variance.
COMPONENTS, RIDGE = 20, 0.03
#: What a mixture's density is made of.
MIXTURE = ("weights_", "means_", "precisions_cholesky_")


def codes_of(model: LatentVariableModel, data: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return inferred latent variables z, (n, d_z), of data (n, *shape), and the squares ‖x - mean(z)‖², (n,)."""

    def both(x: Tensor) -> Tensor:
        z = model.encode(x)
        return torch.cat([z, (model.to_brightness(x) - model.decode(z)).square().flatten(1).sum(1)[:, None]], 1)

    values = values_of_data(model, data, both).double().numpy()
    return values[:, :-1], values[:, -1]


@dataclass(frozen=True)
class RefittedPrior:
    """q(z) in place of a model's p(z), and so U(x) = ‖x - mean(z)‖² / 2σ² - log q(z) at z = f(x).

    q is a mixture of Gaussians with full covariances, fitted to the z of the normal training data. These are samples of
    the aggregated posterior (1/n) Σ_i p(z | x_i), which of all priors has the largest likelihood (Tomczak & Welling
    2018). σ makes both terms vary equally over the training data: residuals of neighbouring pixels are alike, and a
    likelihood that takes them for independent would leave the prior no influence.

    Args:
        mixture: log q is its ``score_samples``.
        half_precision: 1 / 2σ².
    """

    mixture: GaussianMixture
    half_precision: float

    @classmethod
    def fit(cls, model: LatentVariableModel, training_data: Tensor, components: int = COMPONENTS) -> RefittedPrior:
        """Return the prior for a model of training data (n, *shape); fewer components where the data are few.

        Raises:
            ValueError: components < 1.
        """
        require(components >= 1, "ald_ext.detection.prior.RefittedPrior: components", components, ">= 1")
        z, squares = codes_of(model, training_data)
        mixture = fit_mixture(z, components, RIDGE)
        return cls(mixture, float(np.std(mixture.score_samples(z)) / max(np.std(squares), 1e-12)))

    def potential(self, model: LatentVariableModel, data: Tensor) -> Tensor:
        """Return U(x) of data (n, *shape), (n,) float64."""
        z, squares = codes_of(model, data)
        return torch.from_numpy(squares * self.half_precision - self.mixture.score_samples(z))

    def state(self) -> dict[str, Tensor]:
        """Return plain tensors, for :meth:`of_state`."""
        mixture = {name: torch.from_numpy(getattr(self.mixture, name)) for name in MIXTURE}
        return {**mixture, "half_precision": torch.tensor(self.half_precision, dtype=torch.float64)}

    @classmethod
    def of_state(cls, state: dict[str, Tensor], latent_dim: int) -> RefittedPrior:
        """Return the prior whose :meth:`state` it is. ValueError for another."""
        names = {*MIXTURE, "half_precision"}
        require(set(state) == names, "priors", sorted(state), ", ".join(sorted(names)))
        count, d = len(state["weights_"]) if state["weights_"].dim() else 0, latent_dim
        shapes = {"weights_": (None,), "means_": (count, d), "precisions_cholesky_": (count, d, d)}
        for name, shape in {**shapes, "half_precision": ()}.items():
            check_tensor(f"priors: {name}", state[name], torch.float64, shape)
        mixture = GaussianMixture(count)
        for name in MIXTURE:
            setattr(mixture, name, state[name].detach().cpu().numpy())
        return cls(mixture, float(state["half_precision"]))
