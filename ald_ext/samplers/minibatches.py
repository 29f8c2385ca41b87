"""Minibatches of data, and the samplers that make a datapoint-wise kernel anew for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, Any

import torch
from torch import Tensor

from ..ops import draw_seed
from ..settings import from_dict, require, shortened
from .datapoint import DatapointSampler
from .langevin import UnderdampedLangevin
from .metropolis import MetropolisSampler
from .potential import Potential

#: What makes a sampler, kernel(potential, x, z, **options): MALA, HMC, LangevinDynamics or UnderdampedLangevin.
Kernel = Callable[..., DatapointSampler]


class Minibatches:
    """Indices of minibatches without replacement, epoch by epoch; an incomplete last minibatch is dropped.

    ValueError, which names the sampler, for a ``batch_size`` or ``outputs`` of it that is out of range.
    """

    def __init__(self, sampler: str, num_data: int, batch_size: int, outputs: str, seed: int | None) -> None:
        in_range = isinstance(batch_size, Integral) and 1 <= batch_size <= num_data
        require(in_range, f"{sampler}: batch_size", batch_size, f"1 to {num_data}, the number of data")
        require(outputs in ("all", "batch"), f"{sampler}: outputs", repr(outputs), "'all' or 'batch'")
        self.num_data, self.batch_size = num_data, batch_size
        self.generator = torch.Generator()
        self.generator.manual_seed(draw_seed() if seed is None else seed)
        self.order, self.position = torch.arange(num_data), num_data

    def draw(self) -> Tensor:
        """Return the next indices, (m,) int64; all data in order, where they are one minibatch."""
        if self.batch_size == self.num_data:
            return self.order
        if self.position + self.batch_size > self.num_data:
            self.order = torch.randperm(self.num_data, generator=self.generator)
            self.position = 0
        batch = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "order": self.order, "position": self.position}

    def load_state_dict(self, state: dict[str, Any], owner: str) -> None:
        """Continue from :meth:`state_dict`. ValueError, which begins with ``owner``, for one that does not fit."""
        saved = from_dict(MinibatchesState, state, owner)
        expected = f"the numbers from 0 to {self.num_data - 1}, each once"
        fits = torch.equal(saved.order.cpu().sort().values, torch.arange(self.num_data))
        require(fits, f"{owner}: order", shortened(saved.order), expected)
        in_range = 0 <= saved.position <= self.num_data
        require(in_range, f"{owner}: position", saved.position, f"0 to {self.num_data}")
        try:
            self.generator.set_state(saved.generator.cpu())
        except RuntimeError as error:
            raise ValueError(f"{owner}: generator: got no state of a generator, expected one ({error})") from error
        self.order, self.position = saved.order.clone(), saved.position


@dataclass
class MinibatchesState:
    """What :meth:`Minibatches.state_dict` gives."""

    generator: Annotated[Tensor, torch.uint8, 1]
    order: Annotated[Tensor, torch.int64, 1]
    position: int


@dataclass
class SamplerState:
    """What all samplers of minibatches have in their states; earlier ones lacked ``divergences``."""

    step_count: int
    seed: int
    acceptances: float
    minibatches: dict[str, Any]
    divergences: Annotated[Tensor, torch.int64, 2] | None = None


class MinibatchSampler:
    """The common part of the samplers whose kernel moves the latent variables of a minibatch of data.

    Args:
        x: data (n, ...).
        kernel: MALA, HMC or LangevinDynamics; not UnderdampedLangevin, whose momenta would begin anew.
        options: options of the kernel except index and adapt_steps, as the kernel is made anew for each minibatch.
        batch_size: m; None stands for all data.
        transitions: number of the kernel's transitions for each minibatch.
        chains: number of chains for each datum.
        outputs: "all" or "batch".
        seed: seed of the noise and the minibatches.

    Raises:
        ValueError: an argument out of its range, or an option that such a kernel cannot have.
    """

    def __init__(
        self,
        x: Tensor,
        kernel: Kernel,
        options: dict[str, Any],
        *,
        batch_size: int | None,
        transitions: int,
        chains: int,
        outputs: str,
        seed: int,
    ) -> None:
        name = f"ald_ext.samplers.{type(self).__name__}"
        self.x, self.kernel, self.options, self.seed = x, kernel, options, seed
        self.batch_size = len(x) if batch_size is None else batch_size
        self.transitions, self.outputs = transitions, outputs
        self.minibatches = Minibatches(name, len(x), self.batch_size, outputs, seed)
        self.batch = torch.arange(len(x))
        self.step_count, self._acceptances = 0, 0.0
        enough = isinstance(chains, Integral) and chains >= 1
        require(enough, f"{name}: chains", repr(chains), "an integer >= 1")
        self._divergences = torch.zeros(len(x), chains, dtype=torch.int64, device=x.device)
        require(transitions >= 1, f"{name}: transitions", transitions, ">= 1")
        anew = "the kernel is made anew for a minibatch"
        momenta = isinstance(kernel, type) and issubclass(kernel, UnderdampedLangevin)
        expected = f"one without momenta, such as MALA or HMC: {anew}"
        require(not momenta, f"{name}: kernel", getattr(kernel, "__name__", ""), expected)
        one_number = not isinstance(options.get("step_size"), Tensor)
        require(one_number, f"{name}: step_size", "a tensor", "a number for all data")
        for option in ("index", "adapt_steps"):
            require(option not in options, f"{name}: {option}", "a value", f"none: {anew}")

    @property
    def acceptance_rate(self) -> float:
        """The share of the kernels' proposals accepted so far; NaN for kernels without a test."""
        return self._acceptances / self.step_count if self.step_count else math.nan

    @property
    def divergences(self) -> Tensor:
        """The number of the kernels' transitions so far that diverged: int64, (n, chains)."""
        return self._divergences

    def _moved(self, potential: Potential, z: Tensor) -> Tensor:
        """Return the states z (m, chains, d) of the minibatch after the kernel's transitions, and count the step."""
        index = self.batch.to(z.device)
        kernel = self.kernel(potential, self.x[self.batch], z, index=index, seed=self.seed, **self.options)
        kernel.start_after(self.step_count * self.transitions)
        for _ in range(self.transitions):
            moved = kernel.step()
        self._acceptances += float(kernel.acceptance_rate.mean()) if isinstance(kernel, MetropolisSampler) else math.nan
        self._divergences = self._divergences.index_add(0, index, kernel.divergences)
        self.step_count += 1
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Return states, step counter and minibatches; a run continues from them bit for bit."""
        return {
            "step_count": self.step_count,
            "seed": self.seed,
            "acceptances": self._acceptances,
            "divergences": self._divergences.clone(),
            "minibatches": self.minibatches.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError for a state that does not fit; nothing has changed then."""
        self._load(state, {})

    def _load(self, state: Any, own: dict[str, Tensor]) -> list[Tensor]:
        """Continue from a state; return copies of its tensors of the names, shapes, dtypes and devices of ``own``."""
        owner = f"ald_ext.samplers.{type(self).__name__}: state_dict"
        saved = from_dict(SamplerState, state, owner, ignore_unknown=True)
        for name, tensor in own.items():
            require(name in state, owner, f"no {name!r}", "Tensor")
            fits = isinstance(state[name], Tensor) and state[name].shape == tensor.shape
            fits = (
                fits
                and state[name].dtype == tensor.dtype
                and not state[name].is_meta
                and state[name].layout == torch.strided
            )
            require(fits, f"{owner}: {name}", shortened(state[name]), shortened(tensor))
        require(saved.step_count >= 0, f"{owner}: step_count", saved.step_count, ">= 0")
        require(saved.seed >= 0, f"{owner}: seed", saved.seed, "0 <= seed < 2**63")
        divergences = torch.zeros_like(self._divergences) if saved.divergences is None else saved.divergences
        fits = divergences.shape == self._divergences.shape
        require(fits, f"{owner}: divergences", shortened(divergences), shortened(self._divergences))
        self.minibatches.load_state_dict(saved.minibatches, f"{owner}: minibatches")
        self.step_count, self.seed, self._acceptances = saved.step_count, saved.seed, float(saved.acceptances)
        self._divergences = divergences.to(self._divergences, copy=True)
        return [state[name].detach().to(tensor, copy=True) for name, tensor in own.items()]
