"""``ald-ext report``: the results of experiments as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..paper.report import check_report, write_report


def report_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders in which every results.json is looked for.")],
    out: Annotated[
        Path, typer.Option(help="The Markdown page to write; its plots go into <stem>_files beside it.")
    ] = Path("docs/results.md"),
    html: Annotated[
        Path | None, typer.Option(help="The same page as one HTML file; beside OUT, with its name, if not given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail where the Markdown differs; write nothing.")] = False,
) -> None:
    """Put the results of experiments beside the paper's, on one page with tables, plots and pictures."""
    if check:
        page = check_report(folders, out)
        typer.echo(f"{out} is of the results of {len(page.labels)} experiments")
    else:
        html = out.with_suffix(".html") if html is None else html
        page = write_report(folders, out, html)
        typer.echo(f"{len(page.labels)} experiments in {out} and {html}")
