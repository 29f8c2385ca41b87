"""Watching for a loss that is no number any more, or explodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .config import TrainingConfig

#: Energies of a contrastive model beyond this, in nats, have run away.
DIAGNOSTIC_LIMIT = 1e4

#: Steps from one look at the device's flag to the next: looking waits for the device.
LOOK_EVERY = 50


class TrainingDivergedError(RuntimeError):
    """The loss is not finite, or exploded; the last checkpoint is of before."""


class DivergenceWatch:
    """Finds the step at which a loss, a gradient or a diagnostic stops being finite or leaves its limits.

    On the CPU each step is looked at before its update is made. On a GPU, where looking would wait for the device, a
    flag there remembers the first bad step, and :meth:`look` reads it every few steps and before each checkpoint.
    Gradients are not looked at there: a bad one shows in the parameters, see :meth:`check`.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.immediate = torch.device(config.device).type == "cpu"
        self.first_bad_step = torch.tensor(-1, device=config.device)

    def observe(self, step: int, loss: Tensor, diagnostics: dict[str, Tensor]) -> None:
        """Takes note of a step's values.

        Raises:
            TrainingDivergedError: they are bad, or at a look an earlier step's were.
        """
        values = torch.stack([loss.detach().float(), *(value.float() for value in diagnostics.values())])
        limits = values.new_full(values.shape, DIAGNOSTIC_LIMIT)
        limits[0] = self.config.divergence_limit
        good = (values.abs() <= limits).all()  # False for NaN
        if self.immediate:
            if not bool(good):
                self._stop(step, dict(zip(["loss", *diagnostics], values.tolist(), strict=True)))
            return
        unknown = self.first_bad_step < 0
        self.first_bad_step = torch.where(unknown & ~good, step, self.first_bad_step)
        if step % LOOK_EVERY == 0:
            self.look()

    def observe_gradients(self, step: int, loss: Tensor, model: nn.Module) -> None:
        """TrainingDivergedError on the CPU if a gradient is not finite, or so large that its square is not."""
        if not self.immediate:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(norm.isfinite()):
            self._stop(step, {"loss": float(loss.detach()), "norm of the gradient": float(norm)})

    def check(self, step: int, model: nn.Module) -> None:
        """TrainingDivergedError if a step up to now was bad, or has left parameters that are not finite."""
        self.look()
        norm = torch.nn.utils.get_total_norm([parameter.detach() for parameter in model.parameters()])
        if not bool(norm.isfinite()):
            self._stop(step, {"norm of the parameters": float(norm)})

    def look(self) -> None:
        """TrainingDivergedError if a step up to now was bad."""
        bad_step = int(self.first_bad_step)
        if bad_step >= 0:
            self._stop(bad_step, {})

    def _stop(self, step: int, values: dict[str, float]) -> None:
        seen = ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "not finite, or beyond its limit"
        remedies = "a smaller lr"
        if self.config.model in ("lae", "clae"):
            remedies += f", a larger eps (now {self.config.eps})"
        if self.config.model == "clae":
            remedies += " or the tilt"
        raise TrainingDivergedError(
            f"{self.config.model}: diverged at step {step} ({seen}). "
            f"The last checkpoint is of before. Try {remedies} (lr is {self.config.learning_rate:g})."
        )
