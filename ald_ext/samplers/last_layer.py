"""Amortized sampling of the last layer: z_i = Φ g(x_i), with g frozen, Metropolis-corrected or Hamiltonian.

Why this is exact where the dynamics of a whole network is not: features.py, Note [What the theory covers].
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import draw_seed
from ..settings import require
from .features import gram_rank
from .hmc import MALA
from .minibatches import Kernel, MinibatchSampler
from .potential import Potential


def outputs_of(weight: Tensor, design: Tensor) -> Tensor:
    """Return z (n, chains, d) of Φ (chains, d, F) and g(x) (n, F)."""
    return (design @ weight.flatten(0, 1).T).view(len(design), *weight.shape[:2])


class LastLayer:
    """The common part of the samplers of a last layer, with the arguments of :class:`LastLayerALD`."""

    def __init__(
        self,
        features: nn.Module,
        potential: Potential,
        x: Tensor,
        latent_dim: int,
        *,
        chains: int,
        weight: Tensor | None,
        initial_scale: float,
        seed: int | None,
        first_chain: int,
    ) -> None:
        self.features, self.potential, self.x, self.latent_dim = features, potential, x, latent_dim
        self.seed = draw_seed() if seed is None else seed
        self.design = self._design(x)
        self.rank = gram_rank(self.design)
        if self.rank < len(x):
            warnings.warn(
                f"ald_ext.samplers.{type(self).__name__}: the Gram matrix of the features of {len(x)} data has "
                f"numerical rank {self.rank}: the samples are confined to its range and are not those of the "
                "posterior. Use more features, a shorter length scale, or WhitenedFeatures",
                UserWarning,
                stacklevel=3,
            )
        shape = (chains, latent_dim, self.design.shape[1])
        if weight is None:
            begin, end = (chain * math.prod(shape[1:]) for chain in (first_chain, first_chain + chains))
            generator = torch.Generator().manual_seed(self.seed)
            # torch draws 16 at a time, so that the first ones do not depend on how many follow.
            normals = torch.randn(math.ceil(end / 16) * 16, generator=generator, dtype=self.design.dtype)[begin:end]
            scale = initial_scale / self.design.square().sum(1).mean().sqrt()
            self._weight = normals.view(shape).to(self.design.device) * scale
        else:
            self._weight = self._checked(weight, shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs for any data, (m, ...) → (m, chains, d): this is the amortized encoder."""
        return outputs_of(self.weight, self._design(x))

    @property
    def weight(self) -> Tensor:
        """The current Φ, (chains, d, F)."""
        return self._weight

    @property
    def z(self) -> Tensor:
        """The current samples of all data, (n, chains, d)."""
        return outputs_of(self.weight, self.design)

    def _design(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            design: Tensor = self.features(x)
        return design

    def _checked(self, weight: Tensor, shape: tuple[int, int, int]) -> Tensor:
        argument, got = f"ald_ext.samplers.{type(self).__name__}: weight", f"shape {tuple(weight.shape)}"
        require(weight.shape == shape, argument, got, f"{shape}, (chains, latent_dim, features)")
        return weight.detach().clone()


class LastLayerALD(LastLayer):
    """Langevin dynamics of Φ on the potential of all data, accepted or rejected as a whole (2022 version, Theorem 1).

        Φ' = Φ - η ∇_Φ ΣU(x_i, Φ g_i) + √(2ηT) ξ,      accepted with the Metropolis-Hastings probability of MALA

    The kernel is any datapoint-wise sampler, applied to Φ as one long latent vector: MALA does the above,
    LangevinDynamics leaves out the test, HMC is amortized Hamiltonian Monte Carlo. With a test, the outputs
    z_i = Φ g_i sample exp(-ΣU/T) exactly where the Gram matrix K = GGᵀ has full rank; where it has not, a UserWarning
    says the numerical rank.

    Args:
        features: g, (n, ...) → (n, F), which is not changed.
        potential: U(x, z).
        x: data (n, ...), or fixed inputs u for unconditional sampling (paper: Eq. 15), which the potential ignores.
        latent_dim: d.
        kernel: MALA, HMC, LangevinDynamics or UnderdampedLangevin.
        chains: number of independent Φ.
        weight: initial Φ, (chains, d, F); None draws normals of scale ``initial_scale``/√(mean ‖g‖²), so that the
            outputs begin as about N(0, initial_scale²).
        initial_scale: see weight.
        seed: seed of the initial weight, the noise and the minibatches; None draws one from torch's default generator.
        options: options of the kernel: step_size (of Φ), temperature, adapt_steps, num_leapfrog_steps, first_chain, …
    """

    def __init__(
        self,
        features: nn.Module,
        potential: Potential,
        x: Tensor,
        latent_dim: int,
        *,
        kernel: Kernel = MALA,
        chains: int = 1,
        weight: Tensor | None = None,
        initial_scale: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        first_chain = options.get("first_chain", 0)
        common: dict[str, Any] = {"chains": chains, "weight": weight, "initial_scale": initial_scale, "seed": seed}
        super().__init__(features, potential, x, latent_dim, **common, first_chain=first_chain)
        weights = self._weight.flatten(1)[None]
        self.kernel = kernel(self._total_potential, None, weights, seed=self.seed, **options)

    def _total_potential(self, _x: None, weights: Tensor) -> Tensor:
        """Return ΣU(x_i, Φ g_i) for rows Φ, (chains, d·F), under a flat prior on Φ."""
        z = outputs_of(weights.view(len(weights), self.latent_dim, -1), self.design)
        rows = self.x.repeat_interleave(len(weights), 0)
        return self.potential(rows, z.flatten(0, 1)).view(len(self.design), len(weights)).sum(0)

    @property
    def weight(self) -> Tensor:
        """The current Φ, (chains, d, F)."""
        return self.kernel.z.view(self._weight.shape)

    @property
    def divergences(self) -> Tensor:
        """As the kernel counts them for each Φ: int64, (n, chains), the same for every datum."""
        return self.kernel.divergences.expand(len(self.x), -1)

    @property
    def adaptation_steps_left(self) -> int:
        """The number of steps in which the kernel still adapts, whose states are no samples."""
        return getattr(self.kernel, "adaptation_steps_left", 0)

    def step(self) -> Tensor:
        """Make one transition of Φ and return the new samples of all data, (n, chains, d)."""
        self.kernel.step()
        return self.z

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the kernel, which holds Φ; a run continues from it bit for bit."""
        return self.kernel.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError for a state that does not fit."""
        self.kernel.load_state_dict(state)
        self.seed = self.kernel.seed


class LastLayerSGALD(MinibatchSampler, LastLayer):
    """Minibatch sampling of Φ: the outputs of m data make transitions of a datapoint-wise kernel, and Φ follows them.

    Let z_B = G_B Φᵀ be the outputs of a minibatch B, which the kernel moves by Δ, accepting each datum and chain by
    itself. Then

        Φᵀ ← Φᵀ + G_Bᵀ K_BB⁻¹ Δ,      K_BB = G_B G_Bᵀ

    is the smallest change of Φ that moves these outputs by Δ. Other outputs move by K_RB K_BB⁻¹ Δ. So the transition
    leaves exp(-ΣU/T) exactly invariant where the minibatch is all data and K has full rank, or where K_RB = 0
    (WhitenedFeatures). With nearly orthogonal features it is an approximation, with smooth features it is not. In
    contrast to Eq. (7) the noise enters only where the gradient is known, so the noise need not match a gradient that
    is n/m times as large, and with ``outputs="batch"`` a step costs the same for any n.

    Args:
        features, potential, x, latent_dim, chains, weight, initial_scale, seed: see :class:`LastLayerALD`.
        batch_size: m; None stands for all data.
        transitions: number of the kernel's transitions for each minibatch.
        kernel: MALA, HMC or LangevinDynamics; not UnderdampedLangevin, whose momenta would begin anew.
        outputs: "all" to return the outputs for all data at each step, or "batch" for those of its minibatch, whose
            indices are in ``batch``.
        options: options of the kernel except index and adapt_steps, as the kernel is made anew for each minibatch.

    Raises:
        ValueError: an argument out of its range, or an option that such a kernel cannot have.
    """

    def __init__(
        self,
        features: nn.Module,
        potential: Potential,
        x: Tensor,
        latent_dim: int,
        *,
        batch_size: int | None = None,
        transitions: int = 1,
        kernel: Kernel = MALA,
        chains: int = 1,
        weight: Tensor | None = None,
        initial_scale: float = 1.0,
        seed: int | None = None,
        outputs: str = "all",
        **options: Any,
    ) -> None:
        first_chain = options.get("first_chain", 0)
        common: dict[str, Any] = {"chains": chains, "weight": weight, "initial_scale": initial_scale, "seed": seed}
        LastLayer.__init__(self, features, potential, x, latent_dim, **common, first_chain=first_chain)
        minibatches: dict[str, Any] = {"batch_size": batch_size, "transitions": transitions, "outputs": outputs}
        MinibatchSampler.__init__(self, x, kernel, options, chains=chains, seed=self.seed, **minibatches)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Make the transitions of one minibatch; return the samples of all data or of the minibatch, (…, chains, d)."""
        self.batch = self.minibatches.draw()
        design = self.design[self.batch]
        z = outputs_of(self._weight, design)
        moved = self._moved(self.potential, z)
        coefficients = torch.linalg.pinv(design @ design.T, hermitian=True) @ (moved - z).flatten(1)
        change = (design.T @ coefficients).view(-1, *z.shape[1:])
        self._weight = self._weight + change.permute(1, 2, 0)
        return self.z if self.outputs == "all" else outputs_of(self._weight, design)

    def state_dict(self) -> dict[str, Any]:
        """Return Φ, step counter and minibatches; a run continues from them bit for bit."""
        return {"weight": self._weight.clone(), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError for a state that does not fit; nothing has changed then."""
        (self._weight,) = self._load(state, {"weight": self._weight})
