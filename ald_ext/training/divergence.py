"""Watching for a loss that explodes or is no longer finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..models import find_model_class

if TYPE_CHECKING:
    from .config import TrainingConfig

#: Largest diagnostic, in nats; energies of a contrastive model beyond it have run away.
DIAGNOSTIC_LIMIT = 1e4

#: Steps from one look at the device's flag to the next, as looking waits for the device.
LOOK_EVERY = 50


class TrainingDivergedError(RuntimeError):
    """The loss is not finite, or exploded; a checkpoint, if there is one, is from before that."""


class DivergenceWatch:
    """A watch for the step at which a loss or a diagnostic stops being finite or exceeds its limit.

    On the CPU each step is checked before its update is made. On a GPU, where a check would wait for the device, a flag
    there remembers the first bad step, and :meth:`look` reads it every few steps and before each checkpoint. Gradients
    are not checked, which would take some percent of a step: a bad one shows in the next loss, or in :meth:`check`,
    before anything is saved.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.immediate = torch.device(config.device).type == "cpu"
        self.first_bad_step = torch.tensor(-1, device=config.device)

    def observe(self, step: int, loss: Tensor, diagnostics: dict[str, Tensor]) -> None:
        """Note loss and diagnostics. TrainingDivergedError if they, or on a GPU those of an earlier step, are bad."""
        if self.immediate:
            seen = {"loss": loss.item(), **{name: value.item() for name, value in diagnostics.items()}}
            for name, number in seen.items():
                if not abs(number) <= (self.config.divergence_limit if name == "loss" else DIAGNOSTIC_LIMIT):  # or NaN
                    self._stop(step, seen)
            return
        values = torch.stack([loss.detach().float(), *(value.float() for value in diagnostics.values())])
        limits = values.new_full(values.shape, DIAGNOSTIC_LIMIT)
        limits[0] = self.config.divergence_limit
        good = (values.abs() <= limits).all()  # False for NaN
        unknown = self.first_bad_step < 0
        self.first_bad_step = torch.where(unknown & ~good, step, self.first_bad_step)
        if step % LOOK_EVERY == 0:
            self.look()

    def check(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Raise a TrainingDivergedError if a step was bad, or if parameters or states are not finite."""
        self.look()
        states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        parameters = [parameter.detach() for parameter in model.parameters()]
        for name, tensors in (("parameters", parameters), ("optimizer's states", states)):
            norm = torch.nn.utils.get_total_norm(tensors)
            if not bool(norm.isfinite()):
                self._stop(step, {f"norm of the {name}": float(norm)})

    def look(self) -> None:
        """Raise a TrainingDivergedError if a step up to now was bad."""
        bad_step = int(self.first_bad_step)
        if bad_step >= 0:
            self._stop(bad_step, {})

    def _stop(self, step: int, values: dict[str, float]) -> None:
        seen = ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "not finite, or beyond its limit"
        model = find_model_class(self.config.model)
        remedies = f"a smaller lr, a larger eps (now {self.config.eps})" if model.langevin else "a smaller lr"
        remedies += "".join(f" or {remedy}" for remedy in model.divergence_remedies)
        raise TrainingDivergedError(
            f"{self.config.model}: diverged at step {step} ({seen}). "
            f"A checkpoint, if there is one, is from before that. Try {remedies} (lr is {self.config.lr:g})."
        )
