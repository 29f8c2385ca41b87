"""The page of the noise's quality and its picture, made from the contents of noise.json."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ald_ext.files import write_atomically
from ald_ext.paper.report.tables import markdown_table
from benchmarks.page import Results, conditions, unique

from .null_distributions import SMALLEST_P

Test = dict[str, Any]

#: The most tests that a table has; of a larger group, those of the smallest p-values.
SHOWN_TESTS = 16
#: Bins of which fewer normals are expected are left out of the picture.
SMALLEST_EXPECTED = 10


def write_page(results: Results, folder: Path) -> None:
    """Writes noise.md and noise.png."""
    write_atomically(folder / "noise.md", lambda path: path.write_text(noise_page(results)))
    write_atomically(folder / "noise.png", lambda path: draw_picture(results, path))


def noise_page(results: Results) -> str:
    """Markdown: where the figures come from, a summary, and a table for each group of tests."""
    names = unique(test["group"] for test in results["tests"])
    groups = {name: [test for test in results["tests"] if test["group"] == name] for name in names}
    summary = [[name, str(len(tests)), f"{min(t['p_value'] for t in tests):.2g}"] for name, tests in groups.items()]
    sections = [heading(results), markdown_table(["group", "tests", "smallest p"], summary)]
    sections += [f"## {name[:1].upper()}{name[1:]}\n\n{group_table(tests)}" for name, tests in groups.items()]
    return "\n\n".join(sections) + "\n"


def heading(results: Results) -> str:
    generator, batch, plan = results["generator"], results["batch"], results["plan"]
    count, failed, rate = len(results["tests"]), results["failed"], results["false_positive_rate"]
    smallest = min(test["p_value"] for test in results["tests"])
    zeros = ", ".join(f"{number} of the {dtype} normals" for dtype, number in results["zeros"].items())
    lines = [
        "# Quality of the noise",
        f"`make noise-check`: {count} tests of `ald_ext.ops.normal`, {plan['single_batches'] * batch:.3g} float32 and "
        f"{plan['double_batches'] * batch:.3g} float64 normals beside those of the tests of keys. "
        + (f"**{len(failed)} failed.**" if failed else "None failed."),
        f"A test fails where its p-value is below {results['p_value_limit']:.2g} = {rate:g} / {count} (Bonferroni): of "
        f"runs on perfect noise, a share of {rate:g} at most fails in one test or more. "
        f"The smallest p-value is {smallest:.2g}; of {count} independent tests, {1 / count:.2g} is usual.",
        f"The words are those of Philox4x32 with {generator['philox_rounds']} rounds. The normals, as "
        f"`csrc/math/normal.h` says: {generator['transform']}",
        f"Exact zeros: {zeros} (not a test).",
        f"{conditions('noise', results)} The tests took {results['seconds']:.0f} s.",
        "![Histogram over density, and all p-values](noise.png)",
        *(f"Failed: {name}" for name in failed),
    ]
    return "\n\n".join(lines)


def group_table(tests: list[Test]) -> str:
    """All tests of a group, or those of the smallest p-values."""
    shown, left_out = tests, ""
    if len(tests) > SHOWN_TESTS:
        shown = sorted(tests, key=lambda test: test["p_value"])[:SHOWN_TESTS]
        left_out = f"\n\nThe {SHOWN_TESTS} of {len(tests)} tests with the smallest p; noise.json has all."
    line = "{draws:.3g} {observed:.7g} {expected:.7g} {p_value:.2g}".format_map
    body = [[test["name"].replace("|", "\\|"), *line(test).split()] for test in shown]
    return markdown_table(["test", "draws", "observed", "expected", "p"], body) + left_out


def draw_picture(results: Results, path: Path) -> None:
    """PNG: histogram over density with its band of two standard errors, by dtype; and all p-values, sorted."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    for dtype, histogram in results["histogram"].items():
        edges, counts, expected = (np.array(histogram[name], dtype=float) for name in ("edges", "counts", "expected"))
        kept = expected >= SMALLEST_EXPECTED
        centers = ((edges[1:] + edges[:-1]) / 2)[kept]
        band = 2 / np.sqrt(expected[kept])
        (line,) = top.plot(centers, (counts / np.maximum(expected, 1e-300) - 1)[kept], ".", label=dtype)
        top.fill_between(centers, -band, band, color=line.get_color(), alpha=0.2, step="mid", linewidth=0)
    top.set_yscale("symlog", linthresh=1e-4)
    top.set(xlabel="x", ylabel="histogram / normal density - 1", title="Bands: two standard errors")
    top.axhline(0, color="black", linewidth=0.8)
    p_values = np.sort([max(test["p_value"], SMALLEST_P) for test in results["tests"]])
    uniform = (np.arange(len(p_values)) + 0.5) / len(p_values)
    bottom.loglog(uniform, p_values, ".", label=f"{len(p_values)} tests")
    bottom.loglog(uniform, uniform, color="black", linewidth=0.8, label="uniform")
    bottom.axhline(results["p_value_limit"], color="red", linestyle="--", label="a test fails below")
    bottom.set(xlabel="share of tests", ylabel="p-value, sorted")
    for axes in (top, bottom):
        axes.legend()
    figure.savefig(path, format="png", dpi=150)
