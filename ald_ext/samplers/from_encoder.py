"""Inference for new data (paper: Algorithm 2): datapoint-wise dynamics that start at an encoder's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..settings import require
from .datapoint import DatapointSampler
from .metropolis import MALA
from .potential import Potential


def sampler_from_encoder(
    encoder: Callable[[Tensor], Tensor],
    potential: Potential,
    x: Tensor,
    *,
    kernel: Callable[..., DatapointSampler] = MALA,
    chains: int | None = None,
    **options: Any,
) -> DatapointSampler:
    """Return a sampler of p(z | x) for new data, whose chains begin at the encoder's outputs.

    Args:
        encoder: (n, ...) → (n, d), or (n, chains, d) as the samplers of a last layer give.
        potential: U(x, z).
        x: new data (n, ...).
        kernel: LangevinDynamics (the paper's), MALA, HMC or UnderdampedLangevin.
        chains: number of chains for each datum, all beginning at the same place; None for one, without that dimension.
        options: options of the kernel: step_size, temperature, seed, adapt_steps, …

    Returns:
        A sampler whose ``step()`` gives (n, d), or (n, chains, d).

    Raises:
        ValueError: chains given for an encoder that has chains of its own.
    """
    with torch.no_grad():
        z = encoder(x)
    if chains is not None:
        got = f"{chains} for encoder outputs of shape {tuple(z.shape)}"
        argument = "ald_ext.samplers.sampler_from_encoder: chains"
        require(z.dim() == 2, argument, got, "None: they have chains already")
        z = z[:, None].expand(-1, chains, -1)
    return kernel(potential, x, z, **options)
