"""Step-size schedules of stochastic gradient Langevin dynamics, as torch.optim.lr_scheduler's.

Both compute the lr from the optimizer's initial lr and the number of steps alone, as torch's LambdaLR does: nothing
drifts, and a resumed run has the same bits. An lr that is written to a group by hand lasts until the next ``step()``.
Call ``step()`` once after each ``optimizer.step()``. They work with every optimizer of torch's interface.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

#: The entry of a parameter group that keeps its temperature while an exploration stage holds it at 0.
SAMPLING_TEMPERATURE = "sampling_temperature"


class ClosedFormScheduler(LRScheduler, ABC):
    """An lr that is the initial lr times a function of the number of steps."""

    @abstractmethod
    def factor(self) -> float:
        """lr over initial lr after ``last_epoch`` steps."""

    def get_lr(self) -> list[float | Tensor]:
        """The lr of every group, computed anew from its initial lr."""
        factor = self.factor()
        return [base_lr * factor for base_lr in self.base_lrs]


def polynomial_decay(step: int, offset: float, exponent: float) -> float:
    """(1 + t/b)^-γ after t steps, see :class:`PolynomialDecay`."""
    return float((1 + step / offset) ** -exponent)


class PolynomialDecay(ClosedFormScheduler):
    r"""The decreasing step size of Welling & Teh 2011 (Section 2), a(b + t)^-γ, where lr_0 is the optimizer's own lr:

        lr_t = lr_0 (1 + t/b)^-γ,      t = 0, 1, 2, …,      a = lr_0 b^γ

    Σ lr_t = ∞, so that the chain reaches every place from everywhere, and Σ lr_t² < ∞, so that the errors of the
    discretization and of minibatches die out and no Metropolis test is needed (their Eq. 2): both hold for 0.5 < γ ≤ 1
    and for no other γ. Samples count by their step size: E f ≈ Σ lr_t f(θ_t) / Σ lr_t.

    Args:
        optimizer: whose groups' lr are scheduled, each from its own start; floats, or tensors, which are filled in
            place.
        offset: b > 0, the number of steps over which lr is about constant; it has fallen by 2^-γ at t = b.
        exponent: γ, 0.5 < exponent ≤ 1.
        last_epoch: t before the first step; -1: a new run. As torch's.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, optimizer: Optimizer, *, offset: float, exponent: float, last_epoch: int = -1) -> None:
        if not (math.isfinite(offset) and offset > 0):
            raise ValueError(f"ald_ext.optim.PolynomialDecay: offset: got {offset}, expected a finite number > 0")
        if not 0.5 < exponent <= 1:
            raise ValueError(
                f"ald_ext.optim.PolynomialDecay: exponent: got {exponent}, expected 0.5 < exponent <= 1, "
                "for which lr has an infinite sum and its square a finite one"
            )
        # Floats, so that the state_dict is the same whatever number type was given.
        self.offset = float(offset)
        self.exponent = float(exponent)
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        """(1 + t/b)^-γ."""
        return polynomial_decay(self.last_epoch, self.offset, self.exponent)


class CyclicalCosine(ClosedFormScheduler):
    r"""The cyclical step size of cSG-MCMC (Zhang et al. 2020, Section 3): M cycles of C = ⌈K/M⌉ steps. At step k

        r(k) = mod(k - 1, C) / C,      lr_k = lr_0/2 · [cos(π r(k)) + 1],      k = 1, 2, …, K      (their Eq. 1)

    Each cycle begins with large steps that find another mode (exploration stage: r(k) < β), and ends with small ones
    that describe it (sampling stage: r(k) ≥ β). Take samples in the sampling stage only::

        for batch in batches:                            # K of them
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
            if scheduler.is_sampling:
                samples.append(copy.deepcopy(model.state_dict()))
            scheduler.step()                             # last: is_sampling and cycle speak of the step just made

    After K steps the cycles go on. Where M does not divide K, the last of the M cycles is cut short.

    Note [Exploration without noise]
        Their Algorithm 1 optimizes in the exploration stage and adds noise in the sampling stage only:
        ``noiseless_exploration=True``. Then ``group["temperature"]`` is 0 in the exploration stage, and in the sampling
        stage what it was before. Meanwhile it is kept in ``group["sampling_temperature"]``, an entry that a group has
        in this stage only, so that the optimizer's state_dict holds all there is. You may change temperatures at any
        time: in a sampling stage ``group["temperature"]`` is yours; in an exploration stage, what you write there
        (unless 0) is taken at the next ``scheduler.step()`` for the temperature of the sampling stage.

        A captured CUDA graph has the temperature of its capture: capture a graph for each stage.

    Args:
        optimizer: whose groups' lr are scheduled, each from its own start; floats, or tensors, which are filled in
            place.
        num_steps: K, the number of optimizer steps of the whole run.
        num_cycles: M, 1 ≤ num_cycles ≤ num_steps.
        exploration: β, the part of a cycle that explores, 0 ≤ β ≤ 1 - 1/C: each cycle has a step that samples.
        noiseless_exploration: True: the temperature is 0 in the exploration stage (see the note).
        last_epoch: k - 1 before the first step; -1: a new run. As torch's.

    Raises:
        ValueError: an argument out of its range, or ``noiseless_exploration`` with an optimizer without temperature.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        num_steps: int,
        num_cycles: int,
        exploration: float = 0.8,
        noiseless_exploration: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_count("num_steps", num_steps)
        check_count("num_cycles", num_cycles)
        if num_cycles > num_steps:
            raise ValueError(
                f"ald_ext.optim.CyclicalCosine: num_cycles: got {num_cycles}, expected at most num_steps = {num_steps}"
            )
        self.num_steps = int(num_steps)
        self.num_cycles = int(num_cycles)
        # The position of the last step of a cycle, 1 - 1/C, rounded as in is_sampling.
        last_position = (self.steps_per_cycle - 1) / self.steps_per_cycle
        if not 0 <= exploration <= last_position:
            raise ValueError(
                f"ald_ext.optim.CyclicalCosine: exploration: got {exploration}, expected 0 <= exploration <= "
                f"{last_position}, beyond which no step of a cycle of {self.steps_per_cycle} would sample"
            )
        if noiseless_exploration and not all("temperature" in group for group in optimizer.param_groups):
            raise ValueError(
                f"ald_ext.optim.CyclicalCosine: noiseless_exploration: got True with {type(optimizer).__name__}, "
                "which has no temperature, expected an optimizer of ald_ext.optim"
            )
        self.exploration = float(exploration)
        self.noiseless_exploration = bool(noiseless_exploration)
        super().__init__(optimizer, last_epoch)

    @property
    def steps_per_cycle(self) -> int:
        """C = ⌈K/M⌉."""
        return -(-self.num_steps // self.num_cycles)

    @property
    def cycle(self) -> int:
        """Index of the present cycle, from 0."""
        return self.last_epoch // self.steps_per_cycle

    @property
    def is_sampling(self) -> bool:
        """True in the sampling stage: the optimizer step with the present lr gives a sample."""
        return self._position() >= self.exploration

    def factor(self) -> float:
        """[cos(π r(k)) + 1] / 2."""
        return (math.cos(math.pi * self._position()) + 1) / 2

    def step(self, epoch: int | None = None) -> None:
        """As torch's: call it after each ``optimizer.step()``."""
        super().step(epoch)
        if self.noiseless_exploration:
            for group in self.optimizer.param_groups:
                restore_temperature(group) if self.is_sampling else hold_at_zero(group)

    def _position(self) -> float:
        """r(k): the nearest double to it, so that it compares exactly with a β written as a fraction or decimal."""
        steps = max(self.last_epoch, 0)  # -1 while a SequentialLR has yet to come to this schedule
        return (steps % self.steps_per_cycle) / self.steps_per_cycle


def check_count(name: str, value: Any) -> None:
    if not (isinstance(value, Integral) and int(value) >= 1):
        raise ValueError(f"ald_ext.optim.CyclicalCosine: {name}: got {value!r}, expected an integer >= 1")


def hold_at_zero(group: dict[str, Any]) -> None:
    """Temperature 0, keeping the one to come back to: the present one, unless it is the 0 that was put there."""
    if SAMPLING_TEMPERATURE not in group or group["temperature"] != 0:
        group[SAMPLING_TEMPERATURE] = group["temperature"]
    group["temperature"] = 0.0


def restore_temperature(group: dict[str, Any]) -> None:
    """The temperature from before the exploration stage, unless somebody has written another since."""
    kept = group.pop(SAMPLING_TEMPERATURE, None)
    if kept is not None and group["temperature"] == 0:
        group["temperature"] = kept
