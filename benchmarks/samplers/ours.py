"""Samplers of ald_ext with their defaults; ``OURS`` is the table to which another is added."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ald_ext.samplers import (
    HMC,
    MALA,
    DatapointSampler,
    LangevinDynamics,
    SampleStorage,
    UnderdampedLangevin,
    collect,
    sample,
)

from .runs import Run, Sampler, Settings
from .targets import Target

#: Leapfrog steps of HMC, its jitter, and the step size at which MALA and HMC begin to adapt.
LEAPFROG_STEPS, JITTER, FIRST_STEP_SIZE = 10, 0.2, 0.1
#: Step size of a sampler that does not adapt as a share of that at which MALA accepts as it should.
UNADJUSTED_SHARE = 0.25


class CountedPotential:
    """-log density of rows (batch, d), and the number of rows so far: each is a gradient."""

    def __init__(self, target: Target) -> None:
        self.target, self.rows = target, 0

    def __call__(self, _x: Any, z: Tensor) -> Tensor:
        self.rows += len(z)
        return -self.target.log_density(z)


#: Makes a sampler of a potential and the initial states (1, chains, d); the steps that it made are of the warm-up.
Make = Callable[[CountedPotential, Tensor, Settings], DatapointSampler]


def adapted_mala(potential: CountedPotential, z: Tensor, settings: Settings) -> MALA:
    return MALA(potential, None, z, step_size=FIRST_STEP_SIZE, adapt_steps=settings.warm_up // 2, seed=settings.seed)


def adapted_hmc(potential: CountedPotential, z: Tensor, settings: Settings) -> HMC:
    options: dict[str, Any] = {"adapt_steps": settings.warm_up // 2, "seed": settings.seed, "jitter": JITTER}
    return HMC(potential, None, z, step_size=FIRST_STEP_SIZE, num_leapfrog_steps=LEAPFROG_STEPS, **options)


def pilot(potential: CountedPotential, z: Tensor, settings: Settings) -> MALA:
    """MALA after half of the warm-up, whose h is a leapfrog step of √(2h), for samplers that do not adapt."""
    sampler = adapted_mala(potential, z, settings)
    for _ in range(sampler.adapt_steps):
        sampler.step()
    return sampler


def langevin_dynamics(potential: CountedPotential, z: Tensor, settings: Settings) -> LangevinDynamics:
    first = pilot(potential, z, settings)
    step_size = UNADJUSTED_SHARE * float(first.step_size)
    return LangevinDynamics(potential, None, first.z, step_size=step_size, seed=settings.seed + 1)


def run(make: Make, target: Target, settings: Settings) -> Run:
    potential = CountedPotential(target)
    z = torch.as_tensor(settings.start(target), dtype=torch.float32)[None]
    target.log_density(z)  # what it computes once, and keeps
    storage = SampleStorage()
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences, which are told by the result
        sampler = make(potential, z, settings)
        steps = settings.warm_up - (0 if sampler.rejects else settings.warm_up // 2)
        collect(sampler, settings.draws, burn_in=steps, into=storage)
    seconds = time.process_time() - begin
    divergences = int(storage.diverging.sum()) if storage.diverging is not None else None
    return Run(storage.samples[:, 0].double().numpy(), potential.rows, seconds, divergences=divergences)


def one_call(target: Target, settings: Settings, **options: Any) -> Run:
    """``ald_ext.samplers.sample`` of the density of one z; gradients as it counts them."""
    target.log_density(z := torch.as_tensor(settings.start(target), dtype=torch.float32))
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences and R-hat, which are told by the result
        posterior = sample(
            target.log_density, z, num_samples=settings.draws, seed=settings.seed, progress=False, **options
        )
    seconds = time.process_time() - begin
    gradients, divergences = posterior.num_gradients * settings.chains, int(posterior.divergences.sum())
    return Run(posterior.samples.double().numpy(), gradients, seconds, divergences=divergences)


def one_call_of_equal_warm_up(target: Target, settings: Settings, **options: Any) -> Run:
    return one_call(target, settings, warm_up=settings.warm_up, **options)


OURS: dict[str, Sampler] = {
    "sample": one_call_of_equal_warm_up,
    "sample, its own warm-up": one_call,
    "MALA": partial(run, adapted_mala),
    "HMC": partial(run, adapted_hmc),
    "Langevin dynamics": partial(run, langevin_dynamics),
    "BAOAB": partial(one_call_of_equal_warm_up, kernel=partial(UnderdampedLangevin, step_size=FIRST_STEP_SIZE)),
}
