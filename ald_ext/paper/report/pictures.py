"""The pictures of a page: links, copies beside it, and plots of our figures as multiples of the paper's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

from ..pictures import new_picture, save_picture
from ..results import Results
from .metrics import best_value
from .tables import dataset_tables

#: Colours of bars that are better than the paper's figure, worse, and neither.
BETTER, WORSE, NEITHER = "#2a78b5", "#d9822b", "#888888"


def multiples_of(results: Results) -> dict[str, tuple[float, str]]:
    """Return our positive figures divided by the paper's, and the colours of their bars, by their names.

    Single classes are left out where the paper has their mean.
    """
    multiples = {}
    for dataset, table in dataset_tables(results)[0].items():
        of_classes = {metric for base, some in table.classes.items() if base in table.metrics for metric in some}
        for (model, metric), row in table.rows.items():
            if metric not in of_classes and row.mean and row.paper and min(row.mean, row.paper) > 0:
                best = best_value(metric, [row.mean, row.paper])
                color = NEITHER if best is None or row.mean == row.paper else BETTER if best == row.mean else WORSE
                multiples[f"{dataset}/{model} {metric}"] = row.mean / row.paper, color
    return multiples


def plot_multiples(multiples: Mapping[str, tuple[float, str]], file: Path) -> None:
    """Draw bars from 1 on a logarithmic scale into a PNG file; the same values give the same bytes."""
    picture, axes = new_picture(1, 1, (8, 1.1 + 0.26 * len(multiples)))
    panel = axes[0, 0]
    places, (values, colors) = range(len(multiples)), zip(*multiples.values(), strict=True)
    bars = panel.barh(places, [value - 1 for value in values], left=1, color=colors)
    panel.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    # Room for the numbers at the ends of the bars, and some width where all values are near 1.
    least, greatest = min(0.8, *values) / 1.3, max(1.25, *values) * 1.3
    panel.set_xlim(least, greatest)
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if least <= tick <= greatest]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_yticks(places, [name.replace("$", r"\$") for name in multiples], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("ours divided by the paper's (blue: better, orange: worse)")
    save_picture(picture, file)


class Links:
    """The links of the page at ``out``.

    What lies in the page's folder or below is linked to where it is; other pictures are copied, and plots are drawn,
    into the folder <stem>_files beside the page.

    Attributes:
        writers: functions that write a picture into a file, by that file.
    """

    def __init__(self, out: Path) -> None:
        self.tree = out.parent.resolve()
        self.files = self.tree / f"{out.stem}_files"
        self.writers: dict[Path, Callable[[Path], object]] = {}

    def picture(self, path: Path, name: str) -> str:
        """Return the link to a picture, or to its copy of the given name."""
        path = path.resolve()
        if path.is_relative_to(self.tree):
            return self.relative(path)
        return self.written(name, lambda file: file.write_bytes(path.read_bytes()))

    def plot(self, multiples: Mapping[str, tuple[float, str]], name: str) -> str:
        """Return a plot of our figures as multiples of the paper's, in Markdown."""
        return f"![ours and the paper's]({self.written(name, partial(plot_multiples, multiples))})"

    def written(self, name: str, write: Callable[[Path], object]) -> str:
        self.writers[self.files / name] = write
        return self.relative(self.files / name)

    def file(self, path: Path, name: str) -> str:
        """Return a link to a file in the page's tree, or the name of one outside."""
        path = path.resolve()
        return f"[{name}]({self.relative(path)})" if path.is_relative_to(self.tree) else name

    def relative(self, path: Path) -> str:
        return quote(path.relative_to(self.tree).as_posix())
