"""One posterior in one call: parameters by name, chains, warm-up, draws, diagnostics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..ops import draw_seed
from ..settings import check_device, require
from . import diagnostics
from .adaptation import ADAPTABLE
from .adaptation import warm_up as adapt
from .captured import CapturedPotential
from .collection import Collector, SampleStorage
from .datapoint import DatapointSampler
from .dynamic_hmc import DynamicHMC
from .export import chain_first, data_tree, write_netcdf
from .parameters import ParameterSpace, batched_log_density, leaves, structured
from .streaming import StreamingMoments

if TYPE_CHECKING:
    from xarray import DataTree

OWNER = "ald_ext.samplers.sample"

#: Unconstrained parameters begin uniformly on (-START, START), as in Stan; times that a bad start is drawn anew.
START, ATTEMPTS = 2.0, 100

#: From which R-hat on chains are told to disagree.
LARGE_R_HAT = 1.05

#: What to do about divergences.
REMEDY = "write the model in other parameters, or try kernel=partial(DynamicHMC, target_acceptance=0.95)"


class Posterior:
    """What :func:`sample` returns: draws of named parameters, and how good they are.

    Args:
        space: the bijection between parameters and the sampler's z.
        storage: draws of z, (draws, 1, chains, d).
        sampler: the sampler that made them.
        warm_up_divergences: its ``divergences`` before.

    Attributes:
        samples: the draws in the structure of the parameters, each (draws, chains, *shape).
        sampler: the sampler, which can go on; its z are the unconstrained parameters, (1, chains, d).
        num_gradients: gradients that each chain took, in warm-up and sampling.
        divergences: the number of transitions of each chain that diverged after the warm-up, (chains,) int64.
    """

    def __init__(
        self, space: ParameterSpace, storage: SampleStorage, sampler: DatapointSampler, warm_up_divergences: Tensor
    ) -> None:
        self._space, self.sampler = space, sampler
        self._diverging = storage.diverging
        self.samples = space.constrain(storage.samples[:, 0])[0]
        self.num_gradients = sampler.num_gradients
        self.divergences = (sampler.divergences - warm_up_divergences)[0]

    @property
    def mean(self) -> Any:
        """The means of the draws of all chains, in the structure of the parameters."""
        return self._each(lambda draws: draws.flatten(0, 1).double().mean(0))

    @property
    def standard_deviation(self) -> Any:
        """The standard deviations of the draws, in the structure of the parameters."""
        return self._each(lambda draws: draws.flatten(0, 1).double().std(0))

    @property
    def effective_sample_size(self) -> Any:
        """The effective sample sizes, by :func:`effective_sample_size`, in the structure of the parameters."""
        return self._diagnosed(diagnostics.effective_sample_size)

    @property
    def r_hat(self) -> Any:
        """R-hat, by :func:`r_hat`, in the structure of the parameters; below 1.01 where chains agree."""
        return self._diagnosed(diagnostics.r_hat)

    @property
    def summary(self) -> dict[str, dict[str, Tensor]]:
        """The table of :func:`summarize` of each parameter by its name: mean, sd, mcse, ess_bulk, ess_tail, r_hat."""
        tables = {name: diagnostics.summarize(_as_datum(draws)) for name, draws in self._leaves().items()}
        shapes = self._space.shapes
        return {
            name: {statistic: values.reshape(shapes[name]) for statistic, values in table.items()}
            for name, table in tables.items()
        }

    def to_inference_data(self) -> DataTree:
        """Return the draws for ArviZ, a variable for each parameter. ImportError if arviz-base is missing."""
        draws = {name or "z": chain_first(values[:, None])[:, :, 0] for name, values in self._leaves().items()}
        groups: dict[str, Any] = {"posterior": draws}
        if self._diverging is not None:
            groups["sample_stats"] = {"diverging": self._diverging[:, 0].mT.cpu().numpy()}
        sampler = self.sampler
        return data_tree(groups, None, {"sampler": type(sampler).__name__, "seed": sampler.seed})

    def save_netcdf(self, path: Path | str) -> None:
        """Write :meth:`to_inference_data` as netCDF, whole or not at all. ImportError if h5netcdf is missing."""
        write_netcdf(path, self.to_inference_data())

    def _leaves(self) -> dict[str, Tensor]:
        return leaves(self.samples)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Any:
        return structured(self._space.structure, {name: function(draws) for name, draws in self._leaves().items()})

    def _diagnosed(self, statistic: Callable[[Tensor], Tensor]) -> Any:
        return self._each(lambda draws: statistic(_as_datum(draws)).reshape(draws.shape[2:]))


def sample(
    log_density: Callable[[Any], Tensor],
    parameters: Any,
    *,
    constraints: Any = None,
    num_samples: int = 1000,
    warm_up: int = 300,
    chains: int | None = None,
    kernel: Callable[..., DatapointSampler] = DynamicHMC,
    mass_matrix: str = "auto",
    batched: bool = False,
    compile: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Posterior:
    """Draw samples of one posterior, by chains that run side by side, with all settings found in a warm-up.

        def log_density(p):
            return Normal(x @ p["weight"], p["scale"]).log_prob(y).sum() + Exponential(1.0).log_prob(p["scale"])

        posterior = sample(log_density, {"weight": (3,), "scale": ()}, constraints={"scale": constraints.positive})

    Chains are compared at the end: where R-hat is above 1.05, or transitions diverged, a UserWarning says so.

    Args:
        log_density: log p, up to a constant, of one set of parameters, which are in the structure of ``parameters``:
            a tensor with one element. It is called through ``torch.func.vmap`` and traced, so that it may not look at
            values (ald_ext.samplers.captured, Note [Captured potentials]).
        parameters: shapes, as tuples, or starts, as floating-point tensors (chains, *shape): one, or a dictionary of
            them, which may be nested. Those of which the shape is given start where unconstrained parameters are
            uniform on (-2, 2), drawn anew where the density is not finite.
        constraints: constraints of ``torch.distributions.constraints`` in the same structure, of some parameters.
        num_samples: draws of each chain.
        warm_up: number of steps of :func:`warm_up`, which are no samples.
        chains: number of chains; None stands for as many as there are starts, or 16.
        kernel: the sampler, called as kernel(potential, None, z, seed=seed), such as ``partial(MALA, step_size=0.1)``.
            :func:`warm_up` adapts those that it can.
        mass_matrix: see :func:`warm_up`.
        batched: whether ``log_density`` takes parameters (batch, *shape) and returns (batch,).
        compile: see :class:`CapturedPotential`.
        dtype, device: of parameters given by shapes; None stands for torch's default.
        seed: seed of starts and noise, 0 ≤ seed < 2^63; None draws one from torch's default generator.
        progress: whether to show progress bars.

    Raises:
        ValueError: an argument out of its range; a log density that cannot be traced, or returns another shape; starts
            where it is not finite; an improper posterior, see :class:`MetropolisSampler`.
        ImportError: progress without tqdm.
    """
    enough = isinstance(num_samples, Integral) and num_samples >= 4
    require(enough, f"{OWNER}: num_samples", repr(num_samples), "an integer >= 4")
    seed = draw_seed() if seed is None else seed
    in_range = isinstance(seed, int) and 0 <= seed < 2**63
    require(in_range, f"{OWNER}: seed", repr(seed), "an integer, 0 <= seed < 2**63")
    if device is not None:
        check_device(str(device), f"{OWNER}: device")
    space, given, chains = _read_parameters(parameters, constraints, chains)
    like = next(iter(given.values()), torch.empty(0, dtype=dtype, device=device))
    fits = like.dtype in (torch.float32, torch.float64)
    require(fits, f"{OWNER}: dtype", like.dtype, "torch.float32 or torch.float64")
    require(dtype in (None, like.dtype), f"{OWNER}: dtype", dtype, f"{like.dtype}, as of the starts")
    density = batched_log_density(OWNER, space, log_density, batched=batched)
    potential = CapturedPotential(lambda _, y: -density(y), compile=compile)
    z = _starts(space, given, potential, like.new_empty(chains, space.dimension), seed)
    sampler = kernel(potential, None, z[None], seed=seed)
    if isinstance(sampler, ADAPTABLE):
        adapt(sampler, warm_up, mass_matrix=mass_matrix, progress=progress)
        burn_in = 0
    else:
        burn_in = warm_up
    before = sampler.divergences.clone()
    collector = Collector(sampler, into=(storage := SampleStorage()), burn_in=burn_in, progress=progress)
    collector._run(num_samples)
    collector.monitor.tell("sample", stacklevel=3, remedy=REMEDY)
    posterior = Posterior(space, storage, sampler, before)
    moments = StreamingMoments()
    for draw in storage.samples[:: max(num_samples // moments.num_batches, 1)]:
        moments.append(draw)
    if (worst := moments.r_hat.max().item()) > LARGE_R_HAT:
        warnings.warn(
            f"{OWNER}: chains disagree: R-hat is up to {worst:.2f}, expected below {LARGE_R_HAT}: draw more samples, "
            "after a longer warm-up, or look for several modes",
            stacklevel=2,
        )
    return posterior


def _read_parameters(parameters: Any, constraints: Any, chains: int | None) -> tuple[ParameterSpace, Any, int]:
    """Return the space of parameters, the starts that are given by name, and the number of chains."""
    given = {name: leaf for name, leaf in leaves(parameters).items() if isinstance(leaf, Tensor)}
    for name, start in given.items():
        argument, got = f"{OWNER}: parameters: {name}".rstrip(": "), f"shape {tuple(start.shape)}, {start.dtype}"
        require(start.is_floating_point() and start.dim() > 0, argument, got, "floating-point starts (chains, ...)")
        chains = len(start) if chains is None else chains
        expected = f"({chains}, ...), a start for each chain; a shape alone is a tuple, such as {tuple(start.shape)}"
        require(len(start) == chains, argument, got, expected)
        same = start.dtype == (first := next(iter(given.values()))).dtype and start.device == first.device
        require(same, argument, f"{start.dtype} on {start.device}", f"{first.dtype} on {first.device}, as of others")
    chains = 16 if chains is None else chains
    enough = isinstance(chains, Integral) and chains >= 2
    require(enough, f"{OWNER}: chains", repr(chains), "an integer >= 2, as chains are compared")
    shapes = {name: tuple(leaf.shape[1:]) if name in given else leaf for name, leaf in leaves(parameters).items()}
    return ParameterSpace(OWNER, structured(parameters, shapes), constraints), given, chains


def _starts(
    space: ParameterSpace, given: dict[str, Tensor], potential: CapturedPotential, z: Tensor, seed: int
) -> Tensor:
    """Return unconstrained starts (chains, d) where the potential is finite."""
    fixed = {
        name: space.unconstrain(f"{OWNER}: parameters: {name}".rstrip(": "), name, start.detach())
        for name, start in given.items()
    }
    generator, bad = torch.Generator().manual_seed(seed), torch.ones(len(z), dtype=torch.bool)
    for _ in range(ATTEMPTS):
        drawn = (2 * torch.rand(z.shape, generator=generator, dtype=torch.float64) - 1) * START
        z = torch.where(bad[:, None].to(z.device), drawn.to(z), z)
        parts = dict(zip(space.shapes, z.split(space.sizes, -1), strict=True))
        z = torch.cat([fixed.get(name, part) for name, part in parts.items()], 1)
        with torch.no_grad():  # as in the sampler, which torch.compile looks at
            value, gradient = potential.value_and_gradient(None, z)
        bad = ~(value.isfinite() & gradient.isfinite().all(1)).cpu()
        if not bad.any() or len(fixed) == len(parts):
            break
    got = f"one that is not finite, or has no finite gradient, at {int(bad.sum())} of {len(z)} starts"
    require(not bad.any(), f"{OWNER}: log_density", got, "other starts, or constraints= that keep parameters inside")
    for name, part in zip(space.shapes, gradient.split(space.sizes, -1), strict=True):
        if name not in fixed and not part.any():
            warnings.warn(
                f"{OWNER}: log_density: got one without a gradient for {name or 'z'!r} at any start, expected one that "
                "depends on it by tensor operations, and neither detaches it nor is under torch.no_grad",
                stacklevel=3,
            )
    return z


def _as_datum(draws: Tensor) -> Tensor:
    """Return draws (draws, chains, *shape) as (draws, 1, chains, d)."""
    return draws.flatten(2)[:, None] if draws.dim() > 2 else draws[:, None, :, None]
