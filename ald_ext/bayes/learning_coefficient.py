"""The local learning coefficient of a trained network, by chains that stay around its parameters.

Note [The estimate]
    Around parameters θ*, at which the mean loss L of n data has a local minimum, the tempered posterior

        p(θ) ∝ exp(-nβ·L(θ) - (γ/2)·‖θ - θ*‖²),      β = 1/T

    gives λ̂ = nβ·(E[L(θ)] - L(θ*)) (Lau et al. 2023), with T = log n where nothing else is said. For a regular model it
    tends to d/2; singular ones have less (Watanabe 2009). In the words of the optimizers p(θ) has num_data = n,
    temperature = T and localization = γ·T.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomically, write_json
from ..optim import PSGLD, SGHMC
from ..optim.base import LangevinOptimizer
from ..progress import progress_bar
from ..samplers.diagnostics import arviz_functions, monte_carlo_standard_error, r_hat
from ..settings import require, shortened
from .batches import BatchStream, dataset_length
from .loss_checks import scale_faults
from .network_chains import Loss, backward, batch_loss, trainable
from .pictures import new_figure

OWNER = "ald_ext.bayes.local_learning_coefficient"

#: Shares of the estimate that a check lets pass: half of the draws against the other, and twice the localization.
TOLERATED_SHARE = 0.1
#: Standard errors below which a check takes a difference for chance.
CHANCE = 3.0
LARGEST_R_HAT = 1.1
#: Steps from one look at the loss to the next, as a look waits for the device.
STEPS_BETWEEN_LOOKS = 100
#: Options of an optimizer that are no matter of choice here, with what there is in their place.
TAKEN = {
    "params": "all of the module that require a gradient move",
    "weight_decay": "localization is the prior; what else belongs to the loss is a part of loss",
    "anchors": "chains are pulled to the module's parameters, to which losses are compared",
    "maximize": "the loss is low where the module is likely",
    "chain": "chains are numbered from 0",
}


@dataclass(frozen=True)
class LearningCoefficient:
    """An estimate of the local learning coefficient, with what it was made of (Note [The estimate]).

    Args:
        estimate: λ̂, NaN if a chain diverged.
        standard_error: the larger of that between chains and that within them, which knows of autocorrelation.
        of_chains: (chains,) estimate of each chain.
        sensitivity: dλ̂/d log γ, from the covariance of loss and distance; far below λ̂ where γ decides nothing.
        r_hat: of the losses; near 1 where chains agree.
        losses: (chains, burn_in + num_steps) losses of the minibatches along the chains.
        start_losses: of the same minibatches at θ*.
        squared_distances: ‖θ - θ*‖² where the losses are.
        burn_in: how many of the first steps are left out.
        num_data: n.
        temperature: T.
        localization: γ.
        warnings: what was told of the settings.
    """

    estimate: float
    standard_error: float
    of_chains: Tensor
    sensitivity: float
    r_hat: float
    losses: Tensor
    start_losses: Tensor
    squared_distances: Tensor
    burn_in: int
    num_data: float
    temperature: float
    localization: float
    warnings: tuple[str, ...]

    @property
    def traces(self) -> Tensor:
        """(chains, burn_in + num_steps): nβ·(L(θ) - L(θ*)) of each minibatch, whose mean after burn-in is λ̂."""
        return self.num_data / self.temperature * (self.losses - self.start_losses)

    def save(self, path: str | Path) -> None:
        """Write all of it, traces too, as JSON; numbers that are not finite as null."""
        values = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        write_json(Path(path), values)

    def draw(self, path: str | Path) -> None:
        """Draw the traces and the estimates of the chains as a PNG. ImportError if matplotlib is missing."""
        traces, steps = self.traces.cpu(), self.losses.shape[1]
        figure = new_figure(OWNER, 9, 3.2)
        over_time, of_chains = figure.subplots(1, 2, width_ratios=[3, 1])
        width = max(1, steps // 100)
        means = traces[:, : steps // width * width].unflatten(1, (-1, width)).mean(2)
        over_time.plot(torch.arange(means.shape[1]) * width + width / 2, means.T, linewidth=0.9)
        over_time.axvspan(0, self.burn_in, color="0.9")
        over_time.axhline(self.estimate, color="black", linewidth=1.2)
        over_time.set(xlabel="step; burn-in is grey", ylabel="nβ (L(θ) - L(θ*))", xlim=(0, steps))
        of_chains.plot(range(len(traces)), self.of_chains, "o")
        of_chains.axhline(self.estimate, color="black", linewidth=1.2)
        low, high = self.estimate - 2 * self.standard_error, self.estimate + 2 * self.standard_error
        of_chains.axhspan(low, high, color="0.85")
        of_chains.set(xlabel="chain", title=f"{self.estimate:.3g} ± {self.standard_error:.2g}")
        of_chains.set_xticks(range(len(traces)))
        write_atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=110))


def local_learning_coefficient(
    module: nn.Module,
    loss: Loss,
    loader: Iterable[Any],
    *,
    lr: float,
    localization: float = 100.0,
    chains: int = 4,
    num_steps: int = 1000,
    burn_in: int = 1000,
    temperature: float | None = None,
    num_data: float | None = None,
    optimizer_class: type[LangevinOptimizer] = SGHMC,
    seed: int | None = None,
    show_progress: bool = False,
    **options: Any,
) -> LearningCoefficient:
    """Estimate the local learning coefficient of a trained module (Note [The estimate]; Lau et al. 2023).

    Chains of minibatch Langevin dynamics begin at the module's parameters θ*. Each minibatch's loss is compared with
    its loss at θ*, so that the noise of minibatches cancels. The module is left as it is; it runs in eval mode.

    Args:
        module: trained, at a local minimum; its parameters that require no gradient stay as they are.
        loss: mean loss of outputs and targets over a minibatch: a negative log likelihood.
        loader: minibatches (inputs …, targets), gone through as often as it takes, shuffled for good chains.
        lr: step size of ``optimizer_class`` > 0, of a mean loss. With c the largest curvature of L, plus γ/(nβ), SGHMC
            is stable below 4/c, and SGLD below 2/c with a bias of lr·c/2 there. The step ε of Lau et al.'s SGLD is
            lr = ε·nβ/2.
        localization: γ > 0; as small as keeps the chains around θ*.
        chains: ≥ 1, one after another, each with noise of its own.
        num_steps: ≥ 8 steps of a chain that count.
        burn_in: ≥ 0 steps before.
        temperature: T > 0; log n if None.
        num_data: n ≥ 3; None: the length of the loader's data set.
        optimizer_class: SGHMC, which gets along flat directions; SGLD, as in most of the literature; or another, with a
            preconditioner that is frozen after the burn-in.
        seed: of the noise, as for :class:`ald_ext.SGLD`. Minibatches are drawn by the loader.
        show_progress: show a progress bar.
        options: of the optimizer, such as ``momentum``; not those that would sample another distribution.

    Returns:
        The estimate with its standard error and traces. A UserWarning tells of chains that diverge, disagree or still
        drift, of an estimate that is negative beyond chance or depends on γ, of a loss that seems to be a sum, and of
        ``num_data`` that is not the length of the loader's dataset; a line of ``warnings`` each.

    Raises:
        ValueError: an argument out of its range or of another kind, minibatches of another form, or none.
        ImportError: arviz-stats is missing.
    """
    arviz_functions(OWNER)
    trainable(module, OWNER)
    is_ours = isinstance(optimizer_class, type) and issubclass(optimizer_class, LangevinOptimizer)
    require(is_ours, f"{OWNER}: optimizer_class", shortened(optimizer_class), "a Langevin optimizer of ald_ext")
    if num_data is None:
        num_data = dataset_length(loader)
        if num_data is None:
            lacks = "None beside a loader without a dataset that has a length"
            raise ValueError(f"{OWNER}: num_data: got {lacks}, expected the number of data")
    is_count = isinstance(num_data, Real) and 3 <= num_data < math.inf
    require(is_count, f"{OWNER}: num_data", repr(num_data), "a finite number >= 3")
    temperature = math.log(num_data) if temperature is None else temperature
    for name, value, least in (("chains", chains, 1), ("num_steps", num_steps, 8), ("burn_in", burn_in, 0)):
        require(isinstance(value, int) and value >= least, f"{OWNER}: {name}", value, f"an integer >= {least}")
    for name, number in (("lr", lr), ("localization", localization), ("temperature", temperature)):
        fits = isinstance(number, Real) and 0 < number < math.inf
        require(fits, f"{OWNER}: {name}", shortened(number), "a finite number > 0")
    for name, why in TAKEN.items():
        value = options.pop(name, None)
        is_set = isinstance(value, Iterable) or bool(value)
        require(not is_set, f"{OWNER}: {name}", shortened(value), f"none: {why}")
    num_data, temperature, localization = float(num_data), float(temperature), float(localization)
    options |= {"num_data": num_data, "temperature": temperature, "localization": localization * temperature}
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with progress_bar(total=chains * (burn_in + num_steps), desc="chains", unit="step", show=show_progress) as bar:
            results, told = [], list[str]()
            for chain in range(chains):
                walker = copy.deepcopy(module)
                params = trainable(walker, OWNER)
                optimizer = optimizer_class(params, lr=lr, seed=seed, chain=chain, **options)  # type: ignore[call-arg]
                seed = optimizer.param_groups[0]["seed"]  # one for all chains, and for all ranks
                batches: Iterator[Any] = BatchStream(loader, params[0].device)
                if chain == 0:
                    batch = next(batches)
                    told += scale_faults(OWNER, module, loss, loader, batch, [num_data])
                    batches = itertools.chain([batch], batches)
                results.append(run_chain(module, walker, optimizer, loss, batches, burn_in, burn_in + num_steps, bar))
    finally:
        for part, mode in training.items():
            part.training = mode
    losses, start_losses, squared_distances = (torch.stack(column) for column in zip(*results, strict=True))
    beta_n = num_data / temperature
    rises = beta_n * (losses - start_losses)[:, burn_in:]
    energies = localization / 2 * squared_distances[:, burn_in:]
    figures, seen = examine(rises, energies)
    told += seen
    for line in told:
        warnings.warn(line, stacklevel=2)
    return LearningCoefficient(
        **figures,
        of_chains=rises.mean(1),
        losses=losses,
        start_losses=start_losses,
        squared_distances=squared_distances,
        burn_in=burn_in,
        num_data=num_data,
        temperature=temperature,
        localization=localization,
        warnings=tuple(told),
    )


@torch.enable_grad()
def run_chain(
    module: nn.Module,
    walker: nn.Module,
    optimizer: LangevinOptimizer,
    loss: Loss,
    batches: Iterator[Any],
    burn_in: int,
    steps: int,
    bar: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return minibatch losses, those at θ*, and squared distances before each step, on the CPU; NaN once diverged."""
    params = optimizer.param_groups[0]["params"]
    starts = [param.detach() for param in trainable(module, OWNER)]
    differences = [torch.empty_like(start) for start in starts]  # new ones would be new pages in each step
    trace = []
    for step in range(steps):
        if step == burn_in and isinstance(optimizer, PSGLD):
            optimizer.freeze_preconditioner()
        batch = next(batches)
        walker.zero_grad()
        value = batch_loss(walker, loss, batch)
        backward(value)
        with torch.no_grad():
            torch._foreach_copy_(differences, params)
            torch._foreach_sub_(differences, starts)
            distance = torch.stack(torch._foreach_norm(differences)).double().square().sum()
            trace.append(torch.stack([value.double(), batch_loss(module, loss, batch).double(), distance]))
        if step % STEPS_BETWEEN_LOOKS == 0 and not trace[-1].isfinite().all():
            trace += [torch.full_like(trace[-1], math.nan)] * (steps - step - 1)
            bar.update(steps - step)
            break
        optimizer.step()
        bar.update()
    losses, start_losses, distances = torch.stack(trace).detach().cpu().T
    return losses, start_losses, distances


def examine(rises: Tensor, energies: Tensor) -> tuple[dict[str, float], list[str]]:
    """Return the figures of an estimate, and what is wrong with the settings.

    Args:
        rises: (chains, draws) of nβ·(L(θ) - L(θ*)).
        energies: (γ/2)·‖θ - θ*‖² there.
    """
    estimate = rises.mean().item()
    diverged = [chain for chain, rise in enumerate(rises) if not (rise + energies[chain]).isfinite().all()]
    if diverged:
        nan = {"estimate": math.nan, "standard_error": math.nan, "sensitivity": math.nan, "r_hat": math.nan}
        chains = ", ".join(map(str, diverged))
        return nan, [f"{OWNER}: chains {chains} diverged, and the estimate is NaN: a smaller lr keeps them stable"]
    error, told = standard_error(rises), []
    agreement = r_hat(as_samples(rises)).item()
    if agreement > LARGEST_R_HAT:
        who = "chains disagree" if len(rises) > 1 else "the halves of the chain disagree"
        of_chains = f", estimates {rises.mean(1).min():.3g} to {rises.mean(1).max():.3g}" if len(rises) > 1 else ""
        told.append(
            f"{OWNER}: {who} (R-hat {agreement:.2f}{of_chains}): more burn_in and num_steps, or a larger localization, "
            "may mend it"
        )
    halves = rises[:, : rises.shape[1] // 2], rises[:, rises.shape[1] // 2 :]
    drift = (halves[1].mean() - halves[0].mean()).item()
    chance = CHANCE * math.hypot(*map(standard_error, halves))
    if abs(drift) > max(chance, TOLERATED_SHARE * abs(estimate)):
        told.append(
            f"{OWNER}: the loss still drifts, by {drift:.3g} in the estimate from one half of the steps to the other: "
            "more burn_in is needed"
        )
    if estimate < -CHANCE * error:
        told.append(
            f"{OWNER}: the estimate is negative, {estimate:.3g} ± {error:.2g}: the chains found a lower loss, so the "
            "module is at no minimum; train it longer, or take a larger localization or a smaller lr"
        )
    covariances = ((rises - rises.mean(1, keepdim=True)) * (energies - energies.mean(1, keepdim=True))).mean(1)
    sensitivity = -covariances.mean().item()
    chance = 2 * covariances.std().item() / math.sqrt(len(covariances)) if len(covariances) > 1 else 0.0
    if math.log(2) * (abs(sensitivity) - chance) > TOLERATED_SHARE * abs(estimate):
        told.append(
            f"{OWNER}: localization decides: twice as much would change the estimate of {estimate:.3g} by about "
            f"{math.log(2) * sensitivity:.2g}; a smaller one lets the loss decide"
        )
    return {"estimate": estimate, "standard_error": error, "sensitivity": sensitivity, "r_hat": agreement}, told


def standard_error(rises: Tensor) -> float:
    """Return that of the mean of (chains, draws): the larger of that between chains and that within them."""
    within = monte_carlo_standard_error(as_samples(rises)).item()
    between = rises.mean(1).std().item() / math.sqrt(len(rises)) if len(rises) > 1 else 0.0
    return max(within, between)


def as_samples(rises: Tensor) -> Tensor:
    """Return (chains, draws) as samples of one datum of one dimension."""
    return rises.T[:, None, :, None]
