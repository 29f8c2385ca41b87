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

#: Ratio of the variance of those initial states that differ to that of the target.
INITIAL_SPREAD = 2.0


@dataclass(frozen=True)
class Target:
    """N(μ, TΣ), and directions (columns) in which it is independent, with their variances."""

    temperature: float
    mean: Tensor
    precision: Tensor
    directions: Tensor
    variances: Tensor

    @classmethod
    def gaussian(cls, mean: Tensor, covariance: Tensor, temperature: float, like: Tensor) -> Target:
        """Return the target of μ and Σ, which are float64, in the dtype and on the device of ``like``."""
        eigenvalues, directions = torch.linalg.eigh(covariance)
        tensors = (mean, torch.linalg.inv(covariance), directions, temperature * eigenvalues)
        return cls(temperature, *(tensor.to(like) for tensor in tensors))

    def with_prior(self, precision: float) -> Target:
        """Return the target whose potential has the term precision·‖z‖²/2 besides."""
        own = self.precision.double().cpu()
        covariance = torch.linalg.inv(own + precision * torch.eye(len(own), dtype=own.dtype))
        return Target.gaussian(covariance @ own @ self.mean.to(own), covariance, self.temperature, self.mean)

    def standardize(self, z: Tensor) -> Tensor:
        """Return z along the directions, (replicas, d), scaled so that the target is N(0, I)."""
        return (z.detach() - self.mean) @ (self.directions / self.variances.sqrt())

    def initial_states(self, num_replicas: int) -> Tensor:
        """Return states, half of them μ, half N(μ, 2TΣ)."""
        half, like = num_replicas // 2, self.mean
        spread = torch.randn(num_replicas - half, len(like), dtype=like.dtype, device=like.device)
        spread = spread * (INITIAL_SPREAD * self.variances).sqrt() @ self.directions.T
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
    return Target.gaussian(sigma.diagonal().sqrt(), sigma, temperature, like)


class Chains(ABC):
    """Replicas that move together."""

    #: What they are to sample.
    target: Target

    #: Number of steps in which they still adapt, so that they need not be stationary.
    warm_up: int

    @abstractmethod
    def step(self) -> Tensor:
        """Return the states after one more step, (replicas, d)."""

    def second_moment(self) -> Tensor | None:
        """Return the gradients' second moment, (replicas, d), if a preconditioner is made of it."""
        return None

    def is_rounded(self) -> bool:
        """Return whether the states are of 16 bits."""
        return False


class OptimizerChains(Chains):
    """Two parameters with the halves of z (replicas, d), moved by an optimizer on the loss ΣU/N.

    An optimizer with weight decay adds weight_decay·z to the gradient of this loss, the prior N(0, T/(N·weight_decay)).
    """

    def __init__(
        self,
        make_optimizer: MakeOptimizer,
        target: Target,
        num_replicas: int,
        num_data: float,
        dtype: torch.dtype,
        step_scale: float,
    ) -> None:
        self.center, self.scaled_precision = target.mean, target.precision / num_data
        self.z = target.initial_states(num_replicas)
        self.params = [half.to(dtype, copy=True).requires_grad_() for half in self.z.chunk(2, dim=1)]
        self.optimizer = make_optimizer(self.params)
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * step_scale
        self.warm_up = max(int(group.get("freeze_after") or 0) for group in self.optimizer.param_groups)
        weight_decay = float(self.optimizer.param_groups[0].get("weight_decay") or 0)
        self.target = target
        if weight_decay:
            self.target = target.with_prior(num_data * weight_decay)
            self.z = self.target.initial_states(num_replicas)
            for param, half in zip(self.params, self.z.chunk(2, dim=1), strict=True):
                param.data.copy_(half)

    @torch.no_grad()
    def step(self) -> Tensor:
        gradient = (self.z - self.center) @ self.scaled_precision
        for param, half in zip(self.params, gradient.chunk(2, dim=1), strict=True):
            param.grad = half.to(param.dtype, memory_format=torch.contiguous_format)
        self.optimizer.step()
        self.z = torch.cat([param.detach().to(self.z.dtype) for param in self.params], 1)
        return self.z

    def second_moment(self) -> Tensor | None:
        states = [self.optimizer.state.get(param, {}) for param in self.params]
        moments = [state.get("square_avg", state.get("exp_avg_sq")) for state in states]  # as in torch.optim
        return None if any(moment is None for moment in moments) else torch.cat(moments, 1)

    def is_rounded(self) -> bool:
        return self.params[0].dtype in (torch.bfloat16, torch.float16)


class FixedStepSizeError(Exception):
    """The step size cannot be halved."""


class SamplerChains(Chains):
    """A sampler whose data or chains are the replicas, without x."""

    def __init__(self, make_sampler: MakeSampler, target: Target, num_replicas: int, step_scale: float) -> None:
        self.target, start = target, target.initial_states(num_replicas)
        self.sampler = make_sampler(GaussianPotential(target.mean, precision=target.precision), start)
        if step_scale != 1:
            sampler: Any = self.sampler
            try:
                sampler.step_size = sampler.step_size * step_scale
            except AttributeError as error:
                raise FixedStepSizeError from error
        self.warm_up = int(getattr(self.sampler, "adapt_steps", 0))

    def step(self) -> Tensor:
        return self.sampler.step().flatten(0, -2)
