"""``ald-ext report``: results as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..paper.report import check_report, write_report
from ..settings import require


def report_command(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of results of `ald-ext experiment` and of models of `ald-ext train`.")
    ],
    out: Annotated[
        str, typer.Option(help="The Markdown page to write; its plots go into <stem>_files beside it.", metavar="PATH")
    ] = "",
    html: Annotated[Path | None, typer.Option(help="Write the page as one self-contained HTML file, too.")] = None,
    tried: Annotated[
        Path | None, typer.Option(help="A Markdown page for the tables of what was tried; in OUT if not given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail where a Markdown page differs; write nothing.")] = False,
) -> None:
    """Write a page of results with tables, plots and pictures, with the paper's figures beside ours."""
    require(out, "report: out", "none", "a Markdown file: --out results.md")
    page = Path(out)
    if check:
        labels = check_report(folders, page, tried=tried)
        typer.echo(f"{page} shows {', '.join(labels)}")
    else:
        labels = write_report(folders, page, html=html, tried=tried)
        typer.echo(f"{', '.join(labels)} in {' and '.join(str(path) for path in (page, html, tried) if path)}")
