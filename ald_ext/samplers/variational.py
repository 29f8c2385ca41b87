"""Amortized variational inference with Gaussians, to compare amortized Langevin dynamics with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from ..settings import require
from .minibatches import Minibatches
from .potential import Potential


class GaussianEncoder(nn.Module):
    """q(z | x) = N(μ(x), Σ(x)), Σ = LLᵀ with a diagonal or a lower triangular factor L (paper: Appendix F.3).

    Args:
        network: (n, ...) → (n, :meth:`num_outputs`): the mean, the inverse softplus of L's diagonal, and, if full, the
            entries below the diagonal.
        latent_dim: d.
        covariance: "diagonal" or "full".

    Raises:
        ValueError: another covariance.
    """

    def __init__(self, network: nn.Module, latent_dim: int, covariance: str = "diagonal") -> None:
        super().__init__()
        self.num_outputs(latent_dim, covariance)  # which checks the covariance
        self.network, self.latent_dim, self.covariance = network, latent_dim, covariance

    @staticmethod
    def num_outputs(latent_dim: int, covariance: str = "diagonal") -> int:
        """Return how many outputs the network must have. ValueError for another covariance."""
        argument, known = "ald_ext.samplers.GaussianEncoder: covariance", covariance in ("diagonal", "full")
        require(known, argument, repr(covariance), "'diagonal' or 'full'")
        return 2 * latent_dim + (latent_dim * (latent_dim - 1) // 2 if covariance == "full" else 0)

    def forward(self, x: Tensor) -> Independent | MultivariateNormal:
        """Return q(z | x) for a batch (n, ...)."""
        outputs, d = self.network(x), self.latent_dim
        mean, deviation = outputs[:, :d], F.softplus(outputs[:, d : 2 * d]) + torch.finfo(outputs.dtype).tiny
        if self.covariance == "diagonal":
            return Independent(Normal(mean, deviation), 1)
        factor = torch.diag_embed(deviation)
        row, column = torch.tril_indices(d, d, -1, device=outputs.device)
        factor = factor.index_put((torch.arange(len(x), device=x.device)[:, None], row, column), outputs[:, 2 * d :])
        return MultivariateNormal(mean, scale_tril=factor)


def negative_elbo(encoder: GaussianEncoder, potential: Potential, x: Tensor, num_samples: int = 1) -> Tensor:
    """Return E_q[U(x, z)] - H(q), (n,), estimated with reparameterized draws (paper: Section 6).

    It bounds -log p(x) from above if U contains its normalizing constants.

    Args:
        encoder: q(z | x).
        potential: U(x, z) → (m,).
        x: data (n, ...).
        num_samples: number of draws for each datum.
    """
    posterior = encoder(x)
    z = posterior.rsample((num_samples,))
    repeated = x.expand(num_samples, *x.shape).flatten(0, 1)
    energies = potential(repeated, z.flatten(0, 1)).view(num_samples, len(x))
    return energies.mean(0) - posterior.entropy()


def fit_variational(
    encoder: GaussianEncoder,
    potential: Potential,
    x: Tensor,
    *,
    num_steps: int,
    lr: float = 1e-3,
    num_samples: int = 32,
    batch_size: int | None = None,
    seed: int | None = None,
    on_step: Callable[[], Any] | None = None,
) -> list[float]:
    """Lower the mean :func:`negative_elbo` by Adam, with lr falling to 0 along a cosine; return the losses.

    Args:
        encoder: q(z | x), which is changed in place.
        potential, x: see :func:`negative_elbo`.
        num_steps: number of steps of Adam.
        lr: initial learning rate.
        num_samples: number of draws for each datum at each step.
        batch_size: number of data of a step's minibatch; None stands for all.
        seed: seed of the minibatches; None draws one from torch's default generator.
        on_step: function called after every step, for progress.

    Raises:
        ValueError: batch_size out of range.
    """
    if batch_size is None:
        batch_size, seed = len(x), 0  # which draws nothing from torch's generator
    minibatches = Minibatches("ald_ext.samplers.fit_variational", len(x), batch_size, "batch", seed)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = negative_elbo(encoder, potential, x[minibatches.draw()], num_samples).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
        if on_step is not None:
            on_step()
    return torch.stack(losses).tolist() if losses else []
