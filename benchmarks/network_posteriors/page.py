"""Writes docs/results/network_posteriors.md and its pictures from network_posteriors.json.

python -m benchmarks.network_posteriors.page [--results benchmarks/results] [--page docs/results]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ald_ext.files import write_atomically

from .__main__ import FILE
from .methods import OURS
from .pictures import PICTURES

Rows = list[dict[str, Any]]
CLASS_SCORES = {"accuracy": "accuracy", "nll": "NLL", "brier": "Brier", "ece": "ECE"}
REGRESSION_SCORES = {"rmse": "RMSE", "nll": "NLL", "coverage": "coverage"}
#: The methods by whose NLL that of the others is divided.
ENSEMBLE, ADAM, ADAM_TO_THE_END = "deep ensemble of 5", "Adam, early stopping", "Adam, to the end"
BASELINES = {ENSEMBLE: "the ensemble's", ADAM: "Adam's", ADAM_TO_THE_END: "Adam's to the end"}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean, and the standard deviation over the splits where there are several; None is what was not finite."""
    if None in values:
        return "not finite"
    finite = [value for value in values if value is not None]
    found = [fmean(finite), *([stdev(finite)] if len(finite) > 1 else [])]
    return " ± ".join(f"{value:.{digits}f}" if found[0] < 1000 else f"{value:.2g}" for value in found)


def over_splits(rows: Rows) -> str:
    count = len({row["split"] for row in rows})
    return "Figures of one split" if count == 1 else f"Means and standard deviations over {count} splits"


def score_table(rows: Rows) -> str:
    """The scores of each method on test data, means and standard deviations over splits."""
    lines = []
    for method in methods_of(rows):
        own = [row["test"] for row in rows if row["method"] == method]
        lines.append([method, *(spread([each[name] for each in own]) for name in CLASS_SCORES)])
    return table(["method", *CLASS_SCORES.values()], lines)


def nll_ratios(rows: Rows, method: str, baseline: str) -> list[float]:
    """The method's NLL over the baseline's, on each split that has both."""
    nll = {(row["method"], row["split"]): row["test"]["nll"] for row in rows}
    splits = sorted({split for _, split in nll})
    pairs = [(nll.get((method, split)), nll.get((baseline, split))) for split in splits]
    return [one / other for one, other in pairs if one is not None and other is not None]


def ratio_table(rows: Rows) -> str:
    """NLL of each method over that of the ensemble and of Adam, and in words which of ours are above them."""
    methods = methods_of(rows)
    baselines = [name for name in BASELINES if name in methods]
    lines = [[method, *(spread(nll_ratios(rows, method, name), 2) for name in baselines)] for method in methods]
    ours = [method for method in methods if method in OURS]
    sentences = []
    for name in baselines:
        above = [method for method in ours if fmean(nll_ratios(rows, method, name)) > 1]
        if above:
            sentences.append(f"The NLL is above {BASELINES[name]}: {', '.join(above)}.")
        else:
            sentences.append(f"The NLL of all of ours is below {BASELINES[name]}.")
    ece = {name: fmean(row["test"]["ece"] for row in rows if row["method"] == name) for name in methods}
    if above := [method for method in ours if ENSEMBLE in ece and ece[method] > ece[ENSEMBLE]]:
        sentences.append(f"The ECE is above {BASELINES[ENSEMBLE]}: {', '.join(above)}.")
    return table(["NLL over", *(BASELINES[name] for name in baselines)], lines) + "\n\n" + "\n".join(sentences)


def shift_table(rows: Rows, score: str, digits: int) -> str:
    """One score of each method on each shift."""
    lines = []
    for method in methods_of(rows):
        own = [row["shifts"] for row in rows if row["method"] == method]
        lines.append([method, *(f"{fmean(each[name][score] for each in own):.{digits}f}" for name in own[0])])
    return table(["method", *rows[0]["shifts"]], lines)


def choice_table(rows: Rows) -> str:
    """The validation NLL of ours at each prior and temperature that was tried, and how often each was chosen."""
    lines = []
    for method in (name for name in methods_of(rows) if name in OURS):
        own = [row for row in rows if row["method"] == method]
        for index, tried in enumerate(own[0]["tried"]):
            nll = [row["tried"][index]["validation"]["nll"] for row in own]
            keys = ("prior_gain", "temperature")
            count = sum(all(row["chosen"][key] == tried[key] for key in keys) for row in own)
            settings = [f"{tried[key]:g}" for key in keys]
            lines.append([method, *settings, f"{tried['lr']:.2g}", spread(nll), f"{count} of {len(own)}"])
    return table(["method", "gain", "T", "lr", "validation NLL", "chosen"], lines)


#: A total variation between predictions that is told of.
FAR = 0.05

CHOICE = """The prior of weights is N(0, 2·gain²/inputs), which a temperature T narrows to gain·√T. Of those in the
table, gain and T of ours are those with the least NLL on the validation data, for each split and method; the lr is that
of `suggest_settings` on the first split, whose gradients are not counted."""


def digits_section(rows: Rows) -> str:
    return f"""## Digits

A perceptron 64-100-10 on 500 of scikit-learn's digits; 297 others choose settings, 1,000 test. Each method has
{rows[0]["budget"]:,} gradients of minibatches of 50, the ensemble's members a fifth of that each. Adam has lr 0.001 and
stops where the validation data have the best likelihood, but for "to the end". MC dropout and SWAG are
torch-uncertainty's, the Laplace approximation is laplace-torch's, with its precision chosen on the validation data.
{over_splits(rows)} of the data; NLL in nats.

{score_table(rows)}

{ratio_table(rows)}

The AUROC of the predictive entropy, for test images against the same turned by a quarter, or with noise of deviation
0.3:

{shift_table(rows, "auroc", 3)}

{CHOICE}

{choice_table(rows)}

![NLL and calibration error of every method](network_posteriors.png)
"""


def mnist_section(rows: Rows) -> str:
    return f"""## MNIST, and images that are turned or noisy

A perceptron 1024-100-10 on 2,000 of MNIST's digits, padded to 32 x 32; 500 others validate, 1,500 test. Each method
has {rows[0]["budget"]:,} gradients of minibatches of 50. {over_splits(rows)} of the data. Images as they are:

{score_table(rows)}

{ratio_table(rows)}

The same images turned, and with Gaussian noise of a deviation, where 1 is white. NLL:

{shift_table(rows, "nll", 2)}

ECE:

{shift_table(rows, "ece", 3)}

Brier score:

{shift_table(rows, "brier", 3)}

Accuracy:

{shift_table(rows, "accuracy", 3)}

AUROC of the predictive entropy, for images as they are against those that are turned or noisy:

{shift_table(rows, "auroc", 3)}

![NLL and ECE over the angle, by method](network_posteriors_mnist.png)

Gain and T of ours were chosen for the digits, the lr as there.

{choice_table(rows)}
"""


def regression_section(rows: Rows) -> str:
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    parts = []
    for problem in problems:
        own = [row for row in rows if row["problem"] == problem]
        lines = []
        for method in methods_of(own):
            found = [row["test"] for row in own if row["method"] == method]
            lines.append([method, *(spread([each[name] for each in found]) for name in REGRESSION_SCORES)])
        parts.append(
            f"### {problem[0].upper()}{problem[1:]}\n\n{table(['method', *REGRESSION_SCORES.values()], lines)}"
        )
        finite = [row for row in own if row["test"]["nll"] is not None]
        best = min(methods_of(finite), key=lambda name: fmean(r["test"]["nll"] for r in finite if r["method"] == name))
        parts.append(f"The least NLL is that of {best}.\n\n{choice_table(own)}")
    tables = "\n\n".join(parts)
    return f"""## Regressions

A perceptron with 50 hidden units gives mean and log deviation; the predictive distribution is the mixture of these
normals. Data are scikit-learn's, targets in units of the training data's deviation. Each method has
{rows[0]["budget"]:,} gradients of minibatches of 50; the coverage is that of central 90 % intervals.
{over_splits(rows)} of the data. The Laplace approximation of laplace-torch has one deviation for all data,
and is left out. SWAG is trained by SGD with lr 0.05, as for images; where that is too large, its figures are not
finite.

{CHOICE}

{tables}
"""


def agreement_section(rows: Rows) -> str:
    lines = [
        [
            row["method"],
            f"{row['prior_gain']:g}",
            f"{row['temperature']:g}",
            *(f"{row[name]:.3f}" for name in ("top_1", "total_variation", "accuracy", "nll", "ece")),
        ]
        for row in rows
    ]
    far = [f"{row['method']} at T = {row['temperature']:g}" for row in rows if row["total_variation"] > FAR]
    sentence = f"\nA total variation above {FAR}: {', '.join(far)}.\n" if far else ""
    return f"""## Beside HMC

How near the predictions on the test digits are to those of {{class}}`ald_ext.samplers.HMC`, which is exact, with
{rows[0]["samples"]} draws of each of four chains of 30 leapfrog steps: the share of images with the same likeliest
class, and the mean total variation between the class probabilities. Ours are single chains of {rows[0]["budget"]:,}
gradients of minibatches, from random initial weights.

{table(["method", "gain", "T", "same class", "total variation", "accuracy", "NLL", "ECE"], lines)}
{sentence}"""


SECTIONS = {
    "digits": digits_section,
    "mnist": mnist_section,
    "regression": regression_section,
    "agreement": agreement_section,
}


def page(results: dict[str, Any]) -> str:
    """The text, of the parts that there are."""
    run = results["run"]
    machine, versions = run["machine"], run["versions"]
    head = f"""# Posteriors of networks

Written by `python -m benchmarks.network_posteriors.page` from what `{run["origin"]}` measured
on {machine["cpu"]}, torch {versions["torch"]}.
"""
    return "\n".join([head, *(write(results[name]) for name, write in SECTIONS.items() if name in results)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    results = json.loads((options.results / FILE).read_text())
    options.page.mkdir(parents=True, exist_ok=True)
    write_atomically(options.page / "network_posteriors.md", lambda path: path.write_text(page(results)))
    for part, (name, draw) in PICTURES.items():
        if part in results:
            figure = draw(results[part])
            write_atomically(options.page / name, lambda path, figure=figure: figure.savefig(path, dpi=100))


if __name__ == "__main__":
    main()
