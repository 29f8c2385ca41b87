"""The page put together, and written or compared with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files import write_atomically
from ..results import find_results
from .html_page import html_page
from .plots import draw_ratios
from .sections import INTRODUCTION, labels_of, section
from .shown_pictures import ShownPicture, ShownPictures


@dataclass(frozen=True)
class Page:
    """
    Attributes:
        text: in Markdown.
        labels: of its sections, one an experiment.
        pictures: by the links in the text.
    """

    text: str
    labels: tuple[str, ...]
    pictures: dict[str, ShownPicture]


def build_page(folders: Sequence[Path], out: Path) -> Page:
    """The page that is to be at ``out``; writes nothing. The same results give the same page.

    Raises:
        ValueError: no results, or a damaged file.
    """
    found = find_results(folders)
    labels = labels_of(found)
    pictures = ShownPictures(out)
    sections = [section(results, label, pictures) for results, label in zip(found, labels, strict=True)]
    return Page("\n\n".join([INTRODUCTION, *sections]) + "\n", tuple(labels), pictures.by_link)


def write_report(folders: Sequence[Path], out: Path, html: Path | None = None) -> Page:
    """Writes the results below ``folders`` as one page: Markdown, HTML, and a folder of plots and copied pictures.

    Args:
        folders: in which every results.json is looked for.
        out: the Markdown file. Pictures in its folder, or below it, are linked to where they lie; plots, and copies of
            other pictures, are written into <stem>_files beside it.
        html: the HTML file, with everything inside it; beside ``out`` if not given.

    Raises:
        ValueError: no results, a damaged file, or the same file for both pages.
        OSError: a file cannot be read or written.
    """
    html = out.with_suffix(".html") if html is None else html
    if html.resolve() == out.resolve():
        raise ValueError(f"report: html: got {str(html)!r}, which is the Markdown file, expected another")
    page = build_page(folders, out)
    for picture in page.pictures.values():
        write_picture(picture)
    for path, text in ((out, page.text), (html, html_page(page.text, page.pictures))):
        write_bytes(path, text.encode())
    return page


def check_report(folders: Sequence[Path], out: Path) -> Page:
    """The page at ``out``, compared with the results below ``folders``; writes nothing.

    Raises:
        ValueError: the Markdown is not there or differs, or as :func:`write_report`.
    """
    page = build_page(folders, out)
    if not out.is_file() or out.read_bytes() != page.text.encode():
        raise ValueError(f"report: {out}: got a page that is not of these results; run ald-ext report without --check")
    return page


def write_picture(picture: ShownPicture) -> None:
    """Draws a plot, copies a picture that lies elsewhere, leaves one that is in its place."""
    if picture.source is None:
        picture.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(picture.file, lambda file: draw_ratios(picture.ratios, file))
    elif picture.source != picture.file:
        write_bytes(picture.file, picture.source.read_bytes())


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write_bytes(content))
