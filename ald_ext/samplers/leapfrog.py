"""What leapfrog steps are made of: states, and the updates of positions and momenta."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ChainStates(NamedTuple):
    """States z (n, [chains,] d) with the potential U (n, [chains]) and its gradient ∇U in the shape of z."""

    z: Tensor
    potential: Tensor
    gradient: Tensor


def by_mass_factor(factor: Tensor | None, v: Tensor, *, transposed: bool = False) -> Tensor:
    """Return F v of each chain, or Fᵀ v, for the factor F of the inverse mass matrix M = F Fᵀ."""
    if factor is None:
        return v
    if factor.dim() == 1 or factor.shape[-2] == 1:
        return v * (factor[:, 0] if factor.dim() > v.dim() else factor)
    factor = factor if transposed else factor.mT
    return (v[:, None] @ factor)[:, 0] if factor.dim() > v.dim() else v @ factor


def update(factor: Tensor | None, scale: Tensor, *, transposed: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """Return (a, v) ↦ a + c F v, or a + c Fᵀ v, for the scale c that broadcasts with states."""
    if factor is None or factor.dim() == 1 or factor.shape[-2] == 1:
        scaled = by_mass_factor(factor, scale)
        return lambda a, v: torch.addcmul(a, scaled, v)
    num_factors = len(factor) if factor.dim() == 3 else 1
    if scale.dim() == 3 and scale.shape[1] == 1 and len(scale) == num_factors:
        scaled = scale * (factor if transposed else factor.mT)
        return lambda a, v: torch.baddbmm(a, v, scaled)
    return lambda a, v: torch.addcmul(a, scale, by_mass_factor(factor, v, transposed=transposed))
