"""What leapfrog steps are made of: states, and the updates of positions and momenta."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: The sum of a and a product, (a, factor, v) ↦ a + factor v.
Add = Callable[[Tensor, Tensor, Tensor], Tensor]


class ChainStates(NamedTuple):
    """States z (n, [chains,] d) with the potential U (n, [chains]) and its gradient ∇U in the shape of z."""

    z: Tensor
    potential: Tensor
    gradient: Tensor


class Update(NamedTuple):
    """The function (a, v) ↦ add(a, factor, v), such as a + c F v with what c and F are now."""

    add: Add
    factor: Tensor

    def __call__(self, a: Tensor, v: Tensor) -> Tensor:
        return self.add(a, self.factor, v)


def add_product(a: Tensor, factor: Tensor, v: Tensor) -> Tensor:
    """Return a + v S of rows, (n, chains, d), for matrices (n, d, d)."""
    return torch.baddbmm(a, v, factor)
