"""Writes docs/results/network_posteriors.md and its picture from network_posteriors.json.

python -m benchmarks.network_posteriors.page [--results benchmarks/results] [--page docs/results]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from ald_ext.files import write_atomically

from .__main__ import FILE

SCORES = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "auroc_turned": "AUROC, turned",
    "auroc_noisy": "AUROC, noisy",
}
PICTURE = "network_posteriors.png"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def digits_section(part: dict[str, Any]) -> str:
    """Scores, means over the splits, and what was chosen by validation data."""
    methods = list(dict.fromkeys(row["method"] for row in part["rows"]))
    rows = []
    for method in methods:
        own = [row for row in part["rows"] if row["method"] == method]
        rows.append([method, *(f"{fmean(row[name] for row in own):.3f}" for name in SCORES)])
    tried = [
        [
            str(setting["split"]),
            f"{each['temperature']:g}",
            *(f"{each['validation'][name]:.3f}" for name in ("nll", "ece")),
            *(f"{each['test'][name]:.3f}" for name in ("accuracy", "nll", "ece")),
            "chosen" if setting["chosen"] == {k: each[k] for k in setting["chosen"]} else "",
        ]
        for setting in part["settings"]
        for each in setting["tried"]
    ]
    splits = "1 split" if len(part["settings"]) == 1 else f"{len(part['settings'])} splits"
    return f"""## Digits

A perceptron 64-100-10 on 500 of scikit-learn's digits; 297 others choose settings, 1,000 test. Each method has
{part["budget"]:,} gradients of minibatches of 50, the ensemble's members a fifth of that each. Adam has lr 0.001 and
stops where the validation data have the best likelihood, but for "to the end". MC dropout and SWAG are
torch-uncertainty's, the Laplace approximation is laplace-torch's. Ours have the lr of `suggest_settings`. Means over
{splits} of the data; NLL in nats. The AUROC is that of the predictive entropy, for test images against the same turned
by a quarter, or with noise of deviation 0.3.

{table(["method", *SCORES.values()], rows)}

The prior of weights is N(0, 2·gain²/inputs) with gain {part["settings"][0]["chosen"]["prior_gain"]:g}, which the
temperature T narrows to gain·√T. T was chosen for SGHMC on the validation data:

{table(["split", "T", "validation NLL", "ECE", "test accuracy", "NLL", "ECE", ""], tried)}

![NLL and calibration error of every method]({PICTURE})
"""


def agreement_section(part: dict[str, Any]) -> str:
    rows = [
        [
            row["method"],
            f"{row['prior_gain']:g}",
            f"{row['temperature']:g}",
            *(f"{row[name]:.3f}" for name in ("top_1", "total_variation", "accuracy", "nll", "ece")),
        ]
        for row in part["rows"]
    ]
    return f"""## Beside HMC

How near the predictions on the test digits are to those of {{class}}`ald_ext.samplers.HMC`, which is exact, with
{part["samples"]} draws of each of two chains of 30 leapfrog steps: the share of images with the same likeliest class,
and the mean total variation between the class probabilities. Ours have {part["budget"]:,} gradients of minibatches,
from random initial weights.

{table(["method", "gain", "T", "same class", "total variation", "accuracy", "NLL", "ECE"], rows)}
"""


SECTIONS = {"digits": digits_section, "agreement": agreement_section}


def page(results: dict[str, Any]) -> str:
    """The text, of the parts that there are."""
    run = results["run"]
    machine, versions = run["machine"], run["versions"]
    head = f"""# Posteriors of networks

Written by `python -m benchmarks.network_posteriors.page` from what `{run["origin"]}` measured
on {machine["cpu"]}, torch {versions["torch"]}.
"""
    return "\n".join([head, *(write(results[name]) for name, write in SECTIONS.items() if name in results)])


def draw(part: dict[str, Any]) -> Figure:
    """NLL and ECE of every method, a dot for each split."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in part["rows"]))
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("nll", "ece"), strict=True):
        for row in part["rows"]:
            ours = "SG" in row["method"]
            axes.plot(row[name], methods.index(row["method"]), "o", color="#2060b0" if ours else "#808080")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_xlabel(f"{SCORES[name]} of test digits")
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    results = json.loads((options.results / FILE).read_text())
    options.page.mkdir(parents=True, exist_ok=True)
    write_atomically(options.page / "network_posteriors.md", lambda path: path.write_text(page(results)))
    if "digits" in results:
        figure = draw(results["digits"])
        write_atomically(options.page / PICTURE, lambda path: figure.savefig(path, dpi=100))


if __name__ == "__main__":
    main()
