"""Ours beside the paper's: which figures of an experiment go into which table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..results import Results, Row
from .formatting import code, escape, markdown_table, show_difference, show_ours, show_paper

#: Words of a metric's name that tell whether less is better, or more.
LESS_IS_BETTER = {"re", "mse", "frechet", "fid", "seconds"}
MORE_IS_BETTER = {"auprc", "auroc"}


@dataclass(frozen=True)
class DatasetFigures:
    """The rows DATASET/MODEL/METRIC of one data set.

    Attributes:
        dataset: its name.
        rows: by model and metric.
    """

    dataset: str
    rows: dict[tuple[str, str], Row]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for model, _ in self.rows))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for _, metric in self.rows))

    def column(self, metric: str) -> dict[str, Row]:
        """The metric's row of every model that has one."""
        return {model: row for (model, name), row in self.rows.items() if name == metric}

    def has_paper(self, metric: str) -> bool:
        return any(row.paper is not None for row in self.column(metric).values())

    def of_classes(self) -> dict[str, list[str]]:
        """The metrics that each class has one of, as auprc_normal_3, by that of their mean; in order of the classes."""
        found: dict[str, list[tuple[int, str]]] = {}
        for metric in self.metrics:
            match = re.fullmatch(r"(.+)_(\d+)", metric)
            if match:
                found.setdefault(match[1], []).append((int(match[2]), metric))
        return {base: [metric for _, metric in sorted(members)] for base, members in found.items()}

    def main_metrics(self) -> list[str]:
        """Those whose classes are shown: of which the paper has a figure, or else the first."""
        of_classes = self.of_classes()
        compared = [base for base, members in of_classes.items() if any(map(self.has_paper, members))]
        return compared or list(of_classes)[:1]


def figures_of(results: Results) -> tuple[list[DatasetFigures], list[Row]]:
    """The rows of an experiment on images by data set, and those that belong into no table of models and metrics.

    The latter have other names, or compare models, as mnist/lae/seconds_to_re_of_abp.
    """
    models = {job.model for job in results.jobs or ()}
    tables: dict[str, dict[tuple[str, str], Row]] = {}
    others = []
    for row in results.rows:
        parts = row.name.split("/")
        if results.jobs is None or len(parts) != 3 or compares(parts[2], models):
            others.append(row)
        else:
            tables.setdefault(parts[0], {})[parts[1], parts[2]] = row
    return [DatasetFigures(dataset, rows) for dataset, rows in tables.items()], others


def compares(metric: str, models: set[str]) -> bool:
    """Whether a metric of one model names another."""
    return any(re.search(rf"_of_{re.escape(model)}(_|$)", metric) for model in models)


def best_value(metric: str, values: Sequence[float | None]) -> float | None:
    """The best of several models' figures; None where it is not known which, or where there is one only."""
    words = set(metric.split("_"))
    less, more = not words.isdisjoint(LESS_IS_BETTER), not words.isdisjoint(MORE_IS_BETTER)
    finite = [value for value in values if value is not None]
    if less == more or len(finite) < 2:
        return None
    return min(finite) if less else max(finite)


def marked(
    metric: str, rows: Sequence[Row | None], value: Callable[[Row], float | None], show: Callable[[Row | None], str]
) -> list[str]:
    """One cell a row, the best ``value`` bold."""
    values = [None if row is None else value(row) for row in rows]
    best = best_value(metric, values)
    return [
        f"**{show(row)}**" if best is not None and number == best else show(row)
        for row, number in zip(rows, values, strict=True)
    ]


def ours(row: Row) -> float | None:
    return row.mean


def paper(row: Row) -> float | None:
    return row.paper


def mean_alone(row: Row | None) -> str:
    """Ours without its standard error, for tables of many columns."""
    return "" if row is None else show_ours(Row(row.name, row.paper, row.mean, None, row.values))


def tables_of_dataset(figures: DatasetFigures) -> list[str]:
    """Blocks of Markdown: models by metrics; where classes have figures of their own, models by classes, too."""
    if len(figures.models) == 1 and not figures.of_classes():
        return [list_table(list(figures.rows.values()), [metric for _, metric in figures.rows])]
    of_classes = figures.of_classes()
    single = {metric for members in of_classes.values() for metric in members}
    means = [metric for metric in figures.metrics if metric not in single]
    main = figures.main_metrics()
    shown = [metric for metric in means if metric in main] if main else means
    rest = [metric for metric in means if metric not in shown]
    blocks = [pivot_table(figures, shown)] if shown else []
    for base in main:
        blocks += class_tables(figures, base, of_classes[base])
    if rest:
        blocks += ["Means over the classes of the other figures:", metrics_table(figures, rest)]
    if len(of_classes) > len(main):
        blocks.append("Those of every class are in results.json.")
    return blocks


def pivot_table(figures: DatasetFigures, metrics: Sequence[str]) -> str:
    """A row a model; a column a metric, or three where the paper has a figure of it."""
    header, columns = ["model"], [[code(model) for model in figures.models]]
    for metric in metrics:
        rows = [figures.rows.get((model, metric)) for model in figures.models]
        header.append(code(metric))
        columns.append(marked(metric, rows, ours, show_ours))
        if figures.has_paper(metric):
            header += ["paper", "difference"]
            columns += [marked(metric, rows, paper, show_paper), [show_difference(row) for row in rows]]
    return markdown_table(header, list(zip(*columns, strict=True)))


def metrics_table(figures: DatasetFigures, metrics: Sequence[str]) -> str:
    """Ours: a row a metric, a column a model."""
    body = []
    for metric in metrics:
        rows = [figures.rows.get((model, metric)) for model in figures.models]
        body.append([code(metric), *marked(metric, rows, ours, show_ours)])
    return markdown_table(["", *map(code, figures.models)], body)


def class_tables(figures: DatasetFigures, base: str, metrics: Sequence[str]) -> list[str]:
    """Ours, the paper's and the difference: a row a model, a column a class, and their mean where there is one."""
    names = [metric.rpartition("_")[2] for metric in metrics]
    columns = [*metrics, *([base] if base in figures.metrics else [])]
    header = ["", *names, *(["mean"] if base in figures.metrics else [])]

    def table(cells: Callable[[str, Sequence[Row | None]], list[str]]) -> str:
        body = [cells(metric, [figures.rows.get((model, metric)) for model in figures.models]) for metric in columns]
        return markdown_table(header, list(zip(map(code, figures.models), *body, strict=True)))

    blocks = [f"{code(base)} of every class, ours:", table(lambda metric, rows: marked(metric, rows, ours, mean_alone))]
    if any(map(figures.has_paper, metrics)):
        blocks += [
            f"{code(base)} of every class, the paper's:",
            table(lambda metric, rows: marked(metric, rows, paper, show_paper)),
            f"{code(base)} of every class, the difference:",
            table(lambda metric, rows: [show_difference(row, percent=False) for row in rows]),
        ]
    return blocks


def list_table(rows: Sequence[Row], names: Sequence[str] | None = None) -> str:
    """A line a row; without the paper's columns where it has no figure."""
    shown = [code(name) for name in names or [row.name for row in rows]]
    if all(row.paper is None for row in rows):
        return markdown_table(["", "ours"], [[name, show_ours(row)] for name, row in zip(shown, rows, strict=True)])
    return markdown_table(
        ["", "ours", "paper", "difference"],
        [[name, show_ours(row), show_paper(row), show_difference(row)] for name, row in zip(shown, rows, strict=True)],
    )


def comparison_blocks(results: Results) -> list[str]:
    """All tables of an experiment, as blocks of Markdown."""
    by_dataset, others = figures_of(results)
    blocks = []
    for figures in by_dataset:
        blocks += [f"#### {escape(figures.dataset)}", *tables_of_dataset(figures)]
    if by_dataset and others:
        blocks.append("#### Other figures")
    return [*blocks, list_table(others)] if others else blocks
