"""Check whether an optimizer or sampler draws from the right distribution: a Gaussian, where the answer is known.

Note [How a sampler is checked]
    The target is N(μ, TΣ), U(z) = (z - μ)ᵀΣ⁻¹(z - μ)/2, with badly scaled, correlated dimensions. Thousands of
    independent replicas run side by side in one tensor, half of them from μ, half from N(μ, 2TΣ). As long as these two
    halves differ, or the first and the second half of the run do, the run is doubled. Then a window as long as all
    before it is measured: for every replica the time average of its squared distance from μ along each eigenvector of
    Σ. The spread over replicas gives an honest standard error, whatever the autocorrelation.

    A ratio of sampled to true variance, or a mean, that is off by 5 standard errors or more counts as off. For a right
    sampler that happens once in 1.7 million comparisons, of which a run makes 2·dimension.

    Half of the replicas begin at the same state, so that those without noise of their own are known at once.

    A finite step size makes the variance of an unadjusted sampler wrong: for Langevin dynamics with steps h it is
    T/(λ(1 - hλ/2)) instead of T/λ. So if a ratio is off, it is measured again at half the step size, and again. A
    deviation that vanishes, or evidently shrinks and vanishes at step size 0 by extrapolation, is the
    discretization's, and the verdict is "right"; one that does not shrink is a fault, "wrong". If neither is clear at
    1/16 of the step size, or the chains do not converge, the verdict is "undecided". A sampler that is ``exact`` has
    no such deviation: there one at the caller's step size is a fault.

Note [What the check does not see]
    - Errors of less than about five standard errors, each 2/√num_replicas of a variance or less, and correlations that
      leave the variances along the eigenvectors of Σ as they are.
    - What is wrong on other targets only: the gradient is exact and linear here. A Gaussian has no second mode, no
      heavy tail, no boundary and no curvature that varies; a step that is stable here may diverge in a funnel.
    - Noise of minibatches, schedules, a summed loss or a forgotten ``num_data`` in a training loop: the check calls the
      optimizer with gradients of its own.
    - What shows in larger tensors, after more steps, with more than two parameters or on another device only.

Note [Parameters of 16 bits]
    The gradient is that of the rounded parameters, computed in float32. Stochastic rounding keeps the mean of each
    step, and adds a variance. With u the distance of neighbouring numbers near θ (2⁻⁸|θ| to 2⁻⁷|θ| in bfloat16), that
    is about u²/6 where the noise of a step is larger than u, and √(2/π)·u times the sd of that noise where it is much
    smaller. So the variance is right where steps are large against u, and the smaller they are the more it is too
    large, which a hint tells. Rounding to nearest loses steps below u/2 altogether.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...reference import compute_dtype
from ...settings import require
from ...threads import number_of_threads
from .runs import CheckRun
from .targets import Chains, MakeOptimizer, MakeSampler, OptimizerChains, SamplerChains, Target, make_target
from .verdicts import CheckReport, describe, find_hints, run_until_judged

__all__ = ["CheckReport", "CheckRun", "check_optimizer", "check_sampler"]


def check_optimizer(
    make_optimizer: MakeOptimizer,
    *,
    dimension: int = 4,
    temperature: float = 1.0,
    num_data: float = 10,
    covariance: Tensor | None = None,
    num_replicas: int = 4096,
    max_steps: int = 20_000,
    exact: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CheckReport:
    """Check whether the iterates of a torch.optim.Optimizer sample exp(-U/T), on a Gaussian, at its learning rate.

        report = check_optimizer(lambda params: ald_ext.SGLD(params, lr=0.1, num_data=10))
        assert report.ok, report

    Note [How a sampler is checked] says how; the ``ok`` of the report that is returned is True if the optimizer is
    right. There are two parameters with half of the dimensions each, (num_replicas, dimension/2), so that noise that
    they share is found; their gradients are those of the loss U/N, summed over replicas. Where the optimizer has a
    ``weight_decay``, the prior N(0, T/(N·weight_decay)) that it stands for is part of the target.

    Args:
        make_optimizer: function of a list of parameters that returns the optimizer; it is called anew for every step
            size, which is group["lr"].
        dimension: dimension d of the Gaussian.
        temperature: T that the optimizer was given.
        num_data: N that the optimizer was given; 1 if its loss is U itself.
        covariance: Σ, (d, d), instead of one with standard deviations from 1/2 to 2 and correlations of 1/2.
        num_replicas: number of independent chains; standard errors are about √(2/num_replicas) or smaller.
        max_steps: largest number of steps at the caller's step size; in proportion more at a fraction of it.
        exact: whether the variance is to be right at the caller's step size already, as by a Metropolis-Hastings test.
        seed: seed of torch's default generator during the check, which afterwards is as before.
        dtype: dtype of the parameters; for those of 16 bits see Note [Parameters of 16 bits].
        device: device of the parameter.

    Raises:
        ValueError: an argument out of its range.
    """
    name = "ald_ext.samplers.check_optimizer"
    like = torch.empty(0, dtype=compute_dtype(dtype), device=device)
    target = make_target(name, dimension, covariance, temperature, like)
    settings = {"num_data": num_data, "temperature": temperature, "num_replicas": num_replicas, "seed": seed}
    start_chains = partial(OptimizerChains, make_optimizer, target, num_replicas, num_data, dtype)
    return run_check(name, start_chains, target, max_steps, {**settings, "exact": exact, "dtype": str(dtype)})


def check_sampler(
    make_sampler: MakeSampler,
    *,
    dimension: int = 4,
    temperature: float = 1.0,
    covariance: Tensor | None = None,
    num_replicas: int = 4096,
    max_steps: int = 20_000,
    exact: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CheckReport:
    """Check whether a sampler draws from exp(-U/T), on a Gaussian.

        report = check_sampler(lambda potential, z: LangevinDynamics(potential, None, z[None], step_size=0.02))

    Args:
        make_sampler: function of (potential, z) that returns an object with ``step() -> Tensor``, the new states; z is
            (num_replicas, dimension), the initial states, which may be z[None] for the sampler, chains of one datum,
            and potential(None, z) gives U, (num_replicas,). It is called anew for every step size, which is the
            sampler's attribute ``step_size``, if that can be set; if not, a deviation that is the discretization's
            counts as wrong.
        dimension, temperature, covariance, num_replicas, max_steps, exact, seed, dtype, device: see
            :func:`check_optimizer`, also for what is returned and raised.
    """
    name = "ald_ext.samplers.check_sampler"
    expected = "torch.float32 or torch.float64, as only optimizers take 16 bits"
    require(dtype in (torch.float32, torch.float64), f"{name}: dtype", dtype, expected)
    target = make_target(name, dimension, covariance, temperature, torch.empty(0, dtype=dtype, device=device))
    settings = {"temperature": temperature, "num_replicas": num_replicas, "seed": seed}
    start_chains = partial(SamplerChains, make_sampler, target, num_replicas)
    return run_check(name, start_chains, target, max_steps, {**settings, "exact": exact, "dtype": str(dtype)})


def run_check(
    name: str, start_chains: Callable[[float], Chains], target: Target, max_steps: int, settings: dict[str, Any]
) -> CheckReport:
    """Return the report on chains that ``start_chains`` makes for each step size."""
    exact, temperature = settings["exact"], settings["temperature"]
    device, num_replicas, num_data = target.mean.device, settings["num_replicas"], settings.get("num_data", 1)
    require(num_replicas >= 100, f"{name}: num_replicas", num_replicas, "100 at least")
    require(0 < num_data < math.inf, f"{name}: num_data", num_data, "a finite number > 0")
    # The tensors are small: on a busy machine, several threads take a hundred times as long, waiting for each other.
    with number_of_threads(1), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings["seed"])
        verdict, runs, chains = run_until_judged(start_chains, max_steps, exact)
        hints = [] if verdict == "right" else find_hints(runs[-1], chains, num_data, temperature, exact)
    settings = {**settings, "dimension": len(target.mean), "device": str(device)}
    return CheckReport(verdict, describe(verdict, runs, exact), hints, runs, chains.target.variances.tolist(), settings)
