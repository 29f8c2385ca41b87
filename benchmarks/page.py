"""Writes docs/results/speed.md and its plots from the JSON files that benchmarks wrote.

python -m benchmarks.page [--results benchmarks/results] [--out docs/results] [--check]

Nothing in the page is written by hand, and the same JSON files give the same text; --check only compares it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from ald_ext.files import write_atomically
from ald_ext.paper.report.tables import markdown_table
from ald_ext.paper.report.tables import number as significant

from . import names

Results = dict[str, Any]
Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGES = ROOT / "benchmarks/results", ROOT / "docs/results"
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}

INTRODUCTION = """# Speed

`make bench` measures on a CPU and `make gpu-check` on a GPU; both write this page from their result files. All variants
of one size run in alternation, in one process. A figure is the median of the rounds (20th to 80th percentile). A ratio
is one of times within the same round, so that a machine that slows down for a while leaves it alone.

How good the noise is has [a page of its own](noise.md)."""

OVERVIEW = """How many times as long as ours each takes: above 1, ours is faster. "Ours" is the op for an update, the
likelihood or the dequantization, and all of a training step, from `zero_grad()` to the update. Optimizers of torch draw
no noise. For training, the last line compares a VAE, trained by our loop with Adam, to the LAE."""

PLOT = """Dotted lines are rooflines: the time that the bytes of a step take at the bandwidth of a large `copy_`. A step
can be faster where its tensors fit the caches and, on a CPU, because a copy may also read the memory that it
overwrites, which is not counted; a step in place does not. The dash-dotted black line is the noise alone, the least
arithmetic there is. Bars go from the 20th to the 80th percentile."""

READING = """In brackets after a name are the bytes per element that the computation has to read and write, whatever
a variant moves; GB/s counts these, and may exceed the bandwidth of `copy_` where the tensors fit the caches. Adam, SGD
and RMSprop draw no noise. Dequantization is compared with three ways to write it: stable in its tails, as ours is; with
two logarithms, as the documentation of the op states it; and by the paper's formula, whose tails are unstable."""

TRAINING = """A step is `zero_grad()`, loss, gradients and update; ours is that of `ald-ext train`, with its schedule
and its watch for divergence, and on a GPU one captured graph where the model allows it. "PyTorch" is the same networks
and losses without any op of ours, with noise by torch's generators. Its pSGLD step is written in three ways: plain,
with temporaries; by `torch._foreach`; in place, allocating nothing. `torch.compile` compiles loss, gradients and the
pSGLD step but for the noise, which is drawn by `normal_()`, inductor's being slower on a CPU. Models without Langevin
dynamics of their parameters are trained by `Adam(fused=True)`. All variants of a model run in alternation, LAE and VAE
in one alternation."""

OUR_COMPILED = """"Ours, compiled" is `ald-ext train --compile`. On a CPU the last layer for grey images has a form of
our own, where PyTorch's is its transposed convolution; with "our layers", the compiled PyTorch has ours."""

TITLES = {names.MLP: "MLP, batch 100", names.CUDA_GRAPH: names.CUDA_GRAPH}
ELEMENTS = {names.UPDATE: "parameter", names.DTENSORS: "parameter", names.LIKELIHOOD: "value"}  # of others: pixel
#: The share of `copy_`'s bandwidth is told of computations on more bytes than this: of less, caches may hold a part.
BEYOND_CACHES = 2 * 10**8

#: Lines of the overview, and what stands in each for the update, for ops with gradients, and for training steps.
PEERS = (
    ("plain PyTorch", names.PLAIN, names.PLAIN, names.PLAIN + names.TWO_LOGS, names.PLAIN_STEP),
    ("`torch._foreach`", names.FOREACH, None, None, names.FOREACH_STEP),
    ("PyTorch that allocates nothing", names.IN_PLACE, None, None, names.IN_PLACE_STEP),
    ("`torch.compile`", names.COMPILED, names.COMPILED, names.COMPILED + names.TWO_LOGS, names.COMPILED),
    ("`Adam(fused=True)` (of training: a VAE)", names.ADAM, None, None, names.OUR_VAE_STEP),
)
#: Columns of the overview: title, beginning of the file's name, family, size, ours, and its peers' place in PEERS.
COLUMNS = (
    ("update, 1e4 parameters in 32 tensors", "", names.UPDATE, names.IN_TENSORS, names.OURS, 1),
    *((f"update, {size}", "", names.UPDATE, size, names.OURS, 1) for size in ("1e6", "1e7", "1e8")),
    ("likelihood, 500 x 3072", "", names.LIKELIHOOD, "500 x 3072", names.OURS, 2),
    ("dequantization, 500 x 3072", "", names.DEQUANTIZATION, "500 x 3072", names.OURS, 3),
    ("training an LAE, MLP of 5M parameters", "training_", names.MLP, "lae", names.OUR_STEP, 4),
    ("training an LAE, convolutional", "training_", names.CONV, "lae", names.OUR_STEP, 4),
    ("the same, compiled", "training_", names.CONV, "lae", names.OUR_COMPILED_STEP, 4),
)


# Finding and writing figures.


def load_results(folder: Path) -> dict[str, Results]:
    """The contents of the JSON files that are there: cpu, cuda, training_cpu, training_cuda."""
    paths = {f"{kind}{device}": folder / f"{kind}{device}.json" for kind in ("", "training_") for device in DEVICES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def pivot(corner: str, rows: list[Row], line: Callable[[Row], str], cell: Callable[[Row], str]) -> str:
    """A table with a line for each value of ``line`` and a column for each size."""
    cells = {(line(row), row["size"]): cell(row) for row in rows}
    lines, sizes = unique(map(line, rows)), unique(row["size"] for row in rows)
    return markdown_table(
        [corner, *sizes], [[name, *(cells.get((name, size), "") for size in sizes)] for name in lines]
    )


#: Numbers are told with three significant digits.
number = partial(significant, digits=3)


def spread(quantiles: Row, scale: float = 1.0) -> str:
    """Median (20th to 80th percentile)."""
    median, p20, p80 = (number(scale * quantiles[name]) for name in ("median", "p20", "p80"))
    return f"{median} ({p20} to {p80})"


def unique(values: Iterable[Any]) -> list[Any]:
    """The distinct values, in the order of their first appearance."""
    return list(dict.fromkeys(values))


def find(rows: list[Row], **wanted: str) -> Row | None:
    """The row or ratio with these values."""
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def times_ours(ratios: list[Row], family: str, size: str, peer: str, ours: str) -> Row | None:
    """The quantiles of a peer's time over ours, whichever of the two the file has above."""
    if found := find(ratios, family=family, size=size, numerator=peer, denominator=ours):
        return found
    if found := find(ratios, family=family, size=size, numerator=ours, denominator=peer):
        return {"median": 1 / found["median"], "p20": 1 / found["p80"], "p80": 1 / found["p20"]}
    return None


def machine_of(results: Results) -> str:
    machine = results["machine"]
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['instruction_set']}"
    if "gpu" not in machine:
        return cpu
    driver = f", driver {machine['gpu_driver']}" if "gpu_driver" in machine else ""
    return f"{machine['gpu']}{driver} ({cpu})"


def conditions(name: str, results: Results) -> str:
    """Where the figures of a file come from."""
    versions, commit = results["versions"], results["commit"]
    sentences = [
        f"`benchmarks/results/{name}.json`, {results['date'][:10]}: {machine_of(results)}.",
        f"torch {versions['torch']}, Python {versions['python']}, ald_ext {versions['ald_ext']} "
        f"({versions['compiler']}), commit {commit[:12]}{'-dirty' * commit.endswith('-dirty')}.",
        *([f"From {results['origin']}."] if "origin" in results else []),
        *(["A quick run: its figures are rough."] if results["quick"] else []),
    ]
    if "copy_bandwidth_gb_per_s" in results:
        bandwidth = number(results["copy_bandwidth_gb_per_s"]["median"])
        sentences.append(f"`copy_` of a large buffer: {bandwidth} GB/s, bytes read and written.")
    return " ".join(sentences)


# The page.


def overview(all_results: Mapping[str, Results], device: str, cell: Callable[[Row], str]) -> str:
    """The table of what others' times are as multiples of ours; empty without any."""
    columns: dict[str, list[str]] = {}
    for title, kind, family, size, ours, place in COLUMNS:
        ratios = all_results.get(f"{kind}{device}", {"ratios": []})["ratios"]
        found = [times_ours(ratios, family, size, str(peers[place]), ours) for peers in PEERS]
        if any(found):
            columns[title] = ["" if ratio is None else cell(ratio) for ratio in found]
    body = [[peers[0], *(cells[line] for cells in columns.values())] for line, peers in enumerate(PEERS)]
    return markdown_table(["time over ours", *columns], body) if columns else ""


def speed_page(all_results: Mapping[str, Results]) -> str:
    """The whole page, in Markdown."""
    sections = [INTRODUCTION, *(conditions(name, results) for name, results in all_results.items())]
    for device, title in DEVICES.items():
        if table := overview(all_results, device, spread):
            sections += [f"## Overview, {title}", OVERVIEW, table]
    for device in filter(all_results.get, DEVICES):
        results, plot = all_results[device], f"![ns per parameter over the number of parameters](speed_{device}.png)"
        sections += [f"## {DEVICES[device]}", plot, PLOT, floors(results), READING, *families(results)]
    training = [name for name in all_results if name.startswith("training_")]
    sections += ["## Training", TRAINING] if training else []
    if any(find(all_results[name]["rows"], variant=names.OUR_COMPILED_STEP) for name in training):
        sections.append(OUR_COMPILED)
    for name in training:
        sections += [f"From {name}.json.", *families(all_results[name])]
    return "\n\n".join(sections) + "\n"


def floors(results: Results) -> str:
    """What the memory and the noise cost by themselves, and the step that does both, at the largest size."""
    rows = [row for row in results["rows"] if row["family"] == names.UPDATE and row["variant"] == names.OURS]
    if not rows:
        return "The step was not measured."
    largest = max(rows, key=lambda row: row["elements"])
    gb_per_s, count = results["copy_bandwidth_gb_per_s"]["median"], largest["bytes_per_element"]
    body = [[f"memory: {count} bytes at {number(gb_per_s)} GB/s", number(count / gb_per_s)]]
    for label, variant in (
        ("the noise alone, written to memory", names.NOISE_ALONE),
        ("the step without noise", names.NO_NOISE),
        ("the step", names.OURS),
        (f"`{names.COPY}` of one tensor", names.COPY),
    ):
        row = find(results["rows"], family=names.UPDATE, size=largest["size"], variant=variant)
        body.append([label, number(row["ns_per_element"]["median"]) if row else "not measured"])
    return markdown_table([f"pSGLD, {largest['size']} float32 parameters", "ns per parameter"], body)


def families(results: Results) -> list[str]:
    """What was left out, and a section for each family."""
    left_out = map("Left out: {variant} of {family}, {size}: {error}".format_map, results["left_out"])
    found = unique(row["family"] for row in results["rows"])
    return [*left_out, *(family_section(results, name) for name in found)]


def family_section(results: Results, family: str) -> str:
    """Heading and tables: times, ratios and, beyond the caches, shares of the bandwidth."""
    rows, ratios = ([row for row in results[name] if row["family"] == family] for name in ("rows", "ratios"))
    variant = itemgetter("variant")
    parts = [f"### {TITLES.get(family, family.capitalize())}"]
    if "ns_per_element" in rows[0]:
        corner = f"ns per {ELEMENTS.get(family.partition(',')[0], 'pixel')}; GB/s"
        line = "{variant} ({bytes_per_element})".format_map
        parts.append(pivot(corner, rows, line, lambda r: f"{spread(r['ns_per_element'])}; {number(r['gb_per_s'])}"))
    elif family == names.CUDA_GRAPH:
        nodes = "{kernels_per_step} + {other_nodes_per_step}".format_map
        corner = "µs a replay; kernels + other nodes"
        parts.append(pivot(corner, rows, variant, lambda row: f"{spread(row['seconds'], 1e6)}; {nodes(row)}"))
    else:
        rate = "{images_per_s[median]:.0f}".format_map
        table = pivot("ms a step; images/s", rows, variant, lambda row: f"{spread(row['seconds'], 1e3)}; {rate(row)}")
        models = [item["models"].items() for item in results["settings"] if item["family"] == family]
        counts = {model: facts["network_parameters"] for items in models for model, facts in items}
        told = ", ".join(f"{model} {number(count / 1e6)}" for model, count in counts.items())
        parts += [f"Parameters of encoder and decoder, in millions: {told}.", table]
    if times := [ratio for ratio in ratios if ratio["numerator"] != names.COPY]:
        parts.append(pivot("ratio of times", times, "{numerator} / {denominator}".format_map, spread))
    if shares := shares_of_memory(rows, ratios):
        parts.append(pivot(f"% of `{names.COPY}`'s bandwidth", shares, variant, partial(spread, scale=100)))
    notes: dict[str, list[str]] = {}  # what a variant could not do as a whole
    for row in rows:
        if row.get("note") is not None:
            notes.setdefault(f"{row['variant']}, {row['note']}", []).append(row["size"])
    return "\n\n".join([*parts, *(f"{', '.join(models)}: {note}." for note, models in notes.items())])


def shares_of_memory(rows: list[Row], ratios: list[Row]) -> list[Row]:
    """The shares of `copy_`'s bandwidth that variants reach which work on more than caches hold."""
    shares = []
    for ratio in ratios:
        row, copy = (find(rows, size=ratio["size"], variant=ratio[part]) for part in ("denominator", "numerator"))
        if ratio["numerator"] == names.COPY and row["bytes_per_element"] * row["elements"] >= BEYOND_CACHES:
            ours, its = row["bytes_per_element"], copy["bytes_per_element"]
            quantiles = {name: ratio[name] * ours / its for name in ("median", "p20", "p80")}
            shares.append({"size": ratio["size"], "variant": ratio["denominator"], **quantiles})
    return shares


# The plot.

#: Color, line and width of each variant: the package's own the strongest; without noise dashed.
STYLES = {
    names.PLAIN: ("C0", "-", 1.5),
    names.IN_PLACE: ("C1", "-", 1.5),
    names.FOREACH: ("C2", "-", 1.5),
    names.COMPILED: ("C4", "-", 1.5),
    names.ADAM: ("C5", "--", 1.5),
    names.SGD: ("C6", "--", 1.5),
    names.RMSPROP: ("C8", "--", 1.5),
    names.NORMAL: ("C7", "-.", 1.5),
    names.NOISE_ALONE: ("black", "-.", 1.5),
    names.OURS: ("black", "-", 2.5),
    names.NO_NOISE: ("black", "--", 1.5),
    names.PSGLD: ("red", "-", 2.5),
    names.SGLD: ("C3", "-", 1.5),
}
#: The kinds of step, each with the variant that shows its bytes and the color of its roofline.
ROOFLINES = {"pSGLD, RMSprop": (names.RMSPROP, "black"), "Adam": (names.ADAM, "C5"), "SGLD, SGD": (names.SGD, "C6")}


def draw_plot(results: Results, path: Path) -> None:
    """PNG of the update's time per parameter over the number of parameters; float32; hollow where in 32 tensors."""
    from matplotlib.figure import Figure  # which --check does not need
    from matplotlib.lines import Line2D

    rows = [row for row in results["rows"] if row["family"] == names.UPDATE]
    picture = Figure(figsize=(11, 6.5), layout="constrained")
    axes = picture.subplots()
    for name in unique(row["variant"] for row in rows if row["variant"] != names.COPY):
        color, line, width = STYLES.get(name, ("C9", "-", 1.5))
        style = {"color": color, "marker": "o", "markersize": 4}
        of_variant = [row for row in rows if row["variant"] == name]
        single, several = ([row for row in of_variant if ("tensors" in row["size"]) is many] for many in (False, True))
        # A line over the sizes of one tensor, with bars from the 20th to the 80th percentile.
        times = [row["ns_per_element"] for row in single]
        medians = [time["median"] for time in times]
        bars = [[time["median"] - time["p20"] for time in times], [time["p80"] - time["median"] for time in times]]
        label = name + (", no noise" if name in (names.ADAM, names.SGD, names.RMSPROP) else "")
        elements = [row["elements"] for row in single]
        axes.errorbar(elements, medians, bars, linewidth=width, linestyle=line, label=label, **style)
        hollow = [row["ns_per_element"]["median"] for row in several]
        axes.plot([row["elements"] for row in several], hollow, markerfacecolor="white", linestyle="none", **style)
    gb_per_s = results["copy_bandwidth_gb_per_s"]["median"]
    bytes_of = {row["variant"]: row["bytes_per_element"] for row in rows}
    for kind, (name, color) in ROOFLINES.items():
        if name in bytes_of:
            label = f"roofline of {kind}: {bytes_of[name]} bytes at {gb_per_s:.3g} GB/s"
            axes.axhline(bytes_of[name] / gb_per_s, color=color, linestyle=":", linewidth=1.2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="parameters (float32)", ylabel="ns per parameter")
    axes.set_title(f"One step, {machine_of(results)}", fontsize="medium")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", alpha=0.4)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="grey", marker="o", markerfacecolor="white", linestyle="none"))
    picture.legend(handles, [*labels, "in 32 tensors"], loc="outside right upper", fontsize="small")
    picture.savefig(path, format="png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--out", type=Path, help="folder of the page; default: docs/results, or that of --results")
    parser.add_argument("--check", action="store_true", help="fail where the page is not of its files; write nothing")
    arguments = parser.parse_args()
    folder = arguments.results
    out = arguments.out or (PAGES if folder.resolve() == RESULTS else folder)
    page, all_results = out / "speed.md", load_results(folder)
    text = speed_page(all_results)
    if arguments.check:
        if not page.exists() or page.read_text() != text:
            sys.exit(
                f"{page}: got a text that is not of the files in {folder}; python -m benchmarks.page writes it again"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(page, lambda path: path.write_text(text))
    for device in filter(all_results.get, DEVICES):
        write_atomically(out / f"speed_{device}.png", partial(draw_plot, all_results[device]))


if __name__ == "__main__":
    main()
