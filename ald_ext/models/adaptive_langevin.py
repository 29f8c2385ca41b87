"""Langevin dynamics of latent variables in training, with one step size that adapts, and chains that persist."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..samplers import LangevinDynamics
from ..samplers.potential import Potential, potential_and_gradient
from ..settings import setting
from .config import ModelConfig

#: Rate at which log of the step size follows the acceptance, and bounds of the step size.
ADAPTATION_RATE, SMALLEST_STEP_SIZE, LARGEST_STEP_SIZE = 0.05, 1e-6, 1.0


@dataclass(frozen=True)
class LatentLangevinConfig(ModelConfig):
    """Settings of a model whose latent variables make Langevin steps.

    Args:
        langevin_steps: steps on z each time a datum is in a minibatch.
        step_size: initial h of z ← z - h ∇U + √(2h) ξ; half the square of Han et al.'s s.
        target_acceptance: acceptance to which :class:`AdaptiveLangevin` adapts h; None keeps h.
        inference_steps: steps on z of new data.
    """

    langevin_steps: int = setting(10, at_least=1)
    step_size: float = setting(0.01, above=0)
    target_acceptance: float | None = setting(0.57, above=0, below=1)
    inference_steps: int = setting(100, at_least=1)


class AdaptiveLangevin(nn.Module):
    """z ← z - h ∇U(x, z) + √(2h) ξ for minibatches of data, with h adapted to the current potential.

    A decoder that learns makes the posteriors narrower all the time. So after each step h moves by
    log h ← log h + 0.05 (a - ``target_acceptance``), where a is the mean acceptance probability that the step would
    have had in a Metropolis test (:class:`ald_ext.samplers.MALA`). That costs nothing, as the next step needs U and ∇U
    at the proposal anyway. Nothing is rejected.

    Step t of datum i has the noise of (seed, t, i), where t counts the steps made with any minibatch, so it depends
    neither on the datum's place in a minibatch nor on when the run was interrupted. Checkpoints hold all of it.

    Args:
        step_size: initial h.
        target_acceptance: acceptance to which h adapts; None keeps h.
        seed: seed of the noise; None draws one from torch's default generator.
    """

    step_size: Tensor
    step_count: Tensor
    seed: Tensor

    def __init__(self, step_size: float, target_acceptance: float | None, seed: int | None = None) -> None:
        super().__init__()
        self.target_acceptance = target_acceptance
        self.register_buffer("step_size", torch.tensor(step_size, dtype=torch.float64))
        self.register_buffer("seed", torch.tensor(ops.draw_seed() if seed is None else seed))
        self.register_buffer("step_count", torch.tensor(0))

    def move(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        index: Tensor,
        num_steps: int,
        evaluated: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return z after ``num_steps`` steps.

        Args:
            potential: U(x, z).
            x: (m, ...) data, or None for a target without data.
            z: (m, d), left unchanged.
            index: (m,) int64, the index of each datum, which keys its noise.
            num_steps: >= 1.
            evaluated: U(x, z) and ∇U(x, z) at the given z, if they are known.

        Returns:
            (m, d), detached.
        """
        seed, first = int(self.seed), int(self.step_count) + 1
        before: tuple[Tensor, Tensor, Tensor] | None = None
        for step in range(first, first + num_steps):
            value, gradient = evaluated or potential_and_gradient(potential, x, z)
            evaluated = None
            if before is not None and self.target_acceptance is not None:
                self._adapt(*before, value, gradient)
            z = z.detach().clone(memory_format=torch.contiguous_format)
            ops.latent_langevin_step_(
                z, gradient, index, lr=float(self.step_size), temperature=1.0, seed=seed, step=step
            )
            noise = ops.latent_normal(index, z.shape[1], seed=seed, step=step, dtype=z.dtype)
            before = (value, gradient, noise)
        self.step_count += num_steps
        return z

    def sample(self, potential: Potential, x: Tensor, z: Tensor, num_steps: int, index: Tensor, seed: int) -> Tensor:
        """Return z of new data after steps of the current size, whose noise ``index`` and ``seed`` key; h stays."""
        sampler = LangevinDynamics(potential, x, z, step_size=float(self.step_size), seed=seed, index=index)
        for _ in range(num_steps):
            sampler.step()
        return sampler.z

    def _adapt(self, value: Tensor, gradient: Tensor, noise: Tensor, new_value: Tensor, new_gradient: Tensor) -> None:
        """Adapt h to the acceptance of the latest step, whose log ratio is that of :class:`ald_ext.samplers.MALA`."""
        a = float(self.step_size / 2) ** 0.5 * (gradient + new_gradient)
        log_ratio = value - new_value + (a * (noise - a / 2)).sum(1)
        acceptance = log_ratio.clamp_max(0).exp().nan_to_num(0).mean(dtype=torch.float64)
        factor = torch.exp(ADAPTATION_RATE * (acceptance - self.target_acceptance))
        self.step_size.mul_(factor).clamp_(SMALLEST_STEP_SIZE, LARGEST_STEP_SIZE)


class PersistentChains(nn.Module):
    """Chains with states z (count, d), which begin at draws of N(0, I) and are part of a model's checkpoint.

    Args:
        count: number of chains.
        dimension: d.
        dynamics: the dynamics that move them.

    Attributes:
        moved: index of the chains that :meth:`advance` moved last.
    """

    z: Tensor

    def __init__(self, count: int, dimension: int, dynamics: AdaptiveLangevin) -> None:
        super().__init__()
        self.dynamics = dynamics
        seed = 0 if dynamics.seed.is_meta else int(dynamics.seed)  # a model on meta has no values
        self.register_buffer("z", ops.latent_normal(torch.arange(count), dimension, seed=seed, step=0))
        self.moved = torch.arange(0)

    def advance(self, potential: Potential, x: Tensor | None, index: Tensor, num_steps: int) -> Tensor:
        """Move the chains of a minibatch by ``num_steps`` steps and return their states, (m, d), detached.

        The arguments are those of :meth:`AdaptiveLangevin.move`; ``index`` names the chains.
        """
        z = self.dynamics.move(potential, x, self.z[index], index, num_steps)
        self.z[index], self.moved = z, index
        return z
