"""Writes docs/results/samplers.md and its picture from samplers.json.

python -m benchmarks.samplers.page [--results benchmarks/results] [--out docs/results] [--check]

Nothing in the page is written by hand, and the same file gives the same text; --check only compares it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ald_ext.files import write_atomically
from ald_ext.paper.pictures import new_picture, save_picture
from ald_ext.paper.report.tables import escape, markdown_table

from ..page import PAGES, RESULTS, number
from .measures import CONVERGED
from .ours import OURS
from .peers import PEERS, PYRO_CHAINS
from .runs import SIGNIFICANT
from .targets import TARGETS

Row = dict[str, Any]
#: Samplers without a Metropolis test, whose errors are those of their steps.
UNADJUSTED = ("Langevin dynamics", "BAOAB", "blackjax MCLMC", "posteriors BAOA")

INTRODUCTION = """# Samplers beside the field's

`python -m benchmarks.samplers` runs samplers of this package, and of other libraries, on densities whose moments are
known, and `python -m benchmarks.samplers.page` writes this page from its file. Every sampler has the same initial
states, uniform on [-2, 2], {chains} chains (pyro: {pyro}), {warm_up} steps of warm-up and {draws} draws, float32, one
thread of a CPU, and otherwise its own defaults. MALA and HMC of this package adapt one step size; HMC makes ten
leapfrog steps. `sample` is the call of that name with its defaults but for the warm-up, and BAOAB the same call with
another kernel. Langevin dynamics and BAOA of posteriors have no adaptation: they run at a quarter of the step to which
MALA adapts."""

READING = """**ESS** is the least over all measured quantities of bulk ESS, tail ESS, and the ESS of squares, by ArviZ.
Gradients are counted, over all chains and warm-up included; so are the seconds of CPU, without the time to compile.
Where R-hat is {converged} or more, the chains do not agree and the ESS means nothing: R-hat stands in its place, or
"stuck" where a chain never moved, and the picture has a hollow mark. An empty cell was not run."""

ERRORS = """The largest error of a mean or an sd, in standard errors, of all quantities. Of a sampler that is exact and
whose chains agree, 5 or more would be a fault: bold. Where the moments are not exact themselves, their standard errors
are taken in. Errors of Langevin dynamics, BAOAB, BAOA and MCLMC, which have no Metropolis test, are those of their
steps, in italics. Divergences of a run, if there are any, stand in brackets."""

TROUBLE = """The centred funnel and eight schools, and the Rosenbrock density, are made so that samplers with one step
size miss a part of them: there divergences, R-hat or a large error is to be expected, of NUTS as of any other, and the
parametrization is the way out, as the non-centred ones show."""


NUTS = "numpyro NUTS"
BESIDE_NUTS = """ESS per gradient of `sample` over that of NUTS of numpyro. Where chains of one of them do not agree,
which the last column tells, its ESS and so the ratio say little."""


def cell(row: Row | None, show: Callable[[Row], str]) -> str:
    if row is None:
        return ""
    if not row["finite"]:
        return "not finite"
    if row["r_hat"] is None:
        return "stuck"
    return show(row)


def where_chains_agree(key: str, scale: float = 1.0) -> Callable[[Row], str]:
    return lambda row: number(scale * row[key]) if row["converged"] else f"R-hat {number(row['r_hat'])}"


def errors(row: Row) -> str:
    worst = max(row["mean_z"], row["sd_z"])
    shown = f"{worst:.1f}"
    if not row["converged"]:
        shown = f"{shown} at R-hat {number(row['r_hat'])}"
    elif row["sampler"] in UNADJUSTED:
        shown = f"*{shown}*"
    elif worst >= SIGNIFICANT:
        shown = f"**{shown}**"
    return f"{shown} ({row['divergences']})" if row["divergences"] else shown


def samplers_of(rows: list[Row]) -> list[str]:
    """The samplers that ran, ours first."""
    return [name for name in (*OURS, *PEERS) if any(row["sampler"] == name for row in rows)]


def pivot(rows: list[Row], show: Callable[[Row], str]) -> str:
    """A table with a line for each sampler and a column for each target."""
    found = {(row["target"], row["sampler"]): row for row in rows}
    names = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    lines = [
        [escape(sampler), *(cell(found.get((target, sampler)), show) for target in names)]
        for sampler in samplers_of(rows)
    ]
    return markdown_table(["", *map(escape, names)], lines)


def beside_nuts(rows: list[Row]) -> str:
    """A table of ESS per gradient of each call of ``sample`` over that of NUTS, and of what R-hat says of both."""
    found = {(row["target"], row["sampler"]): row for row in rows}
    own = [name for name in OURS if name.startswith("sample") and any(row["sampler"] == name for row in rows)]
    lines = []
    for target in TARGETS:
        nuts, runs = found.get((target, NUTS)), [found.get((target, name)) for name in own]
        if nuts is None or not nuts.get("ess") or not all(run and run["finite"] for run in runs):
            continue
        ratios = [number(run["ess_per_gradient"] / nuts["ess_per_gradient"]) for run in runs if run]
        unsure = [name for name, run in ((NUTS, nuts), *zip(own, runs, strict=True)) if run and not run["converged"]]
        lines.append([escape(target), *ratios, escape("; ".join(unsure))])
    return markdown_table(["", *own, f"R-hat of {CONVERGED} or more"], lines)


def samplers_page(results: dict[str, Any]) -> str:
    rows, settings = results["rows"], results["settings"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    sources = [[escape(name), str(target.dimension), escape(target.source)] for name, target in TARGETS.items()]
    parts = [
        INTRODUCTION.format(**settings, pyro=PYRO_CHAINS),
        READING.format(converged=CONVERGED),
        "![ESS per gradient and per second of CPU](samplers.png)",
        "## Errors",
        ERRORS,
        pivot(rows, errors),
        TROUBLE,
        "## Beside NUTS",
        BESIDE_NUTS,
        beside_nuts(rows),
        "## ESS per 1,000 gradients",
        pivot(rows, where_chains_agree("ess_per_gradient", 1000)),
        "## ESS per second of CPU",
        pivot(rows, where_chains_agree("ess_per_second")),
        "## Targets",
        markdown_table(["target", "dimension", "moments"], sources),
        f"`benchmarks/results/samplers.json`, {results['date'][:10]}: {results['machine']['cpu']}, "
        f"{results['machine']['cores']} cores, which other processes used too. {versions}.",
    ]
    return "\n\n".join(parts) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """ESS per gradient and per second of every sampler on every target; hollow where it is not to be trusted."""
    rows = results["rows"]
    names, samplers = [name for name in TARGETS if any(row["target"] == name for row in rows)], samplers_of(rows)
    picture, panels = new_picture(1, 2, (11, 5.5), sharey=True)
    for axes, (key, title) in zip(
        panels[0], (("ess_per_gradient", "ESS per gradient"), ("ess_per_second", "ESS per second of CPU")), strict=True
    ):
        for index, sampler in enumerate(samplers):
            own = [row for row in rows if row["sampler"] == sampler and row["finite"]]
            height = [names.index(row["target"]) + 0.07 * (index - len(samplers) / 2) for row in own]
            right = [row["converged"] and max(row["mean_z"], row["sd_z"]) < SIGNIFICANT for row in own]
            color = f"C{index % 10}"
            faces = [color if fine else "white" for fine in right]
            marker = "o" if sampler in OURS else "^"
            axes.scatter([row[key] for row in own], height, s=26, c=faces, edgecolors=color, marker=marker)
            axes.scatter([], [], s=26, color=color, marker=marker, label=sampler)
        axes.set(xscale="log", xlabel=title)
        axes.grid(axis="x", alpha=0.4)
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].invert_yaxis()
    picture.legend(*panels[0, 1].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    save_picture(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of samplers.json")
    parser.add_argument("--out", type=Path, help="folder of the page; default: docs/results, or that of --results")
    parser.add_argument("--check", action="store_true", help="fail where the page is not of its file; write nothing")
    arguments = parser.parse_args()
    out = arguments.out or (PAGES if arguments.results.resolve() == RESULTS else arguments.results)
    results = json.loads((arguments.results / "samplers.json").read_text())
    page, text = out / "samplers.md", samplers_page(results)
    if arguments.check:
        if not page.exists() or page.read_text() != text:
            sys.exit(f"{page}: got a text that is not of samplers.json; python -m benchmarks.samplers.page writes it")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(page, lambda path: path.write_text(text))
    draw(results, out / "samplers.png")


if __name__ == "__main__":
    main()
