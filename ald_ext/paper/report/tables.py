"""Tables in Markdown: ours beside the paper's figures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..results import Results, Row
from .metrics import best_value, direction

#: Stands where there is no finite number: a sampler that diverged, an error that was never reached.
NOT_FINITE = "not finite"
#: Characters that Markdown takes for markup. Those that no backslash protects everywhere become entities.
ESCAPES = {character: f"\\{character}" for character in "\\`*_[]|"} | {
    character: f"&#{ord(character)};" for character in "&<>~$"
}


def escape(text: str) -> str:
    """Return text that Markdown shows as it stands, in one line."""
    return "".join(ESCAPES.get(character, character) for character in " ".join(text.split()))


def code(name: str) -> str:
    """Return a name in the type of code, or as text where it has characters that could end it or a table's cell."""
    return f"`{name}`" if re.fullmatch(r"[\w./=+ -]+", name) else escape(name)


def heading(metric: str) -> str:
    """Return a figure's name with the arrow that tells which way is better."""
    return f"{code(metric)} {direction(metric)}".strip()


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with its significant digits, without an exponent where they stand before the point."""
    if value is None:
        return NOT_FINITE
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def show_paper(row: Row | None) -> str:
    return "" if row is None or row.paper is None else number(row.paper)


def show_ours(row: Row | None, error: bool = True) -> str:
    """Return the mean over the seeds ± its standard error, or how many seeds gave nothing finite."""
    if row is None:
        return ""
    if row.mean is None:
        failed = sum(value is None for value in row.values)
        return NOT_FINITE if failed == len(row.values) else f"{NOT_FINITE} in {failed} of {len(row.values)} seeds"
    return number(row.mean) + (
        f" ± {number(row.standard_error, 2)}" if error and row.standard_error is not None else ""
    )


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """Return a table, with all columns but the first set to the right if they hold numbers."""
    rule = ["---"] + ["---:" if numbers else "---"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


def marked(metric: str, rows: Sequence[Row | None], of_paper: bool = False, error: bool = True) -> list[str]:
    """Return one cell a row, ours or the paper's, with the best value bold."""
    values = [None if row is None else row.paper if of_paper else row.mean for row in rows]
    cells = [show_paper(row) if of_paper else show_ours(row, error) for row in rows]
    best = best_value(metric, values)
    return [
        f"**{cell}**" if best is not None and value == best else cell for cell, value in zip(cells, values, strict=True)
    ]


class DatasetTable:
    """The rows DATASET/MODEL/METRIC of one data set.

    Attributes:
        rows: by model and metric.
        models, metrics: their names, in the order of the rows.
        classes: the metrics that each class has one of, such as auprc_normal_3, by the metric of their mean.
    """

    def __init__(self, rows: dict[tuple[str, str], Row]) -> None:
        self.rows = rows
        self.models = list(dict.fromkeys(model for model, _ in rows))
        self.metrics = list(dict.fromkeys(metric for _, metric in rows))
        self.classes: dict[str, list[str]] = {}
        for metric in self.metrics:
            if match := re.fullmatch(r"(.+)_\d+", metric):
                self.classes.setdefault(match[1], []).append(metric)
        for members in self.classes.values():
            members.sort(key=lambda metric: int(metric.rpartition("_")[2]))

    def column(self, metric: str) -> list[Row | None]:
        return [self.rows.get((model, metric)) for model in self.models]

    def has_paper(self, metric: str) -> bool:
        return any(row is not None and row.paper is not None for row in self.column(metric))

    def blocks(self) -> list[str]:
        """Return Markdown: models by metrics, and models by classes where these have figures of their own."""
        of_classes = {metric for members in self.classes.values() for metric in members}
        means = [metric for metric in self.metrics if metric not in of_classes]
        if len(self.models) == 1 and not of_classes:
            return [list_table([{metric: row for (_, metric), row in self.rows.items()}], ["ours"])]
        # Only the classes' figures that the paper has too are shown, or else those of the first metric.
        main = [base for base, members in self.classes.items() if any(map(self.has_paper, members))]
        main = main or list(self.classes)[:1]
        shown = [metric for metric in means if metric in main] if main else means
        blocks = [self.by_metric(shown)] if shown else []
        for base in main:
            blocks += self.by_class(base)
        if rest := [metric for metric in means if metric not in shown]:
            body = [[heading(metric), *marked(metric, self.column(metric))] for metric in rest]
            blocks += ["Means over the classes of the other figures:"]
            blocks += [markdown_table(["figure", *map(code, self.models)], body)]
        return [*blocks, *(["Those of every class are in results.json."] if len(self.classes) > len(main) else [])]

    def by_metric(self, metrics: Sequence[str]) -> str:
        """Return a row a model, and a column a metric, or two where the paper has figures of it."""
        header, columns = ["model"], [[code(model) for model in self.models]]
        for metric in metrics:
            if self.has_paper(metric):
                header.append(f"{heading(metric)}, paper")
                columns.append(marked(metric, self.column(metric), of_paper=True))
            header.append(f"{heading(metric)}, ours")
            columns.append(marked(metric, self.column(metric)))
        return markdown_table(header, list(zip(*columns, strict=True)))

    def by_class(self, base: str) -> list[str]:
        """Return ours and the paper's: a row a model, a column a class, and their mean if there is one."""
        metrics = [*self.classes[base], *([base] if base in self.metrics else [])]
        names = [metric.rpartition("_")[2] for metric in self.classes[base]]
        header = ["model", *names, *(["mean"] if base in self.metrics else [])]
        blocks = []
        for whose, of_paper in (("ours", False), ("the paper's", True)):
            if not of_paper or any(map(self.has_paper, metrics)):
                columns = [marked(metric, self.column(metric), of_paper, error=False) for metric in metrics]
                body = list(zip(map(code, self.models), *columns, strict=True))
                blocks += [f"{heading(base)} of every class, {whose}:", markdown_table(header, body)]
        return blocks


def dataset_tables(results: Results) -> tuple[dict[str, DatasetTable], dict[str, Row]]:
    """Split the rows of an experiment on images by data set, and return those that belong to no such table beside.

    The latter have other names, or compare models, such as mnist/lae/seconds_to_re_of_abp.
    """
    models = {job.model for job in results.jobs or ()}
    tables: dict[str, dict[tuple[str, str], Row]] = {}
    others = {}
    for row in results.rows:
        parts = row.name.split("/")
        compares = any(re.search(rf"_of_{re.escape(model)}(_|$)", row.name) for model in models)
        if results.jobs is None or len(parts) != 3 or compares:
            others[row.name] = row
        else:
            tables.setdefault(parts[0], {})[parts[1], parts[2]] = row
    return {dataset: DatasetTable(rows) for dataset, rows in tables.items()}, others


def list_table(columns: Sequence[dict[str, Row]], names: Sequence[str]) -> str:
    """Return a line a figure: the paper's if it has any, and ours in each of the columns."""
    rows = {name: row for column in reversed(columns) for name, row in column.items()}
    order = dict.fromkeys(name for column in columns for name in column)
    with_paper = any(row.paper is not None for row in rows.values())
    body = [
        [heading(name), *([show_paper(rows[name])] if with_paper else []), *(show_ours(c.get(name)) for c in columns)]
        for name in order
    ]
    return markdown_table(["figure", *(["paper"] if with_paper else []), *names], body)
