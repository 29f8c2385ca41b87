"""Whether chains of a network have converged, seen in its predictions, and at which temperature they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..files import write_atomically, write_json
from ..samplers import effective_sample_size, monte_carlo_standard_error, r_hat
from ..settings import require
from .parameter_samples import PosteriorSamples
from .pictures import new_figure
from .prediction import Kind, sampled_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: R-hat below which chains agree (Vehtari et al. 2021).
AGREEING = 1.01


@dataclass(frozen=True)
class PosteriorDiagnosis:
    """What the predictions of probe inputs say of chains of a network.

    Args:
        num_chains: number of chains.
        num_draws: number of samples of each: those of the shortest chain.
        ess: effective sample size over all chains of each predicted value, (n, values).
        r_hat: potential scale reduction of each, (n, values); of a single chain, that of its halves.
        temperature: mean of θ·∇U/d over the steps past the burn-in in ``samples.trace``; it is the optimizer's T if
            the step is small enough and the chain has converged. None without a trace.
        temperature_error: Monte Carlo standard error of the temperature.
        worst: the predicted value with the largest R-hat, (draws, chains).
        steps: what ``samples.trace`` has.
    """

    num_chains: int
    num_draws: int
    ess: Tensor
    r_hat: Tensor
    temperature: float | None = None
    temperature_error: float | None = None
    worst: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    steps: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def summary(self) -> dict[str, Any]:
        """Return plain values: ESS and R-hat in a few quantiles, and the temperature."""
        levels = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], dtype=torch.float64)
        quantiles = {
            name: dict(zip(("min", "5%", "median", "95%", "max"), finite_quantiles(values, levels), strict=True))
            for name, values in (("ess", self.ess), ("r_hat", self.r_hat))
        }
        agreeing = (self.r_hat < AGREEING).double().mean().item()
        return {
            "num_chains": self.num_chains,
            "num_draws": self.num_draws,
            **quantiles,
            f"r_hat_below_{AGREEING}": agreeing,
            "temperature": self.temperature,
            "temperature_error": self.temperature_error,
        }

    def save(self, folder: Path | str) -> None:
        """Write ``diagnosis.json``, the summary with all values, and the picture ``diagnosis.png``.

        Raises:
            ImportError: matplotlib is missing.
            OSError: a file cannot be written.
        """
        folder, figure = Path(folder), self.draw()
        folder.mkdir(parents=True, exist_ok=True)
        values = {"ess_of_predictions": self.ess.tolist(), "r_hat_of_predictions": self.r_hat.tolist()}
        write_json(folder / "diagnosis.json", {**self.summary(), **values, "steps": self.steps})
        write_atomically(
            folder / "diagnosis.png", lambda file: figure.savefig(file, dpi=100, metadata={"Software": None})
        )

    def draw(self) -> Figure:
        """Return the picture: loss and temperature over time, ESS and R-hat, and a predicted value of each chain."""
        figure = new_figure("ald_ext.bayes.diagnose", 10, 6)
        loss, temperature, traces, ess, rank = figure.subplot_mosaic("aabbcc;dddeee").values()
        chains = sorted({row["chain"] for row in self.steps})
        for chain in chains:
            rows = [row for row in self.steps if row["chain"] == chain]
            steps = [row["step"] for row in rows]
            loss.plot(steps, [row["loss"] for row in rows], linewidth=0.8)
            sampling = [row for row in rows if row["sampling"] and row["temperature"] is not None]
            values = torch.tensor([row["temperature"] for row in sampling])
            means = values.cumsum(0) / torch.arange(1, len(values) + 1)
            temperature.plot([row["step"] for row in sampling], means.tolist(), linewidth=1)
        loss.set(title="Loss of the minibatch", xlabel="step")
        temperature.set(title="Temperature θ·∇U/d, running mean", xlabel="step")
        if self.temperature is not None:
            label = f"{self.temperature:.3g} ± {self.temperature_error:.2g} over all"
            temperature.axhline(self.temperature, color="black", linestyle=":", linewidth=1, label=label)
            temperature.legend(fontsize=8)
        traces.plot(self.worst.numpy(), linewidth=0.8)
        traces.set(title="Prediction with the largest R-hat", xlabel="sample")
        ess.hist(finite(self.ess).tolist(), bins=30, color="#2060b0")
        ess.axvline(self.num_draws * self.num_chains, color="black", linestyle=":", label="number of samples")
        ess.set(title="Effective sample size of predictions")
        ess.legend(fontsize=8)
        rank.hist(finite(self.r_hat).tolist(), bins=30, color="#2060b0")
        rank.axvline(AGREEING, color="black", linestyle=":", label=f"{AGREEING}")
        rank.set(title="R-hat of predictions")
        rank.legend(fontsize=8)
        return figure


def finite(values: Tensor) -> Tensor:
    """Return the values that are finite."""
    return values[values.isfinite()]


def finite_quantiles(values: Tensor, levels: Tensor) -> list[float]:
    """Return quantiles of the values that are finite; NaN if none is."""
    found = finite(values.flatten().double())
    return (torch.quantile(found, levels) if len(found) else torch.full_like(levels, float("nan"))).tolist()


def diagnose(
    samples: PosteriorSamples,
    module: nn.Module,
    probe: Tensor,
    *,
    kind: Kind = "classification",
    batch_size: int | None = None,
    batch_norm_loader: Iterable[Any] | None = None,
    folder: Path | str | None = None,
) -> PosteriorDiagnosis:
    """Return effective sample size and R-hat of predictions over chains, and the temperature of the run.

    Parameters of a network have symmetries, along which chains need not agree: units of a layer may be swapped.
    Predictions are what has to agree. A single chain does not tell whether others would go elsewhere: run several.

    Args:
        samples: of one chain or several, of four samples at least; ``samples.trace`` gives the temperature.
        module, kind, batch_size, batch_norm_loader: see :func:`predict`, also for errors.
        probe: inputs (n, …), some tens of them: each predicted value takes about a millisecond.
        folder: where ``diagnosis.json`` and ``diagnosis.png`` are written; None writes nothing.

    Raises:
        ValueError: fewer than four samples of a chain, or chains with equal predictions, by the same noise by mistake.
        ImportError: arviz-stats is missing, or, for a folder, matplotlib.
        OSError: the folder does not take the files.
    """
    chains = [samples.chain(number) for number in samples.chains]
    num_draws = min(map(len, chains), default=0)
    require(num_draws >= 4, "ald_ext.bayes.diagnose: samples", f"{num_draws} of a chain", "four at least")
    options = (kind, batch_size, batch_norm_loader, "diagnose")
    values = [torch.cat(list(sampled_values(chain[-num_draws:], module, probe, *options))) for chain in chains]
    predictions = torch.stack([each.flatten(1).unflatten(1, (len(probe), -1)) for each in values], 2)
    ranks = r_hat(predictions)
    worst = int(torch.where(ranks.isfinite(), ranks, 0).argmax())
    diagnosis = PosteriorDiagnosis(
        len(chains),
        num_draws,
        effective_sample_size(predictions),
        ranks,
        *temperature_of(samples.trace),
        predictions[:, worst // ranks.shape[1], :, worst % ranks.shape[1]],
        samples.trace,
    )
    if folder is not None:
        diagnosis.save(folder)
    return diagnosis


def temperature_of(trace: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Return the mean temperature while sampling, over all chains, and its standard error; None without one."""
    by_chain: dict[int, list[float]] = {}
    for row in trace:
        if row["sampling"] and row["temperature"] is not None:
            by_chain.setdefault(row["chain"], []).append(row["temperature"])
    length = min(map(len, by_chain.values()), default=0)
    if length < 4:
        return None, None
    values = torch.tensor([chain[-length:] for chain in by_chain.values()], dtype=torch.float64)
    return float(values.mean()), float(monte_carlo_standard_error(values.T[:, None, :, None]))
