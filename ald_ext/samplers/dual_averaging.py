"""The adaptation of step sizes to an acceptance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: γ, t₀ and κ of Hoffman & Gelman (2014), Section 3.2.1.
SHRINKAGE, DELAY, AVERAGING_EXPONENT = 0.05, 10, 0.75


class DualAveraging(NamedTuple):
    """Step sizes that adapt to a target acceptance, element by element (Hoffman & Gelman 2014, Eq. 6, Algorithm 5).

    With α_t the acceptance at step t = 1, 2, … and δ the target:

        H ← (1 - 1/(t + t₀)) H + (δ - α_t)/(t + t₀),      log ε ← μ - (√t/γ) H,
        log ε̄ ← t^(-κ) log ε + (1 - t^(-κ)) log ε̄,      μ = log 10 ε₀

    ε is the step size of the next step, ε̄ that after adaptation.
    """

    step_size: Tensor
    log_average: Tensor
    error: Tensor
    center: Tensor

    @classmethod
    def start(cls, step_size: Tensor) -> DualAveraging:
        """Begin with ε₀ = ``step_size``, of any shape."""
        zero = torch.zeros_like(step_size)
        return cls(step_size, zero, zero.clone(), step_size.log() + math.log(10))

    def update(self, acceptance: Tensor, target: float, step: int) -> DualAveraging:
        """Return the state after step number ``step``, whose mean acceptance probabilities were ``acceptance``."""
        weight = 1 / (step + DELAY)
        error = (1 - weight) * self.error + weight * (target - acceptance)
        log_step_size = self.center - math.sqrt(step) / SHRINKAGE * error
        weight = step**-AVERAGING_EXPONENT
        log_average = weight * log_step_size + (1 - weight) * self.log_average
        return DualAveraging(log_step_size.exp(), log_average, error, self.center)

    def frozen(self) -> DualAveraging:
        """Return the state with the averaged step size as the step size."""
        return self._replace(step_size=self.log_average.exp())
