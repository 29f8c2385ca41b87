"""What a new posterior sample costs as the number of data grows: LD, ALD and SGALD (paper: Section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import torch

from ...optim import PSGLD
from ...samplers import AmortizedLangevin, LangevinDynamics, LinearGaussianPotential, tanh_network
from ..pictures import Figure, new_picture
from ..results import Difference
from ..workers import Progress
from .experiment import Experiment, Outcome
from .inference import HIDDEN_LAYERS

NAMES = ("ld", "ald", "sgald")


@dataclass(frozen=True)
class ScalingSettings:
    """Settings of the timings.

    Attributes:
        num_data: the numbers n of data.
        batch_size: the size m of SGALD's minibatches.
        width: the units of each layer of the inference network.
        repetitions: how often each sampler is timed at each n, in alternation; the median counts.
        least_seconds: the time for which steps are repeated in one timing.
    """

    num_data: tuple[int, ...] = (100, 1_000, 10_000, 100_000, 1_000_000)
    batch_size: int = 100
    width: int = 32
    repetitions: int = 5
    least_seconds: float = 0.02


def make_steps(settings: ScalingSettings, num_data: int, seed: int) -> dict[str, Callable[[], object]]:
    """Return a step of each sampler; one of ALD and SGALD updates φ, which gives every datum a new sample."""
    unit = torch.eye(1)
    potential = LinearGaussianPotential(torch.zeros(1), unit, 0.01 * unit)
    x = torch.randn(num_data, 1)

    def amortized(batch_size: int | None) -> AmortizedLangevin:
        network = tanh_network([1, *[settings.width] * HIDDEN_LAYERS, 1], seed=seed)
        optimizer = PSGLD(network.parameters(), lr=1e-4, num_data=len(x), seed=seed)
        return AmortizedLangevin(network, potential, x, optimizer, batch_size=batch_size, outputs="batch", seed=seed)

    ld = LangevinDynamics(potential, x, torch.zeros_like(x), step_size=1e-3, seed=seed)
    return {"ld": ld.step, "ald": amortized(None).step, "sgald": amortized(settings.batch_size).step}


def seconds_per_step(step: Callable[[], object], least_seconds: float) -> float:
    """Return the mean time of as many steps as take ``least_seconds``."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < least_seconds or not count:
        step()
        count += 1
    return (time.perf_counter() - begin) / count


class Scaling(Experiment[ScalingSettings]):
    name = "scaling"
    title = "Cost of a new posterior sample of every datum as n grows (Section 3)"
    presets: ClassVar = {"default": ScalingSettings()}
    quick: ClassVar = {"num_data": (100, 1_000, 10_000), "repetitions": 3}
    differences: ClassVar = {
        "default": (
            Difference(
                "the inference network",
                "128 units a layer",
                "32 units a layer",
                "the activations of a million data fit in the memory of a small machine",
            ),
        )
    }
    measures_time = True

    def units(self, settings: ScalingSettings) -> int:
        return len(settings.num_data) * len(NAMES) * settings.repetitions

    def run_seed(self, settings: ScalingSettings, seed: int, progress: Progress) -> Outcome:
        values: dict[str, float] = {}
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        for num_data in settings.num_data:
            steps = make_steps(settings, num_data, seed)
            timings: dict[str, list[float]] = {name: [] for name in NAMES}
            for _ in range(settings.repetitions):
                for name in NAMES:
                    timings[name].append(seconds_per_step(steps[name], settings.least_seconds))
                    progress(1)
            for name in NAMES:
                seconds[name].append(median(timings[name]))
                values[f"{name}_microseconds_per_step_{num_data}"] = 1e6 * seconds[name][-1]
        for name in NAMES:
            values[f"{name}_growth"] = seconds[name][-1] / seconds[name][0]
        return Outcome(values, {"seconds": seconds})

    def draw(self, settings: ScalingSettings, outcomes: Sequence[Outcome]) -> Figure:
        """Draw the time of a step against n, for all seeds."""
        picture, axes = new_picture(1, 1, (6, 4.5))
        axis = axes[0, 0]
        for name, style in zip(NAMES, ("C0s-", "C1o-", "C2v-"), strict=True):
            seconds = torch.tensor([outcome.drawn["seconds"][name] for outcome in outcomes]).T  # a line a seed
            lines = axis.loglog(settings.num_data, seconds.numpy(), style)
            lines[0].set_label(name.upper())
        axis.set(xlabel="number of data n", ylabel="seconds for a new sample of every datum")
        axis.legend()
        return picture
