"""Averages of gradients in front of a step, a hook for any optimizer."""

from __future__ import annotations

import torch


def average_gradients(momentum: float, optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Replace gradients g by their running means ḡ ← μ ḡ + (1-μ) g, from ḡ = 0 on; a hook before a step.

    ḡ is kept as the state "gradient_mean" of each parameter. Register it by
    ``optimizer.register_step_pre_hook(functools.partial(average_gradients, 0.9))``.

    Note [Momentum in front of the preconditioner]
        The drift -lr·G·ḡ lags behind θ by some 1/(1-μ) steps, and PSGLD adds the noise that belongs to -lr·G·g. While
        θ hardly moves in that time the two drifts are the same on average, so that small steps sample what PSGLD
        samples; ḡ has (1-μ)/(1+μ) of the variance that minibatches give g.

    Args:
        momentum: μ, 0 ≤ μ < 1; 0 leaves the gradients as they are. A group with an entry "momentum" has that one.
        optimizer: whose gradients are replaced in place.
    """
    for group in optimizer.param_groups:
        own = group.get("momentum", momentum)
        params = [param for param in group["params"] if param.grad is not None]
        if not own or not params:
            continue
        for param in params:
            if "gradient_mean" not in optimizer.state[param]:
                optimizer.state[param]["gradient_mean"] = torch.zeros_like(param)
        gradients = [param.grad for param in params if param.grad is not None]
        means = [optimizer.state[param]["gradient_mean"] for param in params]
        torch._foreach_lerp_(means, gradients, 1 - own)
        torch._foreach_copy_(gradients, means)
