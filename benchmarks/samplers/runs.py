"""What a sampler is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .targets import Array, Target


@dataclass(frozen=True)
class Settings:
    """The same for all samplers: numbers of chains, steps of warm-up and draws, and the seed."""

    chains: int = 16
    warm_up: int = 1000
    draws: int = 1000
    seed: int = 0

    def start(self, target: Target) -> Array:
        """Initial states of the chains, (chains, d), uniform on [-2, 2] as Stan's."""
        return np.random.default_rng(self.seed).uniform(-2, 2, (self.chains, target.dimension))


@dataclass(frozen=True)
class Run:
    """Draws and what they took.

    Attributes:
        draws: (draws, chains, d).
        gradients: of one density at one state, over all chains, warm-up included, as they were counted.
        seconds: of CPU, warm-up included, of all threads.
        compile_seconds: of CPU, to compile, which is not in ``seconds``.
        divergences: transitions that diverged after the warm-up; None where the sampler does not tell.
    """

    draws: Array
    gradients: int
    seconds: float
    compile_seconds: float = 0.0
    divergences: int | None = None


#: Standard errors from which on an error is one of an exact sampler.
SIGNIFICANT = 5.0

#: What runs on a target by the settings.
Sampler = Callable[[Target, Settings], Run]
