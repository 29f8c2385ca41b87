"""Writes docs/experiments/README.md from the results of `ald-ext experiment`: `python benchmarks/experiments_page.py`.

docs/experiments/NAME/results.json holds the default settings' results, NAME/PRESET/results.json those of another
preset. --check only compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import markdown_table
from written_page import write_or_check

from ald_ext.paper import EXPERIMENTS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "experiments"

Results = dict[str, Any]

TITLES = {name: experiment.title for name, experiment in EXPERIMENTS.items()}

PRESETS = {"paper": "the paper's settings", "all-layers": "all layers, smaller steps"}


@dataclass(frozen=True)
class Aim:
    """What was asked of a row's mean over the seeds: bounds (least, greatest), None for none."""

    experiment: str
    row: str
    what: str
    must: tuple[float | None, float | None]
    goal: tuple[float | None, float | None]

    def verdict(self, value: float) -> str:
        if within(value, self.goal):
            return "goal met"
        return "must met" if within(value, self.must) else "**missed**"


AIMS = [
    Aim("bivariate-gaussian", "ald_mean_mse", "ALD: MSE of the mean", (None, 0.00233), (None, 0.001)),
    Aim("bivariate-gaussian", "ald_ess", "ALD: ESS of 10,000 samples", (634, None), (2000, None)),
    Aim("bivariate-gaussian", "ald_mcse", "ALD: MCSE, squared as the paper's", (None, 0.00151), (None, 0.00151)),
    Aim(
        "bivariate-gaussian",
        "ald_standard_error",
        "ALD: MCSE, a standard error of the mean",
        (None, 0.00151),
        (None, 0.00151),
    ),
    Aim("bivariate-gaussian", "ald_covariance_error", "ALD: largest error of a covariance", (None, 0.1), (None, 0.03)),
    Aim("univariate-gaussian", "sgald_variance_ratio_median", "SGALD: median variance ratio", (0.9, 1.1), (0.97, 1.03)),
    Aim("univariate-gaussian", "sgald_variance_ratio_min", "SGALD: smallest variance ratio", (0.5, 2), (0.8, 1.25)),
    Aim("univariate-gaussian", "sgald_variance_ratio_max", "SGALD: largest variance ratio", (0.5, 2), (0.8, 1.25)),
    Aim("univariate-gaussian", "sgald_mean_mse", "SGALD: MSE of the mean", (None, 1e-4), (None, 2e-5)),
    Aim("neural-likelihood", "ald_over_avi_full", "total variation, ALD over full AVI", (None, 0.5), (None, 0.25)),
    Aim("eight-gaussians", "mode_share_min", "smallest share of a mode", (0.08, 0.17), (0.11, 0.14)),
    Aim("eight-gaussians", "mode_share_max", "largest share of a mode", (0.08, 0.17), (0.11, 0.14)),
]

INTRODUCTION = """\
# The paper's toy experiments

Made by `make experiments`; nothing here is written by hand. "Ours" is the mean over the seeds, ± its standard error.
`ald-ext experiment NAME --out DIR [--preset paper] [--quick] [--seeds K]` runs one of them.

**What the theory covers.** With frozen features g(x) and only the last layer Φ moving, the outputs Φ g(x) of n data
follow Langevin dynamics preconditioned by the Gram matrix K = GGᵀ, so the posterior is invariant where K has full rank
(2022 version of the paper), exactly so with a Metropolis test. The default settings use that: the features are whitened
on the data (a frozen preconditioner), which makes K the identity and the amortized chain equal in law to one
chain a datum, and each datum's move is accepted or rejected. With n data it takes at least n features, and what is
learnt about one datum says little about others: accuracy is bought with amortization. Nothing covers the
dynamics of all layers, as the paper runs it: the preset `paper` shows what its printed settings give, with V on
summed gradients, alpha = 0.99 and eps = 1e-5, which the paper leaves open.

**The paper's MCSE.** Its Table 1 has, for LD, MSE .00145, ESS 570 and MCSE .00136. A standard error of .00136 of a
coordinate with variance .352 takes 190,000 effective samples, of 10,000 drawn. Squared and summed over the two
coordinates, .704/570 = .0012, it agrees with both other columns. So `mcse` here is Σ variance/ESS, and
`standard_error` is the usual √(variance/ESS), for which .00151 is out of reach of 10,000 independent draws (.0059).

**Scaling** counts updates. After one, f(x; φ) is a new sample for any datum one asks for; to read out all n costs n
evaluations. And the cost of an *effective* sample is not constant: SGALD's gradients see m of n data.
"""


def within(value: float, bounds: tuple[float | None, float | None]) -> bool:
    least, greatest = bounds
    return (least is None or value >= least) and (greatest is None or value <= greatest)


def show_bounds(bounds: tuple[float | None, float | None]) -> str:
    least, greatest = bounds
    if least is None:
        return f"≤ {greatest:g}"
    return f"≥ {least:g}" if greatest is None else f"{least:g} to {greatest:g}"


def load(name: str, preset: str = "") -> Results | None:
    path = FOLDER / name / preset / "results.json"
    return json.loads(path.read_text()) if path.is_file() else None


def rows_of(results: Results | None) -> dict[str, dict[str, Any]]:
    return {} if results is None else {row["name"]: row for row in results["rows"]}


def show(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    error = row["standard_error"]
    return f"{row['mean']:.3g}" + ("" if error is None else f" ± {error:.2g}")


def aims_table() -> str:
    table = []
    for aim in AIMS:
        row = rows_of(load(aim.experiment)).get(aim.row)
        verdict = "not measured" if row is None else aim.verdict(row["mean"])
        paper = "" if row is None or row["paper"] is None else f"{row['paper']:g}"
        table.append([aim.what, paper, show_bounds(aim.must), show_bounds(aim.goal), show(row), verdict])
    return markdown_table(["figure", "paper", "must", "goal", "ours", ""], table)


def section(name: str) -> str:
    """Picture, rows of every preset, and what differs from the paper."""
    results = load(name)
    if results is None:
        return f"## {TITLES[name]}\n\nNot measured yet.\n"
    others = {preset: found for preset in PRESETS if (found := load(name, preset)) is not None}
    columns = [rows_of(results), *(rows_of(found) for found in others.values())]
    names = list(dict.fromkeys(row for column in columns for row in column))
    paper = {row: found["paper"] for column in columns for row, found in column.items()}
    table = [
        [f"`{row}`", "" if paper[row] is None else f"{paper[row]:g}", *(show(column.get(row)) for column in columns)]
        for row in names
    ]
    heads = ["row", "paper", "ours", *(PRESETS[preset] for preset in others)]
    versions = results["versions"]
    lines = [
        f"## {TITLES[name]}",
        "",
        f"![{TITLES[name]}]({name}/{name}.png)",
        "",
        markdown_table(heads, table),
        "",
        f"{len(results['rows'][0]['values'])} seeds, {results['seconds']:.0f} s"
        + "".join(f" ({found['seconds']:.0f} s for {PRESETS[preset]})" for preset, found in others.items())
        + f"; torch {versions['torch']}, {versions['threads']} threads. Settings: [results.json]({name}/results.json).",
        "",
        *(
            f"- {difference['setting']}: {difference['ours']} (paper: {difference['paper']}), because "
            f"{difference['reason']}."
            for difference in results["differences"]
        ),
        "",
    ]
    return "\n".join(lines)


def page() -> str:
    return "\n".join([INTRODUCTION, "## What was asked\n", aims_table(), "", *(section(name) for name in TITLES)])


if __name__ == "__main__":
    write_or_check(FOLDER / "README.md", page, __doc__)
