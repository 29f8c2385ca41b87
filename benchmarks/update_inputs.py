"""What the variants of the update work on: settings, and parameters with their gradients and state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LR, NUM_DATA, ALPHA, EPS = 1e-3, 50_000, 0.99, 0.1
NOISE_VARIANCE = 2 * LR / NUM_DATA  # times the preconditioner
SGLD_OPTIONS: dict[str, Any] = {"lr": LR, "num_data": NUM_DATA, "seed": 0}
PSGLD_OPTIONS: dict[str, Any] = {**SGLD_OPTIONS, "alpha": ALPHA, "eps": EPS}


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of v and of the noise: float32 for 16-bit parameters."""
    return torch.promote_types(dtype, torch.float32)


class UpdateInputs:
    """Parameters, gradients and v, and buffers for the variants that allocate nothing."""

    def __init__(self, numels: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        state = state_dtype(dtype)
        self.params = [torch.empty(numel, dtype=dtype, device=device) for numel in numels]
        self.grads = [torch.empty(numel, dtype=dtype, device=device) for numel in numels]
        self.square_avgs = [torch.empty(numel, dtype=state, device=device) for numel in numels]
        self.buffers = [torch.empty(numel, dtype=state, device=device) for numel in numels]
        # One draw for all tensors, as a careful user would make it: the strongest baseline.
        self.flat_noise = torch.empty(sum(numels), dtype=state, device=device)
        self.noises = self.flat_noise.split(list(numels))
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first step."""
        generator = torch.Generator(self.flat_noise.device).manual_seed(0)
        for param, grad, v in zip(self.params, self.grads, self.square_avgs, strict=True):
            param.normal_(std=0.02, generator=generator)
            grad.normal_(generator=generator)
            v.zero_()

    def leaves(self) -> list[Tensor]:
        """The parameters with their gradients, for an optimizer."""
        leaves = [param.detach() for param in self.params]
        for leaf, grad in zip(leaves, self.grads, strict=True):
            leaf.grad = grad
        return leaves
