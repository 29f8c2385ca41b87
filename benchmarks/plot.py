"""The plot of one run: the update's time per parameter over the number of parameters, and the machine's roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from names import COPY, NO_NOISE, NOISE_ALONE, OURS
from report import machine_of
from tables import Results, Row, unique

#: Color, line and width of each variant: the package's own the strongest; without noise dashed.
STYLES = {
    "plain PyTorch": ("C0", "-", 1.5),
    "in-place PyTorch": ("C1", "-", 1.5),
    "torch._foreach": ("C2", "-", 1.5),
    "torch.compile": ("C4", "-", 1.5),
    "Adam(fused=True)": ("C5", "--", 1.5),
    "SGD(fused=True)": ("C6", "--", 1.5),
    "RMSprop(foreach=True)": ("C8", "--", 1.5),
    "normal_ alone": ("C7", "-.", 1.5),
    NOISE_ALONE: ("black", "-.", 1.5),
    OURS: ("black", "-", 2.5),
    NO_NOISE: ("black", "--", 1.5),
    "ald_ext.PSGLD": ("red", "-", 2.5),
    "ald_ext.SGLD": ("C3", "-", 1.5),
}
DRAW_NO_NOISE = ("Adam(fused=True)", "SGD(fused=True)", "RMSprop(foreach=True)")

#: The kinds of step, each with the variant that shows its bytes and the color of its roofline.
ROOFLINES = {
    "pSGLD, RMSprop": ("RMSprop(foreach=True)", "black"),
    "Adam": ("Adam(fused=True)", "C5"),
    "SGLD, SGD": ("SGD(fused=True)", "C6"),
}


def draw_plot(results: Results, path: Path) -> None:
    """PNG: float32; hollow where the parameters are in 32 tensors."""
    rows = [row for row in results["rows"] if row["family"] == "update"]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots()
    for variant in unique(row["variant"] for row in rows if row["variant"] != COPY):
        draw_variant(axes, [row for row in rows if row["variant"] == variant])
    draw_rooflines(axes, rows, results["copy_bandwidth_gb_per_s"]["median"])
    axes.set(xscale="log", yscale="log", xlabel="parameters (float32)", ylabel="ns per parameter")
    axes.set_title(f"One step, {machine_of(results)}", fontsize="medium")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", alpha=0.4)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="grey", marker="o", markerfacecolor="white", linestyle="none"))
    figure.legend(handles, [*labels, "in 32 tensors"], loc="outside right upper", fontsize="small")
    figure.savefig(path, format="png", dpi=130)


def draw_variant(axes: Any, rows: list[Row]) -> None:
    """A line over the sizes of one tensor, with bars from the 20th to the 80th percentile."""
    variant = rows[0]["variant"]
    color, line, width = STYLES.get(variant, ("C9", "-", 1.5))
    label = variant + (", no noise" if variant in DRAW_NO_NOISE else "")
    single = [row for row in rows if "tensors" not in row["size"]]
    several = [row for row in rows if "tensors" in row["size"]]
    times = [row["ns_per_element"] for row in single]
    medians = [time["median"] for time in times]
    bars = [[time["median"] - time["p20"] for time in times], [time["p80"] - time["median"] for time in times]]
    elements = [row["elements"] for row in single]
    style = {"color": color, "marker": "o", "markersize": 4}
    axes.errorbar(elements, medians, bars, linewidth=width, linestyle=line, label=label, **style)
    hollow = [row["ns_per_element"]["median"] for row in several]
    axes.plot([row["elements"] for row in several], hollow, markerfacecolor="white", linestyle="none", **style)


def draw_rooflines(axes: Any, rows: list[Row], gb_per_s: float) -> None:
    """For each kind of step the time that its bytes take at the bandwidth of a large copy: less only within caches."""
    bytes_of = {row["variant"]: row["bytes_per_element"] for row in rows}
    for kind, (variant, color) in ROOFLINES.items():
        if variant in bytes_of:
            count = bytes_of[variant]
            label = f"roofline of {kind}: {count} bytes at {gb_per_s:.3g} GB/s"
            axes.axhline(count / gb_per_s, color=color, linestyle=":", linewidth=1.2, label=label)
