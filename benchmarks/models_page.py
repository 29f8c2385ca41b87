"""Writes docs/models/README.md from the runs of `ald-ext train` beside it: `python benchmarks/models_page.py`.

docs/models/MODEL/ holds what `make models` copied of a run with the default settings. --check only compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import markdown_table
from written_page import write_or_check

from ald_ext.models import MODELS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "models"

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Aim:
    """What was asked of a model's test RE, at most; "lae" stands for the LAE's own."""

    must: float | str | None = None
    goal: float | None = None

    def bounds(self, runs: dict[str, Metrics]) -> tuple[float | None, float | None]:
        must = runs[self.must]["test_re"] if isinstance(self.must, str) else self.must
        return must, self.goal


AIMS = {
    "lae": Aim(0.0130, 0.0090),
    "clae": Aim("lae", 0.0050),
    "ae": Aim(0.0180, 0.0140),
    "vae": Aim(0.0180, 0.0140),
}

INTRODUCTION = """\
# The models, trained on 4,500 digits

Made by `make models`; nothing here is written by hand. Every model has the default settings of `ald-ext train` and the
same networks. RE is the mean squared error on [0, 1] pixels of 500 held-out digits; "averaged" is that of the mean
reconstruction over samples of the parameters, for models that sample them. ABP and DLGM infer z of held-out digits by
Langevin steps (100, and 20 after its encoder), the others by their encoder alone. These are 5,000 digits of MNIST and
not the paper's data sets, so this is not to be compared with its Table 2.
"""


def load_runs() -> dict[str, Metrics]:
    """The metrics of every model that was trained."""
    paths = {name: FOLDER / name / "metrics.json" for name in MODELS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def verdict(value: float, must: float | None, goal: float | None) -> str:
    if must is None:
        return ""
    if goal is not None and value <= goal and value <= must:
        return "goal met"
    return "must met" if value <= must else "**missed**"


def table() -> str:
    """What was asked and what came out, one row a model."""
    runs = load_runs()
    rows = []
    for name, run in runs.items():
        must, goal = AIMS.get(name, Aim()).bounds(runs)
        averaged = run["test_re_ensemble"]
        rows.append(
            [
                name,
                "" if must is None else f"≤ {must:.4f}",
                "" if goal is None else f"≤ {goal:.4f}",
                f"{run['test_re']:.4f}",
                "" if averaged is None else f"{averaged:.4f}",
                str(run["epochs"]),
                f"{run['seconds']:.0f}",
                f"{run['images_per_second']:.0f}",
                verdict(run["test_re"], must, goal),
            ]
        )
    return markdown_table(["model", "must", "goal", "test RE", "averaged", "epochs", "seconds", "images/s", ""], rows)


def footnote() -> str:
    """Where the table was measured."""
    run = next(iter(load_runs().values()))
    return f"Measured on {run['threads']} cores, torch {run['versions']['torch']}."


def section(name: str) -> str:
    """The pictures of a model."""
    title = (MODELS[name].__doc__ or name).strip().splitlines()[0]
    pictures = [
        ("held-out digits, each row above its reconstructions", "reconstructions.png"),
        ("samples", "samples.png"),
    ]
    shown = [f"![{text}]({name}/{file})" for text, file in pictures if (FOLDER / name / file).is_file()]
    links = f"[metrics]({name}/metrics.json), [settings]({name}/config.json), [curves]({name}/curves.png)"
    return "\n".join([f"## {name}", "", title, "", *shown, "", links, ""])


def page() -> str:
    return "\n".join([INTRODUCTION, table(), "", footnote(), "", *(section(name) for name in load_runs())])


if __name__ == "__main__":
    write_or_check(FOLDER / "README.md", page, __doc__)
