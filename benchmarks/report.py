"""The table and the plot, made from the contents of the JSON file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Results = dict[str, Any]
Row = dict[str, Any]

ELEMENTS = {"update": "parameter", "marginal likelihood": "value", "dequantization": "pixel", "quantization": "pixel"}

#: Of the variants of the update, the package's own the strongest.
COLORS = {
    "plain PyTorch": "C0",
    "in-place PyTorch": "C1",
    "torch._foreach": "C2",
    "torch.compile": "C4",
    "Adam(fused=True)": "C5",
    "SGD(fused=True)": "C6",
    "RMSprop(foreach=True)": "C8",
    "normal_ alone": "C7",
    "ald_ext op": "black",
    "ald_ext.PSGLD": "red",
}


def write_table(results: Results) -> str:
    """Markdown: where the figures come from, ratios, and a table for each family."""
    sections = [heading(results)]
    for family in unique(row["family"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["family"] == family]
        ratios = [ratio for ratio in results["ratios"] if ratio["family"] == family]
        sections.append(f"## {family.capitalize()}\n\n{figures_table(family, rows)}\n\n{ratios_table(ratios)}")
    return "\n\n".join(sections) + "\n"


def heading(results: Results) -> str:
    machine, versions, copy = results["machine"], results["versions"], results["copy_bandwidth_gb_per_s"]
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['instruction_set']}"
    described = f"{machine['gpu']} ({cpu})" if "gpu" in machine else cpu
    lines = [
        f"# Benchmarks, {results['device']}",
        f"{described}. torch {versions['torch']}, Python {versions['python']}, ald_ext {versions['ald_ext']} "
        f"({versions['compiler']}), commit {results['commit'][:12]}{'-dirty' * results['commit'].endswith('-dirty')}, "
        f"{results['date']}.",
        f"`copy_` of a large buffer: {copy['median']:.1f} GB/s, bytes read and written.",
        "All variants of one size run in alternation. Median (20th to 80th percentile) of the rounds. GB/s counts the "
        "bytes that the computation must read and write, in the column `bytes`, whatever a variant moves; where the "
        "tensors fit the caches it may exceed that of `copy_`. Adam, SGD and RMSprop draw no noise. Ratios are of "
        "samples of the same round.",
    ]
    lines += [
        f"Left out: {item['variant']} of {item['family']}, {item['size']}: {item['error']}"
        for item in results["left_out"]
    ]
    if results["quick"]:
        lines.append("A quick run: the figures are rough.")
    return "\n\n".join(lines)


def figures_table(family: str, rows: list[Row]) -> str:
    sizes = unique(row["size"] for row in rows)
    cells = {(row["variant"], row["size"]): figures_cell(row) for row in rows}
    bytes_per_element = {row["variant"]: row["bytes_per_element"] for row in rows}
    header = [f"ns per {ELEMENTS[family]}; GB/s", "bytes", *sizes]
    body = [
        [variant, str(count), *(cells.get((variant, size), "") for size in sizes)]
        for variant, count in bytes_per_element.items()
    ]
    return markdown_table(header, body)


def ratios_table(ratios: list[Row]) -> str:
    sizes = unique(ratio["size"] for ratio in ratios)
    cells = {
        (ratio["numerator"], ratio["denominator"], ratio["size"]): spread(ratio["median"], ratio["p20"], ratio["p80"])
        for ratio in ratios
    }
    pairs = unique((ratio["numerator"], ratio["denominator"]) for ratio in ratios)
    body = [[f"{pair[0]} / {pair[1]}", *(cells.get((*pair, size), "") for size in sizes)] for pair in pairs]
    return markdown_table(["ratio of times", *sizes], body)


def figures_cell(row: Row) -> str:
    ns = row["ns_per_element"]
    return f"{spread(ns['median'], ns['p20'], ns['p80'])}; {row['gb_per_s']:.3g}"


def spread(median: float, p20: float, p80: float) -> str:
    return f"{median:.3g} ({p20:.3g} to {p80:.3g})"


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


def unique(values: Iterable[Any]) -> list[Any]:
    """In order of first appearance."""
    return list(dict.fromkeys(values))


def draw_plot(results: Results, path: Path) -> None:
    """PNG: the update's ns per parameter over the number of parameters; hollow where these are in 32 tensors."""
    rows = [row for row in results["rows"] if row["family"] == "update"]
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    for variant in unique(row["variant"] for row in rows):
        draw_variant(axes, [row for row in rows if row["variant"] == variant], COLORS[variant])
    axes.set(xscale="log", yscale="log", xlabel="parameters (float32)", ylabel="ns per parameter")
    axes.set_title(f"One step, {results['machine'].get('gpu', results['machine']['cpu'])}, {results['device']}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", alpha=0.4)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="grey", marker="o", markerfacecolor="white", linestyle="none"))
    figure.legend(handles, [*labels, "in 32 tensors"], loc="outside right upper")
    figure.savefig(path, format="png", dpi=150)


def draw_variant(axes: Any, rows: list[Row], color: str) -> None:
    """A line over the sizes of one tensor, with bars from the 20th to the 80th percentile."""
    ours = rows[0]["variant"].startswith("ald_ext")
    no_noise = "=True" in rows[0]["variant"]
    single = [row for row in rows if "tensors" not in row["size"]]
    several = [row for row in rows if "tensors" in row["size"]]
    medians = [row["ns_per_element"]["median"] for row in single]
    bars = [
        [row["ns_per_element"]["median"] - row["ns_per_element"]["p20"] for row in single],
        [row["ns_per_element"]["p80"] - row["ns_per_element"]["median"] for row in single],
    ]
    axes.errorbar(
        [row["elements"] for row in single],
        medians,
        bars,
        color=color,
        marker="o",
        markersize=4,
        linewidth=2.5 if ours else 1.5,
        linestyle="--" if no_noise else "-",
        label=rows[0]["variant"] + (", no noise" if no_noise else ""),
    )
    axes.plot(
        [row["elements"] for row in several],
        [row["ns_per_element"]["median"] for row in several],
        color=color,
        marker="o",
        markerfacecolor="white",
        linestyle="none",
    )
