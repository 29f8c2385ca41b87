"""Exact sampling of very many data: an encoder begins and preconditions the chains, each datum has its own residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ..ops import draw_seed, latent_normal
from ..settings import require
from .hmc import HMC
from .minibatches import Kernel, MinibatchSampler
from .potential import Potential
from .transforms import TransformedPotential


class ResidualALD(MinibatchSampler):
    """Amortized sampling with a residual r_i of each datum: z_i = μ(x_i) + L(x_i) r_i, of which r_i moves.

    The encoder q(z | x) = N(μ(x), L(x) L(x)ᵀ) is shared by all data. At each :meth:`step` a datapoint-wise kernel moves
    the residuals of a minibatch on the potential U(x_i, μ(x_i) + L(x_i) r_i), accepting each datum and chain by itself.
    For a given encoder this map is affine in r_i, so that a kernel with a test leaves the posterior exp(-U/T) exactly
    invariant, however bad the encoder and however small the minibatches are. A good encoder makes the residuals' target
    near N(0, I), whatever the scales of the posteriors (as Hoffman et al. 2019 do by one map, "NeuTra-lizing bad
    geometry"): step sizes are in posterior standard deviations. Chains begin at the encoder's draws, r_i ~ N(0, I) (as
    in Hoffman 2017), and no transition takes their law further from the posterior in total variation. A step costs the
    same for any n, and the memory is that of z.

    The encoder may be improved between steps, as long as it is not fitted to the very states that it then moves, or as
    these steps are discarded.

    Args:
        encoder: q, (n, ...) → a normal distribution over (n, d), such as a :class:`GaussianEncoder` after
            :func:`fit_variational`. It is not changed.
        potential: U(x, z).
        x: data (n, ...).
        batch_size: m; None stands for all data. Below a thousand the overhead of a step counts.
        transitions: number of the kernel's transitions for each minibatch, which takes one gradient more than those.
        kernel: HMC, MALA or LangevinDynamics; not UnderdampedLangevin, whose momenta would begin anew.
        chains: number of chains for each datum.
        seed: seed of the initial residuals, the noise and the minibatches; None draws one from torch's default
            generator.
        outputs: "all" to return the states of all data at each step, or "batch" for those of its minibatch, whose
            indices are in ``batch``.
        options: options of the kernel except index and adapt_steps, as the kernel is made anew for each minibatch.

    Raises:
        ValueError: an argument out of its range, an option that such a kernel cannot have, or an encoder of something
            else than normal distributions.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        potential: Potential,
        x: Tensor,
        *,
        batch_size: int | None = None,
        transitions: int = 1,
        kernel: Kernel = HMC,
        chains: int = 1,
        seed: int | None = None,
        outputs: str = "all",
        **options: Any,
    ) -> None:
        seed = draw_seed() if seed is None else seed
        minibatches: dict[str, Any] = {"batch_size": batch_size, "transitions": transitions, "outputs": outputs}
        super().__init__(x, kernel, options, chains=chains, seed=seed, **minibatches)
        self.encoder, self.potential = encoder, potential
        if isinstance(potential, TransformedPotential):
            temperature, own = options.get("temperature", 1.0), potential.temperature
            expected = f"{own}, that of the TransformedPotential"
            require(temperature == own, "ald_ext.samplers.ResidualALD: temperature", temperature, expected)
        first_chain = options.get("first_chain", 0)
        parts = []
        for index in torch.arange(len(x), device=x.device).split(self.batch_size):
            mean, factor = self._affine(x[index])
            d = mean.shape[1]
            key = {"seed": seed, "step": 0, "offset": first_chain * d}  # Note [Noise of datapoint samplers]
            residuals = latent_normal(index, chains * d, **key, dtype=mean.dtype).view(-1, chains, d)
            parts.append(mean[:, None] + residuals @ factor.mT)
        self._z = torch.cat(parts)

    @property
    def z(self) -> Tensor:
        """The current samples of all data, (n, chains, d). Later steps overwrite them."""
        return self._z

    @torch.no_grad()
    def step(self) -> Tensor:
        """Make the transitions of one minibatch; return the samples of all data or of the minibatch, (…, chains, d)."""
        self.batch = self.minibatches.draw()
        index = self.batch.to(self._z.device)
        mean, factor = self._affine(self.x[self.batch])
        residuals = torch.linalg.solve_triangular(factor, (self._z[index] - mean[:, None]).mT, upper=False).mT

        def potential(x: Tensor, rows: Tensor) -> Tensor:
            z = mean[:, None] + rows.view(residuals.shape) @ factor.mT
            return self.potential(x, z.flatten(0, 1))

        moved = mean[:, None] + self._moved(potential, residuals) @ factor.mT
        self._z[index] = moved
        return self._z if self.outputs == "all" else moved

    @torch.no_grad()
    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ(x), (m, d), and L(x), (m, d, d)."""
        q = self.encoder(x)
        name = "ald_ext.samplers.ResidualALD: encoder"
        if isinstance(q, MultivariateNormal):
            mean, factor = q.loc, q.scale_tril
        else:
            normal = isinstance(q, Independent) and isinstance(getattr(q, "base_dist", None), Normal)
            expected = "Independent(Normal) or MultivariateNormal, as a GaussianEncoder gives"
            require(normal, name, f"a {type(q).__name__}", expected)
            mean, factor = q.mean, q.stddev.diag_embed()
        fits = mean.dim() == 2 and len(mean) == len(x)
        require(fits, name, f"means of shape {tuple(mean.shape)}", f"({len(x)}, d), one for each datum")
        return mean, factor

    def state_dict(self) -> dict[str, Any]:
        """Return z, step counter and minibatches; a run with the same encoder continues from them bit for bit."""
        return {"z": self._z.clone(), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError for a state that does not fit; nothing has changed then."""
        (self._z,) = self._load(state, {"z": self._z})
