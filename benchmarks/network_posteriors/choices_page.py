"""Writes docs/results/choices.md and its picture from choices.json.

python -m benchmarks.network_posteriors.choices_page [--results benchmarks/results] [--page docs/results]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ald_ext.files import write_atomically

from .choices import CHAINS, DRAWS, FILE, SETS, STEPS, WARM_UP
from .page import table

PICTURE = "choices.png"
TITLES = {"made on": "Problems the rule was made on", "unseen": "Problems it had not seen"}
COLUMNS = [
    "problem",
    "optimizer",
    "suggested",
    "best of the grid",
    "ratio",
    "distance",
    "at the best",
    "a chain of HMC",
    "seconds",
]


def curve(row: dict[str, Any]) -> list[tuple[float, float]]:
    """The grid and its distances, without chains that diverged."""
    pairs = zip(row["grid"], row["distances"], strict=True)
    return [(lr, distance) for lr, distance in pairs if distance is not None]


def section(name: str, rows: list[dict[str, Any]]) -> str:
    """The table of a set, and how many suggestions are within a factor of 2."""
    cells = []
    for row in rows:
        low, high = min(row["best_lrs"]), max(row["best_lrs"])
        at, least = dict(curve(row))[row["suggested_lr"]], min(distance for _, distance in curve(row))
        best = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        shown = [row["problem"], row["optimizer"], row["suggested_lr"], best, row["ratio"]]
        cells.append([*shown, f"{at:.4f}", f"{least:.4f}", f"{row['exact_distance']:.4f}", f"{row['seconds']:.1f}"])
    near = sum(0.5 <= row["ratio"] <= 2 for row in rows)
    return f"""## {TITLES[name]}

{near} of {len(rows)} suggestions are within a factor of 2 of the best.

{table(COLUMNS, cells)}
"""


def page(results: dict[str, Any]) -> str:
    """The text, of the sets that there are."""
    run = results["run"]
    head = f"""# The lr of suggest_settings

Written by `python -m benchmarks.network_posteriors.choices_page` from what `{run["origin"]}`
measured on {run["machine"]["cpu"]}, torch {run["versions"]["torch"]}.

Chains of {STEPS:,} steps with the suggested lr, and with others by factors of 2, from {CHAINS} optima, where
{WARM_UP:,} steps of Adam had led. Of each chain the likelihood of held-out data is averaged over the last three
quarters. The distance is the mean absolute difference of its logarithm from that of {CHAINS * DRAWS} draws of HMC, in
nats; how far a quarter of these is from all of them says what the smallest distances are worth. The best lr is that of
the smallest distance, and so is every other whose distance is within a standard error of it; the ratio is that of the
suggestion to the nearest of them. What is best depends on the number of steps: more of them allow smaller ones. Seconds
are CPU time of the suggestion, on one thread of a busy machine.

![Distance from the posterior over lr: dots are best, the line is the suggestion]({PICTURE})
"""
    return "\n".join([head, *(section(name, results[name]) for name in SETS if name in results)])


def draw(results: dict[str, Any]) -> Figure:
    """The distance over lr of each problem; dots are those that count as best, red lines suggestions."""
    rows = [(name, row) for name in SETS for row in results.get(name, [])]
    columns = 5
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(13, 2.4 * lines), layout="constrained")
    for number, (name, row) in enumerate(rows):
        axes = figure.add_subplot(lines, columns, number + 1)
        points, errors = curve(row), [error for error in row["standard_errors"] if error is not None]
        axes.errorbar(*zip(*points, strict=True), errors, color="#2060b0")
        axes.plot(row["best_lrs"], [dict(points)[lr] for lr in row["best_lrs"]], "o", color="#2060b0")
        axes.axvline(row["suggested_lr"], color="#c03030")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{row['problem']},\n{row['optimizer']}{' (not seen)' if name == 'unseen' else ''}", fontsize=8)
        axes.tick_params(labelsize=7, which="both")
    figure.supxlabel("lr", fontsize=9)
    figure.supylabel("distance from the posterior", fontsize=9)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    results = json.loads((options.results / FILE).read_text())
    options.page.mkdir(parents=True, exist_ok=True)
    write_atomically(options.page / "choices.md", lambda path: path.write_text(page(results)))
    write_atomically(options.page / PICTURE, lambda path: draw(results).savefig(path, dpi=100))


if __name__ == "__main__":
    main()
