"""Metropolis-Hastings tests with a fault each, of which some vanish with the step size; a new fault is a line more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ald_ext.samplers import GaussianPotential

#: (log u, log r, difference of the potentials alone), (chains,) each, to whether a proposal is accepted, (chains,).
Test = Callable[[Tensor, Tensor, Tensor], Tensor]

RIGHT: Test = lambda u, r, _: u < r  # noqa: E731

FAULTS: dict[str, Test] = {
    "skipped": lambda u, r, _: torch.ones_like(u, dtype=torch.bool),
    "of the inverse ratio": lambda u, r, _: u < -r,
    "accepts what is to be rejected": lambda u, r, _: u >= r,
    "averaged over all chains": lambda u, r, _: u < r.mean(),
    "averaged over four chains": lambda u, r, _: u < r.view(-1, 4).mean(1).repeat_interleave(4),
    "one for all chains": lambda u, r, _: u[:1].expand_as(u) < r.mean(),
    "of the ratio's root": lambda u, r, _: u < r / 2,
    "without the proposal densities": lambda u, _, difference: u < difference,
}


class MetropolisLangevin:
    """MALA in plain PyTorch, with a step size that can be set and any test."""

    def __init__(self, potential: GaussianPotential, z: Tensor, test: Test, step_size: float = 0.1) -> None:
        self.potential, self.z, self.test, self.step_size = potential, z, test, step_size

    def gradient(self, z: Tensor) -> Tensor:
        return (z - self.potential.mean) @ self.potential.precision

    def step(self) -> Tensor:
        h, noise = self.step_size, torch.randn_like(self.z)
        proposal = self.z - h * self.gradient(self.z) + (2 * h) ** 0.5 * noise
        a = (h / 2) ** 0.5 * (self.gradient(self.z) + self.gradient(proposal))
        difference = self.potential(None, self.z) - self.potential(None, proposal)
        ratio = difference + (a * (noise - a / 2)).sum(1)
        accepted = self.test(torch.rand(len(noise)).log(), ratio, difference)
        self.z = torch.where(accepted[:, None], proposal, self.z)
        return self.z
