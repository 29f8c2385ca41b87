"""The marginalized Gaussian's log density and its gradients, a batch at a time."""

from __future__ import annotations

import torch
from differentiable import BatchInputs, Problem
from names import BACKWARD, FORWARD, OURS
from torch import Tensor
from variants import Case, Shape, batch_shapes, copy_variant, odd_shapes, shape_cases

from ald_ext import ops, reference


def make_inputs(shape: Shape, device: torch.device) -> BatchInputs:
    """A batch, its means, and the weights of the log densities in the loss."""
    generator = torch.Generator(device).manual_seed(0)
    x, mean = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    weights = torch.randn(shape[0], generator=generator, device=device)
    return BatchInputs.make((x, mean), (0, 1), weights)


def reference_log_prob(x: Tensor, mean: Tensor) -> Tensor:
    return reference.marginal_gaussian_log_prob(x, mean, *ops.prior_shape_and_rate("flat"))


# Bytes: forward reads x and the mean; backward reads them again and writes two gradients.
PROBLEM = Problem(reference_log_prob, forward_bytes=8, backward_bytes=16)

PLAIN = PROBLEM.both("plain PyTorch", reference_log_prob)
COMPILED = PROBLEM.compiled("torch.compile", reference_log_prob)
OPS = PROBLEM.both(OURS, ops.marginal_gaussian_log_prob)

VARIANTS = (
    PLAIN,
    COMPILED,
    OPS,
    PROBLEM.forward(FORWARD, ops.marginal_gaussian_log_prob),
    PROBLEM.backward(BACKWARD, ops.marginal_gaussian_log_prob),
    copy_variant(lambda inputs: [inputs.arguments[0].detach()]),
)


def likelihood_cases(device: torch.device, quick: bool) -> list[Case]:
    return shape_cases("marginal likelihood", batch_shapes(device, quick), device, make_inputs, VARIANTS)


def likelihood_shape_cases(device: torch.device, quick: bool) -> list[Case]:
    variants = (PLAIN, COMPILED, OPS)
    return shape_cases("marginal likelihood, shapes", odd_shapes(quick), device, make_inputs, variants)
