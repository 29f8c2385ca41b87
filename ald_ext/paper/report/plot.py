"""A plot of our figures as multiples of the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..pictures import new_picture, save_picture
from ..results import Results
from .metrics import best_value
from .tables import dataset_tables

#: Colours of bars that are better than the paper's figure, worse, and neither.
BETTER, WORSE, NEITHER = "#2a78b5", "#d9822b", "#888888"


@dataclass(frozen=True)
class Multiple:
    """One of our figures divided by the paper's, and the colour of its bar."""

    name: str
    value: float
    color: str


def multiples_of(results: Results) -> list[Multiple]:
    """Return those of every positive figure that the paper has too, without single classes where it has their mean."""
    multiples = []
    for dataset, table in dataset_tables(results)[0].items():
        of_classes = {metric for base, some in table.classes.items() if base in table.metrics for metric in some}
        for (model, metric), row in table.rows.items():
            if metric not in of_classes and row.mean is not None and row.paper is not None:
                if min(row.mean, row.paper) <= 0:
                    continue
                best = best_value(metric, [row.mean, row.paper])
                color = NEITHER if best is None or row.mean == row.paper else BETTER if best == row.mean else WORSE
                multiples.append(Multiple(f"{dataset}/{model} {metric}", row.mean / row.paper, color))
    return multiples


def plot_multiples(multiples: Sequence[Multiple], file: Path) -> None:
    """Draw bars from 1 on a logarithmic scale into a PNG file; the same values give the same bytes."""
    picture, axes = new_picture(1, 1, (8, 1.1 + 0.26 * len(multiples)))
    panel = axes[0, 0]
    places, values = range(len(multiples)), [multiple.value for multiple in multiples]
    bars = panel.barh(places, [value - 1 for value in values], left=1, color=[multiple.color for multiple in multiples])
    panel.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    # Room for the numbers at the ends of the bars, and some width where all values are near 1.
    least, greatest = min(0.8, *values) / 1.3, max(1.25, *values) * 1.3
    panel.set_xlim(least, greatest)
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if least <= tick <= greatest]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_yticks(places, [multiple.name.replace("$", r"\$") for multiple in multiples], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("ours divided by the paper's (blue: better, orange: worse)")
    save_picture(picture, file)
