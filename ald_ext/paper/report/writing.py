"""Writes a page of results, or compares it with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...files import is_stream, write_atomically
from ...settings import require
from ..results import find_results
from .html_page import html_page
from .pictures import Links
from .sections import grouped, labels_of, read_notes, section, trials_table

INTRODUCTION = "# Results"
TRIED = "# What was tried"

READING = """\
*How to read the tables.* "Ours" is the mean over the seeds, ± its standard error where there are several. ↓ marks
figures of which less is better, ↑ those of which more is better, → 1 those that are best at 1; the best of a column is
bold. `ald-ext report` writes the tables from the files that the runs left; only the notes are written by hand."""


def build_pages(
    folders: Sequence[Path], out: Path, tried: Path | None = None
) -> tuple[dict[Path, str], Links, list[str]]:
    """Return the text of the page, and of that of the trials, by file; their links; and the labels of the sections.

    Writes nothing. The same results give the same pages.
    """
    groups = grouped(find_results(folders))
    labels = labels_of(groups)
    links = Links(out)
    introductions = [text for folder in folders if (text := read_notes(folder / "introduction.md"))]
    blocks = [*(introductions or [INTRODUCTION]), READING]
    trials = [read_notes(folders[0] / "tried.md") or TRIED]
    for group, label in zip(groups, labels, strict=True):
        blocks += section(group, label, links)
        place = group[0].folder
        if (place / "tried.json").is_file():
            notes = read_notes(place / "tried.md")
            table = [*([notes] if notes else []), trials_table(place / "tried.json")]
            if tried is None:
                blocks += ["### What was tried", *table]
            else:
                page = Links(out).file(tried, "Other settings")
                blocks.append(f"{page} and what came out of them are on a page of their own.")
                trials += [f"## {label}", *table]
    pages = {out: "\n\n".join(blocks) + "\n"}
    return pages | ({tried: "\n\n".join(trials) + "\n"} if tried else {}), links, labels


def write_report(
    folders: Sequence[Path], out: Path, *, html: Path | None = None, tried: Path | None = None
) -> list[str]:
    """Write the results below the folders as one page, and return the labels of its sections.

    Beside a results.json its section shows notes.md, which is written by hand, and tried.json, a list of objects with
    other settings and what they gave. introduction.md in one of the folders begins the page.

    Args:
        folders: are searched for results of experiments and for trained models.
        out: the Markdown file. Pictures in its folder, or below it, are linked to where they lie; plots, and copies of
            other pictures, are written into <stem>_files beside it.
        html: an HTML file with the page and its pictures inside.
        tried: a Markdown file for tried.json; None: in the sections of the page.

    Raises:
        ValueError: no results, a damaged file, the same file for two pages, or a device for one with pictures.
        OSError: a file cannot be read or written.
    """
    stream = next((path for path in (out, tried) if path and is_stream(path)), None)
    require(stream is None, "report: out", f"{str(stream)!r}, a device", "a file, as pictures go beside it, or --html")
    pages, links, labels = build_pages(folders, out, tried)
    if len({path.resolve() for path in (out, html, tried) if path}) < 1 + (html is not None) + (tried is not None):
        raise ValueError(f"report: out: got {str(out)!r}, expected another file than those of --html and --tried")
    for path, write in links.writers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    texts = pages | ({html: html_page(pages[out], links.tree)} if html else {})
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return labels


def check_report(folders: Sequence[Path], out: Path, *, tried: Path | None = None) -> list[str]:
    """Compare the pages with the results below the folders, and return the labels of the sections; write nothing.

    Args:
        folders, out, tried: as :func:`write_report` has them.

    Raises:
        ValueError: a page is not there or differs, or as :func:`write_report`.
    """
    pages, _, labels = build_pages(folders, out, tried)
    for path, text in pages.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            raise ValueError(
                f"report: {path}: differs from the page of these results; run ald-ext report without --check"
            )
    return labels
