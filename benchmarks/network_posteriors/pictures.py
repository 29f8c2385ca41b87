"""Pictures of the page: every method's scores on digits, and on MNIST over the angle by which images are turned."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from .methods import OURS
from .problems import ANGLES

SCORES = {"nll": "NLL", "ece": "ECE"}
Rows = list[dict[str, Any]]


def color(method: str) -> str:
    return "#2060b0" if method in OURS else "#808080"


def draw_methods(rows: Rows) -> Figure:
    """NLL and ECE of every method, a dot for each split."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axes, name in zip(figure.subplots(1, 2, sharey=True), SCORES, strict=True):
        for row in rows:
            axes.plot(row["test"][name], methods.index(row["method"]), "o", color=color(row["method"]))
        axes.set_yticks(range(len(methods)), methods)
        axes.set_xlabel(f"{SCORES[name]} of test digits")
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    return figure


def draw_angles(rows: Rows) -> Figure:
    """NLL and ECE over the angle, means over the splits, a line for each method."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    markers = "ov^<>sDPX*"
    for axes, name in zip(figure.subplots(1, 2), SCORES, strict=True):
        for method, marker in zip(methods, markers, strict=False):
            own = [row for row in rows if row["method"] == method]
            turned = [[row["shifts"][f"turned by {angle}°"][name] for row in own] for angle in ANGLES]
            values = [fmean(row["test"][name] for row in own), *map(fmean, turned)]
            axes.plot([0, *ANGLES], values, marker=marker, color=color(method), label=method, markersize=5)
        axes.set_xticks([0, *ANGLES])
        axes.set_xlabel("angle in degrees")
        axes.set_ylabel(SCORES[name])
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


#: File and function of each part's picture.
PICTURES = {
    "digits": ("network_posteriors.png", draw_methods),
    "mnist": ("network_posteriors_mnist.png", draw_angles),
}
