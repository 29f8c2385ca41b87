"""The Gaussian on which samplers are checked, its initial states, and the chains that an optimizer or sampler moves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...settings import require
from ..collection import Sampler
from ..potential import GaussianPotential

MakeOptimizer = Callable[[list[Tensor]], Optimizer]
MakeSampler = Callable[[GaussianPotential, Tensor], Sampler]


@dataclass(frozen=True)
class Target:
    """N(μ, TΣ), and directions (columns) in which it is independent, with their variances."""

    mean: Tensor
    precision: Tensor
    directions: Tensor
    variances: Tensor

    def standardize(self, z: Tensor) -> Tensor:
        """Return z along the directions, (replicas, d), scaled so that the target is N(0, I)."""
        return (z.detach() - self.mean) @ (self.directions / self.variances.sqrt())

    def initial_states(self, num_replicas: int) -> Tensor:
        """Return states, half of them μ, half N(μ, 2TΣ), so that second moments are 0 and twice the right ones."""
        half, like = num_replicas // 2, self.mean
        spread = torch.randn(num_replicas - half, len(like), dtype=like.dtype, device=like.device)
        spread = spread * (2 * self.variances).sqrt() @ self.directions.T
        return torch.cat([torch.zeros_like(spread[:half]), spread]) + self.mean


def make_target(name: str, dimension: int, covariance: Tensor | None, temperature: float, like: Tensor) -> Target:
    """Return a target whose μ is one standard deviation from 0 in every dimension, so that a pull to 0 shows.

    Without a covariance, standard deviations are from 1/2 to 2 (1 in one dimension), correlations 1/2, 1/4, …
    ValueError, which names the function ``name``, for an argument out of its range.
    """
    require(dimension >= 1, f"{name}: dimension", dimension, "1 at least")
    require(0 < temperature < math.inf, f"{name}: temperature", temperature, "a finite number > 0")
    if covariance is None:
        index = torch.arange(dimension, dtype=torch.float64)
        deviations = 2 ** (2 * index / (dimension - 1) - 1) if dimension > 1 else torch.ones_like(index)
        covariance = torch.outer(deviations, deviations) * 0.5 ** (index[:, None] - index).abs()
    sigma = covariance.double().cpu()
    positive = not bool(torch.linalg.cholesky_ex(sigma).info)
    require(positive, f"{name}: covariance", "a matrix that is not positive definite", "one that is")
    eigenvalues, directions = torch.linalg.eigh(sigma)
    tensors = (sigma.diagonal().sqrt(), torch.linalg.inv(sigma), directions, temperature * eigenvalues)
    return Target(*(tensor.to(like) for tensor in tensors))


class Chains(ABC):
    """Replicas that move together."""

    #: Number of steps in which they still adapt, so that they need not be stationary.
    warm_up: int

    @abstractmethod
    def step(self) -> Tensor:
        """Return the states after one more step, (replicas, d)."""

    def second_moment(self) -> Tensor | None:
        """Return the gradients' second moment, (replicas, d), if a preconditioner is made of it."""
        return None


class OptimizerChains(Chains):
    """A parameter of shape (replicas, d), moved by an optimizer on the loss ΣU/N."""

    def __init__(
        self, make_optimizer: MakeOptimizer, target: Target, num_replicas: int, num_data: float, step_scale: float
    ) -> None:
        self.target, self.scaled_precision = target, target.precision / num_data
        self.z = target.initial_states(num_replicas).requires_grad_()
        self.z.grad = torch.zeros_like(self.z)
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
        return state.get("square_avg", state.get("exp_avg_sq"))  # as in torch.optim


class FixedStepSizeError(Exception):
    """The step size cannot be halved."""


class SamplerChains(Chains):
    """A sampler whose data are the replicas, without x."""

    def __init__(self, make_sampler: MakeSampler, target: Target, num_replicas: int, step_scale: float) -> None:
        start = target.initial_states(num_replicas)
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
