"""Settings for the posterior of a network, from short chains: what a learning-rate finder is, for samplers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, takewhile
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..files import write_atomically, write_json
from ..optim import PSGLD, SGHMC, SGLD, SGNHT
from ..settings import require, shortened
from .network_chains import Loss
from .pictures import new_figure
from .short_chains import MEASUREMENTS, OWNER, LangevinClass, ShortChains, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Suggestion:
    """What :func:`suggest_settings` found.

    Attributes:
        settings: arguments of the optimizer: lr, num_data, temperature, and eps for PSGLD.
        reasons: why these, in sentences.
        trials: the short chains.
        optimizer: the name of its class.
        tolerance: by how much the variance of outputs may be too large.
        largest_temperature: what that allows, by Note [How hot a chain may be] of ``ald_ext/bayes/short_chains.py``.
    """

    settings: dict[str, float]
    reasons: list[str]
    trials: list[Trial]
    optimizer: str
    tolerance: float
    largest_temperature: float

    def draw(self) -> Figure:
        """Draw temperature, movement and loss of the trials over lr; the suggestion is a vertical line.

        Raises:
            ImportError: matplotlib is missing.
        """
        figure = new_figure(OWNER, 11, 3.2)
        panels = figure.subplots(1, 3)
        nominal = self.settings["temperature"]
        for eps in sorted({trial.eps for trial in self.trials}, key=lambda eps: eps or 0):
            trials = [trial for trial in self.trials if trial.eps == eps and not trial.diverged]
            label = None if eps is None else f"eps = {eps:g}"
            for axes, name in zip(panels, ("judged_temperature", "movement", "loss"), strict=True):
                values = [getattr(trial, name) for trial in trials]
                axes.plot([trial.lr for trial in trials], values, marker="o", markersize=3, label=label)
        panels[0].axhspan(0, self.largest_temperature, color="#808080", alpha=0.2)
        panels[0].axhline(nominal, color="black", linewidth=0.8)
        panels[0].set_ylim(0, 2 * self.largest_temperature)
        for axes, title in zip(panels, ("temperature", "movement of outputs", "loss"), strict=True):
            axes.axvline(self.settings["lr"], color="#c03030")
            for trial in self.trials:
                if trial.diverged:
                    axes.axvline(trial.lr, color="#808080", linestyle=":")
            axes.set_xscale("log")
            axes.set_xlabel("lr")
            axes.set_title(title, fontsize=10)
        if len({trial.eps for trial in self.trials}) > 1:
            panels[1].legend(fontsize=8)
        figure.suptitle(f"{self.optimizer}: red is the suggestion; dotted chains diverged", fontsize=10)
        return figure

    def save(self, folder: str | Path) -> None:
        """Write ``suggestion.json`` and ``suggestion.png`` to a folder, which is made.

        Raises:
            ImportError: matplotlib is missing; nothing is written then.
            OSError: a file cannot be written.
        """
        folder, figure = Path(folder), self.draw()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "suggestion.json", asdict(self))
        write_atomically(folder / "suggestion.png", lambda path: figure.savefig(path, dpi=100))


def suggest_settings(
    module: nn.Module,
    loss: Loss,
    loader: Iterable[Any],
    *,
    optimizer: LangevinClass = SGLD,
    params: Sequence[Any] | None = None,
    num_data: float | None = None,
    temperature: float = 1.0,
    lrs: Sequence[float] | None = None,
    warm_up: int = 1000,
    num_steps: int = 200,
    tolerance: float = 0.25,
    seed: int = 0,
    progress: bool = False,
) -> Suggestion:
    """Suggest the lr of a sampling optimizer, and PSGLD's eps, from short chains over a grid.

    All chains begin where a copy of the module is after a short optimization by Adam, and run with the minibatches of
    the loader. The suggestion is the last lr before the chains are too hot, by Note [How hot a chain may be] of
    ``ald_ext/bayes/short_chains.py``: larger steps sample another distribution, smaller ones take longer to get around.
    Of several eps, the one that moves the outputs farthest is taken. The module, torch's generators and the loader's
    generator are left as they were.

    Args:
        module: the network, in the mode (training or evaluation) in which it will be sampled.
        loss: of outputs and targets, the mean over the minibatch.
        loader: minibatches (inputs, …, targets), as of a DataLoader; the whole of it is read for each measurement.
        optimizer: a class, SGLD, PSGLD, SGHMC or SGNHT.
        params: parameter groups whose ``weight_decay`` is the prior; None for all parameters with a flat prior. They
            may have ``momentum``, ``diffusion`` or ``alpha``, but no settings that are suggested.
        num_data: N; None for ``len(loader.dataset)``.
        temperature: T > 0.
        lrs: the grid, > 0; None for ten, by factors of 2 up to the largest that the curvature allows.
        warm_up: number of steps of the optimization.
        num_steps: number of steps of each chain, of which the second half is measured.
        tolerance: by how much the variance of outputs may be too large, as a share of that of the posterior.
        seed: of the noise, and of the minibatches of a loader without a generator of its own.
        progress: show a progress bar.

    Raises:
        ValueError: an argument out of its range; a loss that is not one finite number; no lr of the grid that is good.

    Warns:
        UserWarning: the loss seems to be a sum; ``num_data`` is not the length of the loader's dataset; the largest lr
            of the grid is still good.
    """
    fits = optimizer in (SGLD, PSGLD, SGHMC, SGNHT)
    require(fits, f"{OWNER}: optimizer", shortened(optimizer), "SGLD, PSGLD, SGHMC or SGNHT")
    for name, count, least in (("warm_up", warm_up, 0), ("num_steps", num_steps, 2 * MEASUREMENTS)):
        require(isinstance(count, int) and count >= least, f"{OWNER}: {name}", count, f"an integer >= {least}")
    for name, value in (("temperature", temperature), ("tolerance", tolerance)):
        fits = isinstance(value, Real) and 0 < value < math.inf
        require(fits, f"{OWNER}: {name}", shortened(value), "a finite number > 0")
    temperature, tolerance = float(temperature), float(tolerance)
    if lrs is not None:
        found: Any = lrs.tolist() if hasattr(lrs, "tolist") else lrs  # of an array
        fits = isinstance(found, (list, tuple)) and len(found) > 0 and all(isinstance(lr, Real) for lr in found)
        lrs = list(map(float, found)) if fits else []
        fits = fits and all(0 < lr < math.inf for lr in lrs)
        require(fits, f"{OWNER}: lrs", shortened(found), "finite numbers > 0, one at least")
    generator = getattr(loader, "generator", None)
    state = None if generator is None else generator.get_state()
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            chains = ShortChains(module, params, loss, loader, optimizer, num_data, temperature, seed)
            trials = chains.run(lrs, warm_up, num_steps, progress)
    finally:
        if generator is not None:
            generator.set_state(state)
    limit = chains.largest_temperature(tolerance)
    best, following = choose(trials, limit)
    if following is None:
        warnings.warn(
            f"{OWNER}: lrs: got the largest of the grid, {best.lr:.3g}, as the best, expected larger ones, too",
            stacklevel=2,
        )
    settings = {"lr": best.lr, "num_data": chains.num_data, "temperature": temperature}
    if best.eps is not None:
        settings["eps"] = best.eps
    reasons = [
        f"The chains began where Adam had come to in {warm_up} steps, at a loss of {chains.start_loss:.3g}. They may "
        f"be as hot as {limit:.3g}.",
        *reasons_for(best, following),
    ]
    if (best.temperature or 0.0) < 0.8 * temperature:
        reasons.append("That chain was below T: it had not yet got around, so that a long burn-in is needed.")
    return Suggestion(settings, reasons, trials, optimizer.__name__, tolerance, limit)


def choose(trials: list[Trial], limit: float) -> tuple[Trial, Trial | None]:
    """The last lr of each eps before a chain is too hot, of these the one that moves outputs farthest; the next lr."""
    best: Trial | None = None
    for eps in {trial.eps: None for trial in trials}:
        chains = [trial for trial in trials if trial.eps == eps]
        heats = [math.inf if t.judged_temperature is None else t.judged_temperature for t in chains]
        # Chains of small lr have not forgotten the heat of their start: the first after which it rises comes first.
        first = next((place for place, (heat, later) in enumerate(pairwise(heats)) if later >= heat), len(heats) - 1)
        good = [
            trial
            for trial, _ in takewhile(lambda pair: pair[1] <= limit, zip(chains[first:], heats[first:], strict=True))
        ]
        if good and (best is None or (good[-1].movement or 0) > (best.movement or 0)):
            best = good[-1]
    if best is None:
        heat = trials[0].judged_temperature
        got = "a chain that diverged" if heat is None else f"a temperature of {heat:.3g}"
        raise ValueError(
            f"{OWNER}: lrs: got {got} at the smallest, {trials[0].lr:.3g}, expected at most {limit:.3g}: "
            "try smaller ones, larger minibatches or a longer warm_up"
        )
    return best, next((trial for trial in trials if trial.eps == best.eps and trial.lr > best.lr), None)


def reasons_for(best: Trial, following: Trial | None) -> Iterator[str]:
    """What speaks for a trial, and against the next larger lr."""
    momenta = "" if best.kinetic_temperature is None else f", the kinetic {best.kinetic_temperature:.3g}"
    yield (
        f"At lr = {best.lr:.3g} the configurational temperature was {best.temperature:.3g} ± "
        f"{best.temperature_error:.2g}{momenta}, the loss {best.loss:.3g}. Minibatches add {best.noise_ratio:.1%} to "
        "the variance of the injected noise."
    )
    if following is not None:
        heat, kinetic = following.temperature, following.kinetic_temperature
        momenta = "" if kinetic is None else f", the kinetic {kinetic:.3g}"
        what = "the chain diverged" if heat is None else f"it was {heat:.3g}{momenta}, the loss {following.loss:.3g}"
        yield f"At the next lr of the grid, {following.lr:.3g}, {what}."
    if best.eps is not None:
        yield f"Of the eps, {best.eps:g} moved the outputs farthest."
