"""The common part of the datapoint-wise samplers: states, noise keys, checkpoints.

Note [Noise of datapoint samplers]
    Step t = 1, 2, … of a sampler makes ``draws_per_step`` = D draws of normals for each datum. Draw k of step t is row
    index[r] of :func:`ald_ext.ops.latent_normal` with noise step number t·D + k; the numbers below D belong to the
    initial state. Within a row, elements run over chains, then over the dimensions of a chain. The sampler's first
    chain is chain ``first_chain`` of the row, so that a chain has the same noise whichever others run beside it. A
    normal ξ is made into a uniform u = Φ(ξ), so that log u = torch.special.log_ndtr(ξ).

    So the noise of a datum is a pure function of (seed, t, its index): the same bits in any minibatch, at any place in
    it. Its trajectory is the same bit for bit as well if the potential computes a row in the same way whatever the
    other rows are; matrix products in BLAS may round differently for another number of rows.
"""

from __future__ import annotations

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops, reference
from ..settings import require, shortened
from .captured import CapturedPotential
from .potential import Potential, potential_and_gradient
from .transforms import TransformedPotential


class DatapointSampler(ABC):
    """Base of the samplers that run one or more chains for each datum, in parallel over data and chains.

    Args:
        potential: U(x, z), see Note [Potentials, sums and means]; it is called with one row for each chain.
        x: data (n, ...); or None for a target without data, in which case the potential is called with None. Where
            there are chains, a copy with a row for each of them is kept.
        z: initial states (n, d) or (n, chains, d), float32 or float64, which are copied. Everything runs on their
            device. Chains of one target are (1, chains, d): states (n, d) with n > 1 count as n data with a chain
            each, whose chains nothing compares, which without x is told by a UserWarning.
        temperature: T of the target exp(-U(x, z) / T). The attribute may be set between steps, to anneal.
        seed: seed of the noise, 0 ≤ seed < 2^63; None draws one from torch's default generator.
        index: index of each datum in its data set, (n,) int64, 0 ≤ index < 2^44, which keys the noise (Note [Noise of
            datapoint samplers]); None stands for 0, 1, …, n - 1.
        first_chain: index of the first chain, which keys the noise, too, for chains that are divided among processes:
            see :func:`ald_ext.samplers.chains_of_rank`.

    Attributes:
        step_count: the number of steps that were made.
        num_gradients: the number of gradients that this object has taken of each chain.

    Raises:
        ValueError: an argument out of its range, or shapes that do not fit.
    """

    #: D in Note [Noise of datapoint samplers].
    draws_per_step: ClassVar[int]

    #: Whether proposals outside of a prior's support are rejected.
    rejects: ClassVar[bool] = False

    #: Names of the attributes that adaptation sets, which are part of the state.
    adapted: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        index: Tensor | None = None,
        first_chain: int = 0,
    ) -> None:
        self._require(z.dim() in (2, 3), "z", f"shape {tuple(z.shape)}", "(n, d) or (n, chains, d)")
        floats = (torch.float32, torch.float64)
        self._require(z.dtype in floats, "z", f"dtype {z.dtype}", "torch.float32 or torch.float64")
        if x is None and z.dim() == 2 and len(z) > 1:
            warnings.warn(
                f"ald_ext.samplers.{type(self).__name__}: z: shape {tuple(z.shape)} without x counts as {len(z)} data "
                f"with a chain each, which nothing compares; for {len(z)} chains of one target pass z[None], shape "
                f"{(1, *z.shape)}, and for data without x z[:, None]",
                stacklevel=1 + sum("__init__" in vars(cls) for cls in type(self).__mro__[:-1]),  # the caller's line
            )
        if x is not None:
            fits = x.dim() > 0 and len(x) == len(z)
            self._require(fits, "x", f"shape {tuple(x.shape)}", f"({len(z)}, ...), one row for each of z")
        self._check_number("temperature", temperature, may_be_zero=True)
        if isinstance(potential, TransformedPotential):
            expected = f"{potential.temperature}, that of the TransformedPotential"
            self._require(temperature == potential.temperature, "temperature", temperature, expected)
        self.potential = potential
        self.temperature = float(temperature)
        self.seed = self._checked_seed(seed)
        self.index = self._checked_index(index, z)
        self._require(first_chain >= 0, "first_chain", first_chain, "an integer >= 0")
        self.first_chain = first_chain
        self._z = z.detach().clone(memory_format=torch.contiguous_format)
        self._rows_of_x = x if x is None or z.dim() == 2 else x.repeat_interleave(z.shape[1], 0)  # one for each chain
        self.step_count = self._first_step = self.num_gradients = 0

    @property
    def z(self) -> Tensor:
        """The current states, in the shape of the initial ones. Later steps do not overwrite them; nor should you."""
        return self._z.detach()

    @property
    def inverse_mass_matrix(self) -> Tensor | None:
        """None, which stands for the identity; :class:`LangevinDynamics` has no other."""
        return None

    @property
    def divergences(self) -> Tensor:
        """1 where a chain's state has become NaN or infinite, as at too large a step size: int64, (n, [chains])."""
        return (~self._z.isfinite()).any(-1).long()

    def start_after(self, step_count: int) -> None:
        """Count, and so key the noise, as if ``step_count`` steps had been made: for a sampler that is made anew.

        Only samplers whose state is z can do so: initial momenta are already drawn, from the noise before step 1.
        """
        self.step_count = self._first_step = step_count

    @torch.no_grad()
    def step(self) -> Tensor:
        """Advance every chain by one step and return ``z``. If it raises, nothing has changed."""
        self._advance(self.step_count + 1)
        self.step_count += 1
        return self.z

    def steps(self, num_steps: int) -> Iterator[Tensor]:
        """Make so many steps, one at a time, and give ``z`` after each. MALA and HMC may compute several at once."""
        for _ in range(num_steps):
            yield self.step()

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that changes, what a warm-up found, and the seed; they load with weights_only=True."""
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        numbers = {"seed": self.seed, "step_count": self.step_count, "first_chain": self.first_chain}
        found = {name: copy.deepcopy(getattr(self, name)) for name in self.adapted}
        return {**numbers, "index": self.index.clone(), **tensors, **found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bit for bit from the state of a sampler with the same arguments.

        Options are not part of it, beside those that a warm-up sets: step size, inverse mass matrix, trajectory length.

        Raises:
            ValueError: an entry is missing, or differs in shape, dtype, index or first_chain from this sampler's.
        """
        self._require(isinstance(state_dict, dict), "state_dict", shortened(state_dict), "a dict")
        earlier_names = {"data": "index", "momentum": "momenta"}
        not_saved_earlier = {"first_chain": self.first_chain, "divergences": torch.zeros_like(self.divergences)}
        named = {earlier_names.get(name, name): value for name, value in state_dict.items()}
        state_dict = {**not_saved_earlier, **named}
        expected = {"index": self.index, **self._tensors()}
        for name in ("seed", "step_count", *expected):
            self._require(name in state_dict, "state_dict", f"no entry {name!r}", "the state of such a sampler")
        for name, tensor in expected.items():
            saved = state_dict[name]
            self._require(isinstance(saved, Tensor), "state_dict", f"{name!r} that is {shortened(saved)}", "a tensor")
            fits = saved.shape == tensor.shape and saved.dtype == tensor.dtype
            got = f"{name!r} of shape {tuple(saved.shape)}, {saved.dtype}"
            self._require(fits, "state_dict", got, f"shape {tuple(tensor.shape)}, {tensor.dtype}")
        first_chain = state_dict["first_chain"]
        got = f"first_chain={first_chain}, the state of other chains"
        self._require(first_chain == self.first_chain, "state_dict", got, f"{self.first_chain}")
        same = torch.equal(state_dict["index"].to(self.index.device), self.index)
        self._require(same, "state_dict", "the state of other data", "the index of this sampler")
        tensors = {name: state_dict[name].to(tensor.device, copy=True) for name, tensor in self._tensors().items()}
        seed = self._checked_seed(state_dict["seed"])
        found = {name: state_dict[name] for name in self.adapted if name in state_dict}  # not saved earlier
        for name, value in found.items():
            kinds = (Tensor, type(None)) if name == "inverse_mass_matrix" else (int, float)
            got = f"{name!r} that is {shortened(value)}"
            self._require(isinstance(value, kinds), "state_dict", got, "what a warm-up sets")
        for name, value in found.items():
            setattr(self, name, value)
        self.seed, self.step_count = seed, int(state_dict["step_count"])
        self._restore(tensors)

    @abstractmethod
    def _advance(self, step: int) -> None:
        """Make step number ``step``: replace ``_z``, and do not write to the old one."""

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the state by their names; each is an attribute with an underscore before its name."""
        return {"z": self._z}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over tensors with the names, shapes and dtypes of :meth:`_tensors`."""
        for name, tensor in tensors.items():
            setattr(self, f"_{name}", tensor)

    def _evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return U, one value for each chain, and ∇U in the shape of z."""
        rows = z.flatten(0, -2)
        value, gradient = potential_and_gradient(self.potential, self._rows_of_x, rows, rejects=self.rejects)
        self.num_gradients += 1
        return value.view(z.shape[:-1]), gradient.reshape(z.shape).contiguous()

    def _gradient_at(self, z: Tensor) -> Tensor:
        """Return ∇U in the shape of z, without U if the potential is captured."""
        if not isinstance(self.potential, CapturedPotential):
            return self._evaluate(z)[1]
        self.num_gradients += 1
        return self.potential.gradient(self._rows_of_x, z.view(-1, z.shape[-1])).reshape(z.shape)

    def _normal(self, shape: torch.Size, step: int, draw: int, num_steps: int | None = None) -> Tensor:
        """Return normals of a shape (n, ...) by Note [Noise of datapoint samplers], (num_steps, n, ...) of several."""
        number, apart = step * self.draws_per_step + draw, self.draws_per_step
        steps = number if num_steps is None else range(number, number + num_steps * apart, apart)
        key: dict[str, Any] = {"seed": self.seed, "step": steps, "offset": self._offset(shape)}
        normals = ops.latent_normal(self.index, shape[1:].numel(), **key, dtype=self._z.dtype)
        return normals.view(shape if num_steps is None else (num_steps, *shape))

    def _offset(self, shape: torch.Size) -> int:
        """Return the element of a row at which the draws of the first chain begin, for draws of z's shape or (n, …)."""
        return self.first_chain * shape[self._z.dim() - 1 :].numel()

    def _checked_seed(self, seed: int | None) -> int:
        if seed is None:
            return ops.draw_seed()
        in_range = isinstance(seed, int) and 0 <= seed < 2**63
        self._require(in_range, "seed", repr(seed), "an integer, 0 <= seed < 2**63")
        return seed

    def _checked_index(self, index: Tensor | None, z: Tensor) -> Tensor:
        if index is None:
            return torch.arange(len(z), device=z.device)
        fits = index.shape == z.shape[:1] and index.dtype == torch.int64
        self._require(fits, "index", f"shape {tuple(index.shape)}, {index.dtype}", f"({len(z)},), torch.int64")
        if len(index):
            low, high, most = int(index.min()), int(index.max()), reference.MAX_PARAMETER
            self._require(low >= 0 and high <= most, "index", f"values from {low} to {high}", f"0 to {most}")
        return index.to(z.device, copy=True)

    def _check_number(self, name: str, value: float, *, may_be_zero: bool = False) -> None:
        try:
            number = float(value)
        except (RuntimeError, TypeError, ValueError):  # of a tensor with several elements, or something else
            number = math.nan
        in_range = math.isfinite(number) and (number > 0 or (may_be_zero and number == 0))
        self._require(in_range, name, shortened(value), f"a finite number {'>=' if may_be_zero else '>'} 0")

    def _require(self, fulfilled: object, argument: str, got: object, expected: str) -> None:
        require(fulfilled, f"ald_ext.samplers.{type(self).__name__}: {argument}", got, expected)
