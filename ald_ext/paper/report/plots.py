"""Ours as multiples of the paper's figures, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..results import Results
from .comparison import best_value, figures_of

#: Colours of what is better than the paper's, worse, and of what is not known to be either.
BETTER, WORSE, UNKNOWN = "#2a78b5", "#d9822b", "#888888"
#: On a scale that powers of ten would leave almost empty.
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class Ratio:
    """Ours divided by the paper's, and the bar's colour."""

    name: str
    value: float
    color: str


def ratios_of(results: Results) -> list[Ratio]:
    """Of every positive figure that the paper has, too; without those of single classes where there is their mean."""
    ratios = []
    for figures in figures_of(results)[0]:
        of_classes = figures.of_classes()
        single = {metric for base, members in of_classes.items() if base in figures.metrics for metric in members}
        for (model, metric), row in figures.rows.items():
            if metric not in single and row.mean is not None and row.paper is not None and min(row.mean, row.paper) > 0:
                color = color_of(metric, row.mean, row.paper)
                ratios.append(Ratio(f"{figures.dataset}/{model} {metric}", row.mean / row.paper, color))
    return ratios


def color_of(metric: str, ours: float, paper: float) -> str:
    best = best_value(metric, [ours, paper])
    if best is None or ours == paper:
        return UNKNOWN
    return BETTER if best == ours else WORSE


def draw_ratios(ratios: Sequence[Ratio], file: Path) -> None:
    """Bars from 1 on a logarithmic scale, as a PNG; the same bytes for the same ratios."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(8, 1.1 + 0.26 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    places = range(len(ratios))
    axes.barh(places, [ratio.value - 1 for ratio in ratios], left=1, color=[ratio.color for ratio in ratios])
    for place, ratio in zip(places, ratios, strict=True):
        offset = 3 if ratio.value >= 1 else -3
        axes.annotate(
            f"{ratio.value:.3g}",
            (ratio.value, place),
            (offset, 0),
            textcoords="offset points",
            ha="left" if offset > 0 else "right",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    # Room for the numbers at the ends of the bars, and some width where all ratios are near 1.
    least, greatest = min(0.8, *(ratio.value for ratio in ratios)), max(1.25, *(ratio.value for ratio in ratios))
    axes.set_xlim(least / 1.3, greatest * 1.3)
    if greatest / least < 30:
        axes.set_xticks([tick for tick in TICKS if least / 1.3 <= tick <= greatest * 1.3])
    axes.set_yticks(places, [ratio.name.replace("$", r"\$") for ratio in ratios], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("ours divided by the paper's (blue: better, orange: worse)")
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
