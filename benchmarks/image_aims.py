"""What was asked of the paper's experiments on images, beside what came out, from docs/results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "results"
DISTANCE = "frechet_efficientnet_lite0"
PICTURED = ("bmnist", "mnist", "cifar10", "celeba")

Rows = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Bound:
    """A number, or a share of another row.

    Args:
        value: the number, or the share.
        of: the name of the other row; "" for none.
    """

    value: float
    of: str = ""

    def resolve(self, rows: Rows) -> float | None:
        """The number; None if the other row was not measured."""
        if not self.of:
            return self.value
        other = rows.get(self.of, {}).get("mean")
        return None if other is None else self.value * other

    def show(self, rows: Rows) -> str:
        """The number; of another row also whose it is."""
        limit = self.resolve(rows)
        if not self.of:
            return f"{self.value:.4g}"
        whose = f"{self.of.split('/')[1].upper()}'s" + ("" if limit is None else f" {limit / self.value:.4g}")
        return whose if self.value == 1 else f"{self.value:g} · {whose}"


@dataclass(frozen=True)
class Aim:
    """What was asked of a row's mean over the seeds: all of ``must``, and all of ``goal`` if there is one."""

    row: str
    must: tuple[Bound, ...]
    goal: tuple[Bound, ...] = ()
    at_least: bool = False

    def verdict(self, rows: Rows) -> str:
        row = rows.get(self.row)
        if row is None or None in self._limits(self.must, rows):
            return "not measured"
        if not self._meets(row["mean"], self.must, rows):
            return "**missed**"
        return "goal met" if self.goal and self._meets(row["mean"], self.goal, rows) else "must met"

    def _limits(self, bounds: tuple[Bound, ...], rows: Rows) -> list[float | None]:
        return [bound.resolve(rows) for bound in bounds]

    def _meets(self, value: float | None, bounds: tuple[Bound, ...], rows: Rows) -> bool:
        """A mean that is null, such as seconds to what was never reached, meets nothing."""
        if value is None:
            return False
        limits = self._limits(bounds, rows)
        return all(limit is not None and (value >= limit if self.at_least else value <= limit) for limit in limits)

    def show(self, bounds: tuple[Bound, ...], rows: Rows) -> str:
        sign = "≥" if self.at_least else "≤"
        return ", ".join(f"{sign} {bound.show(rows)}" for bound in bounds)


AIMS = [
    Aim("mnist/vae/re", (Bound(0.0165),)),
    Aim("mnist/lae/re", (Bound(0.0125),), (Bound(0.0080),)),
    Aim("mnist/clae/re", (Bound(0.0060),), (Bound(0.0029),)),
    Aim("bmnist/lae/re", (Bound(100),), (Bound(80),)),
    Aim("bmnist/clae/re", (Bound(1, "bmnist/lae/re"),), (Bound(40),)),
    Aim("cifar10/lae/re", (Bound(0.0265),), (Bound(0.0200),)),
    Aim("cifar10/clae/re", (Bound(1, "cifar10/lae/re"),), (Bound(0.0140),)),
    *(Aim(f"{dataset}/lae/{DISTANCE}", (Bound(1, f"{dataset}/abp/{DISTANCE}"),)) for dataset in PICTURED),
    *(
        Aim(
            f"{dataset}/clae/{DISTANCE}",
            (Bound(1, f"{dataset}/vae/{DISTANCE}"),),
            (Bound(0.5, f"{dataset}/vae/{DISTANCE}"),),
        )
        for dataset in PICTURED
    ),
    Aim(
        "mnist/lae/auprc_normal",
        (Bound(0.8775), Bound(1, "mnist/ae/auprc_normal"), Bound(1, "mnist/vae/auprc_normal")),
        (Bound(0.93),),
        at_least=True,
    ),
    Aim("mnist/clae/auprc_normal", (Bound(0.842),), (Bound(0.93),), at_least=True),
    Aim("mnist/lae/denoising_mse", (Bound(0.0200),), (Bound(0.0120),)),
    Aim("mnist/clae/denoising_mse", (Bound(1, "mnist/lae/denoising_mse"),), (Bound(0.0078),)),
    Aim("mnist/lae/seconds_to_re_of_abp_share", (Bound(1 / 3),), (Bound(0.1),)),
]


def load_rows() -> Rows:
    """Every row of every experiment in docs/results; of rows of one name that of Table 2."""
    paths = sorted(FOLDER.glob("*/results.json"), key=lambda path: path.parent.name.startswith("image-generation"))
    return {row["name"]: row for path in paths for row in json.loads(path.read_text())["rows"]}


def aims_table() -> str:
    """Paper, must, goal and ours, one line an aim."""
    rows = load_rows()
    lines = []
    for aim in AIMS:
        row = rows.get(aim.row, {})
        cells = ["" if row.get(name) is None else f"{row[name]:.4g}" for name in ("paper", "mean")]
        bounds = [aim.show(some, rows) for some in (aim.must, aim.goal)]
        lines.append([f"`{aim.row}`", cells[0], *bounds, cells[1], aim.verdict(rows)])
    return markdown_table(["figure", "paper", "must", "goal", "ours", ""], lines)
