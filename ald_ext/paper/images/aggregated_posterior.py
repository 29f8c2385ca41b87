"""The potential under the prior that explains the posterior samples of the training data best."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models import LatentVariableModel
from ...training.evaluation import values_of_data

#: Components of the mixture, its iterations, and what is added to its variances as a share of the data's variance.
COMPONENTS, ITERATIONS, RIDGE = 20, 15, 0.03


def codes_of(model: LatentVariableModel, data: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return inferred latent variables z, (n, d_z), of data (n, *shape), and the squares ‖x - mean(z)‖², (n,)."""

    def both(x: Tensor) -> Tensor:
        z = model.encode(x)
        return torch.cat([z, (model.to_brightness(x) - model.decode(z)).square().flatten(1).sum(1)[:, None]], 1)

    values = values_of_data(model, data, both).double().numpy()
    return values[:, :-1], values[:, -1]


def aggregated_potential(model: LatentVariableModel, training_data: Tensor, data: Tensor) -> Tensor:
    """Return U(x) = ‖x - mean(z)‖² / 2σ² - log q(z) at z = f(x), (n,) float64; higher is more anomalous.

    q is a mixture of Gaussians, fitted to the z of the training data. These are samples of the aggregated posterior
    (1/n) Σ_i p(z | x_i), which of all priors has the largest likelihood (Tomczak & Welling 2018). σ makes both terms
    vary equally over the training data: residuals of neighbouring pixels are alike, and a likelihood that takes them
    for independent would leave the prior no influence.

    Args:
        model: its encoder and decoder are used, its prior is not.
        training_data: normal data, (m, *shape), without labels.
        data: (n, *shape).
    """
    (seen, seen_squares), (z, squares) = codes_of(model, training_data), codes_of(model, data)
    prior = fitted_mixture(seen)
    half_precision = np.std(prior.score_samples(seen)) / np.std(seen_squares)
    return torch.from_numpy(squares * half_precision - prior.score_samples(z))


def fitted_mixture(z: np.ndarray) -> Any:
    """Return scikit-learn's mixture of Gaussians with full covariances, fitted to z (n, d_z)."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = min(COMPONENTS, len(z))
    ridge = RIDGE * float(z.var(0).mean()) + 1e-12  # for a latent space that has collapsed
    mixture = GaussianMixture(components, reg_covar=ridge, max_iter=ITERATIONS, random_state=0)
    with warnings.catch_warnings():  # it need not have converged
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(z)
