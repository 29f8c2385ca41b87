"""The Gaussian on which samplers are checked, its initial states, and the chains that an optimizer or sampler moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..collection import Sampler
from ..potential import GaussianPotential

MakeOptimizer = Callable[[list[Tensor]], Optimizer]
MakeSampler = Callable[[GaussianPotential, Tensor], Sampler]


@dataclass(frozen=True)
class Target:
    """N(μ, TΣ), and directions (columns) in which it is independent, with their variances."""

    mean: Tensor
    covariance: Tensor
    precision: Tensor
    directions: Tensor
    variances: Tensor

    def standardize(self, z: Tensor) -> Tensor:
        """Return z along the directions, (replicas, d), scaled so that the target is N(0, I)."""
        return (z.detach() - self.mean) @ (self.directions / self.variances.sqrt())


def make_target(covariance: Tensor, temperature: float, like: Tensor) -> Target:
    """Return a target whose μ is one standard deviation from 0 in every dimension, so that a pull to 0 shows."""
    sigma = covariance.double().cpu()
    eigenvalues, directions = torch.linalg.eigh(sigma)
    mean = sigma.diagonal().sqrt()
    tensors = (mean, sigma, torch.linalg.inv(sigma), directions, temperature * eigenvalues)
    return Target(*(tensor.to(like) for tensor in tensors))


def default_covariance(dimension: int) -> Tensor:
    """Return a covariance with standard deviations from 1/2 to 2 (1 in one dimension) and correlations 1/2, 1/4, …"""
    index = torch.arange(dimension, dtype=torch.float64)
    deviations = 2 ** (2 * index / (dimension - 1) - 1) if dimension > 1 else torch.ones(1, dtype=torch.float64)
    return torch.outer(deviations, deviations) * 0.5 ** (index[:, None] - index).abs()


def initial_states(target: Target, num_replicas: int) -> Tensor:
    """Return states of which half are μ and half N(μ, 2TΣ), so that second moments are 0 and twice the right ones."""
    half = num_replicas // 2
    spread = torch.randn(num_replicas - half, len(target.mean), dtype=target.mean.dtype, device=target.mean.device)
    spread = spread * (2 * target.variances).sqrt() @ target.directions.T
    return torch.cat([torch.zeros_like(spread[:half]), spread]) + target.mean


class Chains(Protocol):
    """Replicas that move together."""

    #: Number of steps in which they still adapt, so that they need not be stationary.
    warm_up: int

    def step(self) -> Tensor:
        """Return the states after one more step, (replicas, d)."""

    def second_moment(self) -> Tensor | None:
        """Return the gradients' second moment, (replicas, d), if a preconditioner is made of it."""


class OptimizerChains:
    """A parameter of shape (replicas, d), moved by an optimizer on the loss ΣU/N."""

    def __init__(
        self, make_optimizer: MakeOptimizer, target: Target, start: Tensor, num_data: float, step_scale: float
    ) -> None:
        self.target, self.scaled_precision = target, target.precision / num_data
        self.z = start.requires_grad_()
        self.z.grad = torch.zeros_like(start)
        self.optimizer = make_optimizer([self.z])
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * step_scale
        self.warm_up = max(int(group.get("freeze_after") or 0) for group in self.optimizer.param_groups)

    @torch.no_grad()
    def step(self) -> Tensor:
        torch.matmul(self.z.detach() - self.target.mean, self.scaled_precision, out=self.z.grad)
        self.optimizer.step()
        return self.z.detach()

    def second_moment(self) -> Tensor | None:
        state = self.optimizer.state.get(self.z, {})
        for name in ("square_avg", "exp_avg_sq"):  # as in torch.optim
            if name in state:
                moment: Tensor = state[name]
                return moment
        return None


class FixedStepSizeError(Exception):
    """The step size cannot be halved."""


class SamplerChains:
    """A sampler whose data are the replicas, without x."""

    def __init__(self, make_sampler: MakeSampler, target: Target, start: Tensor, step_scale: float) -> None:
        self.sampler = make_sampler(GaussianPotential(target.mean, precision=target.precision), start)
        if step_scale != 1:
            sampler: Any = self.sampler
            try:
                sampler.step_size = sampler.step_size * step_scale
            except AttributeError as error:
                raise FixedStepSizeError from error
        self.warm_up = int(getattr(self.sampler, "adapt_steps", 0))

    def step(self) -> Tensor:
        return self.sampler.step()

    def second_moment(self) -> Tensor | None:
        return None
