"""The optimizer and the schedule of a training run."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..models import LatentVariableModel
from ..optim import PSGLD
from ..optim.gradient_averaging import average_gradients
from ..optim.schedulers import polynomial_decay
from .config import TrainingConfig


def make_optimizer(
    model: LatentVariableModel, config: TrainingConfig, num_data: int, capturable: bool = False
) -> torch.optim.Optimizer:
    """Return PSGLD for a model whose parameters are sampled, and fused Adam for other models.

    With ``capturable``, step counters and lr live on the device, so that a CUDA graph can hold the step.
    """
    groups = model.parameter_groups(num_data)
    for group in groups:
        if "temperature" in group:  # in units of the run's
            group["temperature"] *= config.temperature
    lr = torch.tensor(config.lr, device=config.device) if capturable else config.lr
    if not model.langevin:
        return torch.optim.Adam(groups, lr, fused=True, capturable=capturable)
    options = {name: getattr(config, name) for name in ("temperature", "alpha", "eps", "freeze_after", "seed")}
    optimizer = PSGLD(groups, lr, num_data=num_data, capturable=capturable, **options)
    if config.momentum:
        optimizer.register_step_pre_hook(partial(average_gradients, config.momentum))
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig, num_steps: int) -> LambdaLR:
    """Return the schedule of lr over ``num_steps`` steps, see :class:`TrainingConfig`."""
    final = config.final_lr if config.schedule == "cosine" else 1.0

    def factor(step: int) -> float:
        warm_up = min((step + 1) / max(config.warm_up or 0, 1), 1.0)
        if config.schedule == "polynomial":
            return warm_up * polynomial_decay(step, config.decay_offset, config.decay_exponent)
        progress = min(step / max(num_steps - 1, 1), 1.0)
        return warm_up * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)

    return LambdaLR(optimizer, factor)
