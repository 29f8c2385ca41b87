"""The marginalized Gaussian's log density and its gradients, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from variants import BATCH, Case, Run, Variant, batch_dimensions, check_close

from ald_ext import ops, reference


@dataclass(frozen=True)
class LikelihoodInputs:
    """A batch, its means, and the weights of the log densities in the loss."""

    x: Tensor
    mean: Tensor
    weights: Tensor

    @staticmethod
    def make(dimension: int, device: torch.device) -> LikelihoodInputs:
        generator = torch.Generator(device).manual_seed(0)
        x, mean = torch.randn(2, BATCH, dimension, generator=generator, device=device)
        weights = torch.randn(BATCH, generator=generator, device=device)
        return LikelihoodInputs(x.requires_grad_(), mean.requires_grad_(), weights)

    def double(self) -> LikelihoodInputs:
        return LikelihoodInputs(self.x.double(), self.mean.double(), self.weights.double())


def reference_log_prob(x: Tensor, mean: Tensor) -> Tensor:
    return reference.marginal_gaussian_log_prob(x, mean, *ops.prior_shape_and_rate("flat"))


def log_prob_and_gradients(
    log_prob_function: Callable[[Tensor, Tensor], Tensor], inputs: LikelihoodInputs
) -> tuple[Tensor, ...]:
    log_prob = log_prob_function(inputs.x, inputs.mean)
    return log_prob.detach(), *torch.autograd.grad(log_prob, (inputs.x, inputs.mean), inputs.weights)


def prepare_likelihood(log_prob_function: Callable[[Tensor, Tensor], Tensor], inputs: LikelihoodInputs) -> Run:
    return partial(log_prob_and_gradients, log_prob_function, inputs)


def prepare_compiled_likelihood(inputs: LikelihoodInputs) -> Run:
    return prepare_likelihood(torch.compile(reference_log_prob, dynamic=False), inputs)


def expected_likelihood(inputs: LikelihoodInputs) -> tuple[Tensor, ...]:
    return log_prob_and_gradients(reference_log_prob, inputs.double())


# Bytes: forward reads x and the mean; backward reads them again and writes two gradients.
LIKELIHOOD_VARIANTS = tuple(
    Variant(name, 24, prepare, partial(check_close, expected_likelihood))
    for name, prepare in (
        ("plain PyTorch", partial(prepare_likelihood, reference_log_prob)),
        ("torch.compile", prepare_compiled_likelihood),
        ("ald_ext op", partial(prepare_likelihood, ops.marginal_gaussian_log_prob)),
    )
)


def likelihood_cases(device: torch.device, quick: bool) -> list[Case]:
    return [
        Case(
            "marginal likelihood",
            f"{BATCH} x {dimension}",
            BATCH * dimension,
            partial(LikelihoodInputs.make, dimension, device),
            LIKELIHOOD_VARIANTS,
        )
        for dimension in batch_dimensions(quick)
    ]
