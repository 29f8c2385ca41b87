"""Samplers with a Metropolis-Hastings test, MALA and HMC."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from .captured import BLOCK, CapturedPotential
from .datapoint import DatapointSampler
from .dual_averaging import DualAveraging
from .leapfrog import ChainStates, update
from .potential import Potential

#: Numbers of the draws that decide about a proposal and vary HMC's step size, see Note [Noise of datapoint samplers].
TEST_DRAW, JITTER_DRAW = 1, 2

#: Energy error in units of T from which on a proposal counts as diverged, and the scale from which on an adapted step
#: counts as that of an improper target, as in Stan.
MAX_ENERGY_ERROR, MAX_SCALE = 1000.0, 1e7

#: What counts as a chain's least acceptance in a harmonic mean.
LEAST_ACCEPTANCE = 0.1

#: Elements of states up to which several steps are one function; of more, a step takes longer than its call.
MOST_ELEMENTS = 2**17


class MetropolisSampler(DatapointSampler):
    """Base of the samplers that accept or reject, so that they leave exp(-U/T) exactly invariant.

    Each chain by itself accepts its proposal with probability min(1, r), and rejects one whose state, potential or r is
    NaN or infinite. A rejected proposal leaves the state as it is, bit for bit.

    The potential and its gradient at the current states are kept from step to step: call :meth:`refresh` if the
    potential has changed.

    Note [Adaptation]
        During the first ``adapt_steps`` steps, :class:`DualAveraging` moves each datum's step size to where the mean
        acceptance probability over the datum's chains is ``target_acceptance``; then it is fixed at its average. A
        chain that adapts is not a Markov chain of the right target: discard these samples.

    Note [Divergences]
        As in Stan, a transition diverges if log r < -1000, or if it is NaN or infinite: the step size is too large for
        a part of the target, which the chain then avoids. Some during adaptation do no harm. Later ones call for a
        smaller step size (a higher ``target_acceptance``), or for another parametrization, such as a
        :class:`TransformedPotential`. A proposal outside of the support, where U is +∞ without a gradient, is rejected
        as any other.

    Args:
        potential, x, z, seed, index, first_chain: see :class:`DatapointSampler`.
        step_size: a number > 0, or a tensor (n,) with one for each datum, at which adaptation begins.
        temperature: T > 0.
        inverse_mass_matrix: M, (d,) for a diagonal one, or (d, d), symmetric and positive definite; one for each datum
            is (n, 1, d) or (n, d, d). None stands for the identity. The best choice is near the target's covariance,
            which :func:`warm_up` estimates. The attribute may be set between steps.
        adapt_steps: number of steps of Note [Adaptation]; 0 keeps the step size.
        target_acceptance: a number between 0 and 1; None stands for the sampler's ``best_acceptance``.

    Raises:
        ValueError: an argument out of its range, shapes that do not fit, or initial states where the potential is not
            finite; in the last step of adaptation, if step sizes grew so large that the target has to be improper.
    """

    rejects: ClassVar = True
    adapted: ClassVar[tuple[str, ...]] = ("inverse_mass_matrix", "adapt_steps", "adapted_from", "harmonic")

    #: The acceptance that adaptation steers to by default.
    best_acceptance: ClassVar[float]

    #: The step size from which on, after adaptation, the target counts as improper.
    largest_step_size: ClassVar[float]

    def __init__(
        self,
        potential: Potential,
        x: Tensor | None,
        z: Tensor,
        *,
        step_size: float | Tensor,
        temperature: float = 1.0,
        inverse_mass_matrix: Tensor | None = None,
        adapt_steps: int = 0,
        target_acceptance: float | None = None,
        seed: int | None = None,
        index: Tensor | None = None,
        first_chain: int = 0,
    ) -> None:
        super().__init__(potential, x, z, temperature=temperature, seed=seed, index=index, first_chain=first_chain)
        self._check_number("temperature", self.temperature)
        self._require(adapt_steps >= 0, "adapt_steps", adapt_steps, "a number >= 0")
        self.adapt_steps, self.adapted_from = int(adapt_steps), 0
        self.harmonic = False
        self.target_acceptance = self.best_acceptance if target_acceptance is None else target_acceptance
        in_range = 0 < self.target_acceptance < 1
        self._require(in_range, "target_acceptance", self.target_acceptance, "a number between 0 and 1")
        self._adaptation = DualAveraging.start(self._checked_step_size(step_size))
        self.inverse_mass_matrix = inverse_mass_matrix
        self._accepted = torch.zeros(z.shape[:-1], dtype=torch.int64, device=z.device)
        self._divergences = torch.zeros_like(self._accepted)
        self.refresh()

    @property
    def step_size(self) -> Tensor:
        """The step size of each datum, (n,), of z's dtype."""
        return self._adaptation.step_size

    @property
    def inverse_mass_matrix(self) -> Tensor | None:
        """M as it was given, (d,), (d, d), (n, 1, d) or (n, d, d); None stands for the identity."""
        return self._inverse_mass_matrix

    @inverse_mass_matrix.setter
    def inverse_mass_matrix(self, matrix: Tensor | None) -> None:
        matrix = None if matrix is None else torch.as_tensor(matrix).detach().clone()
        self._mass_factor = self._checked_mass_factor(matrix)
        self._inverse_mass_matrix = matrix

    @property
    def divergences(self) -> Tensor:
        """The number of transitions so far that diverged, by Note [Divergences]: int64, (n,) or (n, chains)."""
        return self._divergences

    @property
    def adaptation_steps_left(self) -> int:
        """The number of steps that still adapt, whose states are no samples."""
        return max(0, self.adapt_steps - self.step_count)

    @property
    def acceptance_rate(self) -> Tensor:
        """The share of proposals accepted since adaptation, (n,) or (n, chains); NaN before the first."""
        return self._accepted / max(0, self.step_count - max(self.adapt_steps, self._first_step))

    def adapt_for(self, num_steps: int) -> None:
        """Adapt the step sizes, from what they are now, for so many more steps, 1 at least, by Note [Adaptation].

        The mean over chains is the harmonic one here (Hoffman, Radul & Sountsov 2021), so that a chain which is stuck
        makes steps smaller.
        """
        self._require(num_steps >= 1, "num_steps", num_steps, "an integer > 0")
        self.harmonic = True
        self.adapt_steps, self.adapted_from = self.step_count + int(num_steps), self.step_count
        self._adaptation = DualAveraging.start(self.step_size)

    @torch.no_grad()
    def refresh(self) -> None:
        """Evaluate the potential, which has changed, at the current states. ValueError if it is not finite there."""
        value, gradient = self._evaluate(self._z)
        bad = int((~value.isfinite()).sum())
        self._require(not bad, "z", f"{bad} of {value.numel()} states where the potential is not finite", "none")
        self._potential, self._gradient = value, gradient

    def steps(self, num_steps: int) -> Iterator[Tensor]:
        """Make so many steps, one at a time, and give ``z`` after each.

        Short trajectories of a compiled potential are computed several at once while nothing adapts, unless ``step`` is
        overridden. What has been computed ahead is computed anew if the sampler is changed in between.
        """
        alone, pause, num_steps = 0, BLOCK, operator.index(num_steps)  # steps before a block is tried again
        while num_steps > 0:
            ahead = None if alone else self._steps_ahead(num_steps)
            if ahead is not None:
                alone, pause = (0, BLOCK) if ahead else (pause, 2 * pause)
            if not ahead:
                alone = max(alone - 1, 0)
                num_steps -= 1
                yield self.step()
            for state in ahead or ():
                self._z, self._gradient, self._potential, self._accepted, gradients = state
                self.step_count += 1
                self.num_gradients += gradients
                num_steps -= 1
                made = vars(self).copy()
                yield self.z
                if made.keys() != vars(self).keys() or not all(map(operator.is_, made.values(), vars(self).values())):
                    alone = BLOCK  # the next change may be near
                    break

    @torch.no_grad()
    def _steps_ahead(self, most: int) -> list[tuple[Any, ...]] | None:
        """Return what the next steps lead to: z, ∇U, U, the accepted, gradients taken; [] if one of them diverges.

        None is returned where steps are made alone.
        """
        ours = (getattr(getattr(self, each.__name__), "__func__", None) is each for each in STEPPING)
        small = self._z.numel() <= MOST_ELEMENTS
        if not (self.steps_alike and small and self._compiled() and all(ours)) or self.adaptation_steps_left:
            return None
        step_size, length = self._leapfrog_steps(self.step_count + 1)
        size = BLOCK // length
        if not 1 < size <= most:
            return None
        normals = self._normal(self._z.shape, self.step_count + 1, 0, size)
        tests = self._normal(self._z.shape[:-1], self.step_count + 1, TEST_DRAW, size)
        state = (self._z, self._gradient, self._potential, self._accepted)
        *states, bounded = self._run("_transitions", length, step_size, *state, normals, tests)
        self.num_gradients -= length
        return [(*states[at : at + 4], length) for at in range(0, 4 * size, 4)] if bounded else []

    def _transitions(self, length: int, step_size: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return z, ∇U, U and the accepted after each of several steps, and whether all of their |log r| are small."""
        z, gradient, potential, accepted, normals, tests = tensors
        states, all_bounded = [], []
        for normal, test in zip(normals, tests, strict=True):
            v = normal * self.temperature**0.5
            result = self._decide(length, step_size, z, gradient, v, potential, test)
            (z, potential, gradient), accepted = result[:3], accepted + result[-2]
            states += [z, gradient, potential, accepted]
            all_bounded.append(result[-1])
        return (*states, torch.stack(all_bounded).all())

    @property
    def steps_alike(self) -> bool:
        """Whether all steps have the same leapfrog steps, unless they adapt."""
        return True

    @abstractmethod
    def _leapfrog_steps(self, step: int) -> tuple[Tensor, int]:
        """Return the size of the leapfrog steps of a step, which broadcasts with z, and their number."""

    def _advance(self, step: int) -> None:
        *current, z, potential, gradient, log_ratio, accepted, bounded = self._propose(step)
        if not bounded:  # rare
            unbounded = (potential == math.inf) & (gradient == 0).all(-1) & z.isfinite().all(-1)
            self._divergences = self._divergences + ((log_ratio < -MAX_ENERGY_ERROR) & ~unbounded)
        if step <= self.adapt_steps:
            probability = log_ratio.clamp_max(0).exp().to(self._z.dtype)
            probability = probability[:, None] if probability.dim() == 1 else probability
            mean = 1 / (1 / probability.clamp_min(LEAST_ACCEPTANCE)).mean(1) if self.harmonic else probability.mean(1)
            adapted = self._adaptation.update(mean, self.target_acceptance, step - self.adapted_from)
            self._adaptation = self._frozen(adapted) if step == self.adapt_steps else adapted
        else:
            self._accepted = self._accepted + accepted
        self._z, self._potential, self._gradient = current

    def _propose(self, step: int) -> tuple[Tensor, ...]:
        """Return what :meth:`_decide` does for a step."""
        step_size, length = self._leapfrog_steps(step)
        v = self._normal(self._z.shape, step, draw=0).mul_(self.temperature**0.5)
        normal = self._normal(self._z.shape[:-1], step, TEST_DRAW)
        place = first = (self._z, self._gradient, v)
        one_function = self.steps_alike and length <= BLOCK // 2  # with the bits of :meth:`_transitions`
        for size in (BLOCK, 1) if self._compiled() and not one_function else ():
            while length > size:
                place = self._run("_leapfrogs", size, step_size, *place)
                length -= size
        start = () if place is first else first
        return self._run("_decide", length, step_size, *place, self._potential, normal, *start)

    def _leapfrogs(self, length: int, step_size: Tensor, z: Tensor, gradient: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Return z, ∇U(z) and v after so many leapfrog steps."""
        state, v = self._trajectory(ChainStates(z, self._potential, gradient), v, step_size, length)
        return state.z, state.gradient, v

    def _decide(
        self, length: int, step_size: Tensor, z: Tensor, gradient: Tensor, v: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        """Return states, proposals, log r, -∞ where it is not finite, who accepts, and whether all |log r| are small.

        Others are U and normals for the decision, and z, ∇U and v at the start of the trajectory if it is under way.
        """
        potential, normal, *start = others
        first, first_gradient, initial = start or (z, gradient, v)
        current, state = ChainStates(first, potential, first_gradient), ChainStates(z, potential, gradient)
        proposal, v = self._trajectory(state, v, step_size, length)
        log_ratio = self._log_ratio(current, initial, proposal, v)
        log_ratio = log_ratio.add(proposal.z.sum(-1), alpha=0)  # NaN where the state is not finite
        bounded = (log_ratio.abs() <= MAX_ENERGY_ERROR).all()
        log_ratio = log_ratio.nan_to_num(-math.inf, -math.inf, -math.inf)
        accepted = torch.special.log_ndtr(normal) < log_ratio
        moved = map(torch.where, (accepted[..., None], accepted, accepted[..., None]), proposal, current)
        return (*moved, *proposal, log_ratio, accepted, bounded)

    def _frozen(self, adaptation: DualAveraging) -> DualAveraging:
        """Return the state after adaptation. ValueError if step sizes tell of an improper target."""
        frozen = adaptation.frozen()
        improper = int((frozen.step_size > self.largest_step_size).sum())
        got = f"proposals accepted at any distance, by which {improper} of {len(self._z)} step sizes grew without bound"
        expected = f"a proper target of scales below {MAX_SCALE:g}, perhaps in units of an inverse_mass_matrix"
        self._require(not improper, "potential", got, expected)
        return frozen

    def _step_size_of_chains(self) -> Tensor:
        """Return the step sizes in a shape that broadcasts with z."""
        return self.step_size.view(-1, *[1] * (self._z.dim() - 1))

    def _compiled(self) -> CapturedPotential | None:
        """Return the potential if steps run as functions that it compiles."""
        return self.potential if isinstance(self.potential, CapturedPotential) and self.potential.compile else None

    def _run(self, method: str, length: int, *tensors: Tensor) -> Any:
        """Return ``self.method(length, *tensors)``, by a compiled function if there are such."""
        if (potential := self._compiled()) is None:
            return tuple(getattr(self, method)(length, *tensors))
        result = potential.run_compiled(self, method, length, self._rows_of_x, self._mass_factor, *tensors)
        self.num_gradients += length
        return result

    def _trajectory(
        self,
        state: ChainStates,
        v: Tensor,
        step_size: Tensor,
        length: int,
        visit: Callable[[ChainStates, Tensor], None] | None = None,
    ) -> tuple[ChainStates, Tensor]:
        """Return the state and v at the end of ``length`` leapfrog steps, and show both after each to ``visit``.

        The half steps of v at the end of a leapfrog step and at the beginning of the next are made as one.
        """
        factor, z, gradient = self._mass_factor, state.z, state.gradient
        drift, half_kick = update(factor, step_size), update(factor, step_size / -2, transposed=True)
        kick = update(factor, -step_size, transposed=True) if length > 1 else half_kick
        v = half_kick(v, gradient)
        for left in reversed(range(length)):
            z = drift(z, v)
            if left and visit is None:
                v = kick(v, gradient := self._gradient_at(z))
                continue
            state = ChainStates(z, *self._evaluate(z))
            end, gradient = half_kick(v, state.gradient), state.gradient
            if visit is not None:
                visit(state, end)
            v = kick(v, gradient) if left else end
        return state, v

    def _log_ratio(self, current: ChainStates, initial: Tensor, state: ChainStates, v: Tensor) -> Tensor:
        """Return log r of states (..., n, [chains,] d) that the trajectory from ``current``, ``initial`` reaches."""
        return (current.potential - state.potential + ((initial - v) * (initial + v)).sum(-1) / 2) / self.temperature

    def whitened(self, z: Tensor) -> Tensor:
        """Return F⁻¹ z of states (..., n, chains, d) or (..., n, d), by which M becomes the identity."""
        factor = self._mass_factor
        if factor is None:
            return z
        lone = factor.dim() > self._z.dim()
        if factor.dim() == 1 or factor.shape[-2] == 1:
            return z / (factor[:, 0] if lone else factor)
        rows = z[..., None, :] if lone else z
        solved = torch.linalg.solve_triangular(factor.mT, rows, upper=True, left=False)
        return solved[..., 0, :] if lone else solved

    def _tensors(self) -> dict[str, Tensor]:
        adaptation = {f"adaptation.{name}": tensor for name, tensor in self._adaptation._asdict().items()}
        return {**super()._tensors(), "accepted": self._accepted, "divergences": self._divergences, **adaptation}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self._adaptation = DualAveraging(*(tensors.pop(f"adaptation.{name}") for name in DualAveraging._fields))
        super()._restore(tensors)
        self.refresh()

    def _checked_step_size(self, step_size: float | Tensor) -> Tensor:
        n, result = len(self._z), torch.as_tensor(step_size, dtype=self._z.dtype, device=self._z.device).detach()
        fits = result.shape in ((), (n,))
        self._require(fits, "step_size", f"shape {tuple(result.shape)}", f"a number or shape ({n},)")
        self._require((result.isfinite() & (result > 0)).all(), "step_size", step_size, "finite, > 0")
        return result.expand(n).clone()

    def _checked_mass_factor(self, matrix: Tensor | None) -> Tensor | None:
        """Return F with F Fᵀ = M, as its diagonal where M is given so."""
        if matrix is None:
            return None
        name, d = "inverse_mass_matrix", self._z.shape[-1]
        matrix = matrix.to(self._z)
        n, shape = len(self._z), tuple(matrix.shape)
        fits = shape in ((d,), (d, d), (n, 1, d), (n, d, d))
        self._require(fits, name, f"shape {shape}", f"({d},), ({d}, {d}), ({n}, 1, {d}) or ({n}, {d}, {d})")
        if matrix.dim() == 1 or matrix.shape[-2] == 1:
            factor, positive = matrix.sqrt(), bool((matrix.isfinite() & (matrix > 0)).all())
        else:
            factor, failed = torch.linalg.cholesky_ex(matrix)
            positive = not bool(failed.any()) and torch.allclose(matrix, matrix.mT)
        self._require(positive, name, matrix.tolist(), "symmetric and positive definite")
        return factor


#: Methods that make a step; a sampler with others makes its steps by them, one by one.
STEPPING = MetropolisSampler.step, MetropolisSampler._advance, MetropolisSampler._propose
