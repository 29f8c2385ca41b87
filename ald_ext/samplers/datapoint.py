"""What the datapoint-wise samplers have in common: states, noise keys, checkpoints.

Note [Noise of datapoint samplers]
    Step t = 1, 2, … of a sampler makes ``draws_per_step`` = D draws of normals a datum. Draw k of step t is row
    data[r] of :func:`ald_ext.ops.latent_normal` with noise step number t·D + k; the numbers below D belong to the
    initial state. Within a row, elements run over chains, then over the dimensions of a chain. A uniform u is made of
    a normal ξ by u = Φ(ξ), so that log u = torch.special.log_ndtr(ξ).

    So the noise of a datum is a pure function of (seed, t, its index): the same bits in any minibatch, at any place in
    it. Its trajectory is the same bit for bit as well if the potential computes a row in the same way whatever the
    other rows are; matrix products in BLAS may round differently for another number of rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops, reference
from .potential import Potential, potential_and_gradient


class DatapointSampler(ABC):
    """Base of the samplers that run one or more chains for each datum, in parallel over data and chains.

    Args:
        potential: U(x, z), see Note [Potentials, sums and means]; it is called with one row for each chain.
        x: (n, ...) data, or None for a target without data: then the potential is called with None. Where there are
            chains, a copy with a row for each of them is kept.
        z: (n, d), or (n, chains, d): initial states, float32 or float64, which are copied. Everything runs on their
            device.
        temperature: T; the target is exp(-U(x, z) / T). The attribute may be set between steps, to anneal.
        seed: of the noise, 0 ≤ seed < 2^63; drawn once from torch's default generator if None.
        data: (n,) int64, 0 ≤ data < 2^44: the index of each datum in its data set, which keys the noise (Note [Noise of
            datapoint samplers]); 0, 1, …, n - 1 if None.

    Raises:
        ValueError: an argument out of its range, or shapes that do not fit.
    """

    #: D in Note [Noise of datapoint samplers].
    draws_per_step: ClassVar[int]

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        data: Tensor | None = None,
    ) -> None:
        if z.dim() not in (2, 3):
            raise self._error("z", f"shape {tuple(z.shape)}", "(n, d) or (n, chains, d)")
        if z.dtype not in (torch.float32, torch.float64):
            raise self._error("z", f"dtype {z.dtype}", "torch.float32 or torch.float64")
        if x is not None and (x.dim() == 0 or len(x) != len(z)):
            raise self._error("x", f"shape {tuple(x.shape)}", f"({len(z)}, ...), one row for each of z")
        self._check_number("temperature", temperature, may_be_zero=True)
        self.potential = potential
        self.temperature = float(temperature)
        self.seed = self._checked_seed(seed)
        self._data = self._checked_data(data, z)
        self._z = z.detach().clone(memory_format=torch.contiguous_format)
        # Made once: a row of x for each chain.
        self._rows_of_x = x if x is None or z.dim() == 2 else x.repeat_interleave(z.shape[1], 0)
        self._step_count = self._first_step = 0

    @property
    def z(self) -> Tensor:
        """The current states, in the shape of the initial ones. Later steps do not overwrite them; nor should you."""
        return self._z.detach()

    @property
    def data(self) -> Tensor:
        """(n,) int64, the index of each datum."""
        return self._data

    @property
    def step_count(self) -> int:
        """How many steps were made."""
        return self._step_count

    def start_after(self, step_count: int) -> None:
        """Counts, and so keys the noise, as if ``step_count`` steps had been made: for a sampler that is made anew.

        Only for samplers whose state is z: initial momenta have been drawn by then, of the noise before the first step.
        """
        self._step_count = self._first_step = step_count

    @torch.no_grad()
    def step(self) -> Tensor:
        """Advances every chain by one step and returns ``z``. Nothing has changed if it raises."""
        self._advance(self._step_count + 1)
        self._step_count += 1
        return self.z

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that changes, with the seed: plain tensors and numbers, which load with weights_only=True."""
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        return {"seed": self.seed, "step_count": self._step_count, "data": self._data.clone(), **tensors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues bit for bit from a state of a sampler with the same arguments; options are not part of it.

        Raises:
            ValueError: an entry is missing, or differs in shape, dtype or data from what this sampler has.
        """
        expected = {"data": self._data, **self._tensors()}
        missing = [name for name in ("seed", "step_count", *expected) if name not in state_dict]
        if missing:
            raise self._error("state_dict", f"no entry {missing[0]!r}", "the state of such a sampler")
        for name, tensor in expected.items():
            saved = state_dict[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                got = f"{name!r} of shape {tuple(saved.shape)}, {saved.dtype}"
                raise self._error("state_dict", got, f"shape {tuple(tensor.shape)}, {tensor.dtype}")
        if not torch.equal(state_dict["data"].to(self._data.device), self._data):
            raise self._error("state_dict", "the state of other data", "the data indices of this sampler")
        tensors = {name: state_dict[name].to(tensor.device, copy=True) for name, tensor in self._tensors().items()}
        self.seed = self._checked_seed(state_dict["seed"])
        self._step_count = int(state_dict["step_count"])
        self._restore(tensors)

    @abstractmethod
    def _advance(self, step: int) -> None:
        """Step number ``step``; replaces ``_z`` and does not write to the old one."""

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, by name."""
        return {"z": self._z}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes over tensors of the names, shapes and dtypes of :meth:`_tensors`."""
        self._z = tensors["z"]

    def _evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """U, one value a chain, and ∇U in the shape of z."""
        value, gradient = potential_and_gradient(self.potential, self._rows_of_x, z.flatten(0, -2))
        return value.view(z.shape[:-1]), gradient.reshape(z.shape).contiguous()

    def _normal(self, shape: torch.Size, step: int, draw: int) -> Tensor:
        """Normals of a shape (n, ...) by Note [Noise of datapoint samplers]."""
        noise_step = step * self.draws_per_step + draw
        count = shape[1:].numel()
        noise = ops.latent_normal(self._data, count, seed=self.seed, step=noise_step, dtype=self._z.dtype)
        return noise.view(shape)

    def _checked_seed(self, seed: int | None) -> int:
        if seed is None:
            return ops.draw_seed()
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise self._error("seed", repr(seed), "an integer, 0 <= seed < 2**63")
        return seed

    def _checked_data(self, data: Tensor | None, z: Tensor) -> Tensor:
        if data is None:
            return torch.arange(len(z), device=z.device)
        if data.shape != z.shape[:1] or data.dtype != torch.int64:
            raise self._error("data", f"shape {tuple(data.shape)}, {data.dtype}", f"({len(z)},), torch.int64")
        if len(data) and not (int(data.min()) >= 0 and int(data.max()) <= reference.MAX_PARAMETER):
            got = f"indices from {int(data.min())} to {int(data.max())}"
            raise self._error("data", got, f"0 to {reference.MAX_PARAMETER}")
        return data.to(z.device, copy=True)

    def _check_number(self, name: str, value: float, *, may_be_zero: bool = False) -> None:
        if not (math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))):
            raise self._error(name, str(value), f"a finite number {'>=' if may_be_zero else '>'} 0")

    def _error(self, argument: str, got: str, expected: str) -> ValueError:
        return ValueError(f"ald_ext.samplers.{type(self).__name__}: {argument}: got {got}, expected {expected}")
