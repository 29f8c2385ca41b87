"""The page as one HTML file that needs no other: pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.treeprocessors import Treeprocessor

from ...version import __version__
from .shown_pictures import ShownPicture

STYLE = """\
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c636b; --page: #ffffff; --panel: #f4f5f7;
  --line: #d5d9de; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e9; --soft: #a2a9b2; --page: #15171a; --panel: #202327; --line: #3a3f46; --link: #7ab8f5; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem; max-width: 66rem; color: var(--text); background: var(--page);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3, h4, h5, h6 { line-height: 1.25; margin: 1.6em 0 0.5em; }
h1 { margin-top: 0.3em; }
h2 { border-top: 1px solid var(--line); padding-top: 1em; }
a { color: var(--link); }
nav { background: var(--panel); border-radius: 0.4rem; padding: 0.6rem 1rem; }
nav ul { margin: 0.3rem 0; padding-left: 1.2rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.92em; }
pre { overflow-x: auto; background: var(--panel); border-radius: 0.4rem; padding: 0.7rem; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 3px solid var(--line); color: var(--soft); }
.scroll { overflow-x: auto; margin: 0.8rem 0; border: 1px solid var(--line); border-radius: 0.4rem; }
table { border-collapse: collapse; min-width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td[style*="right"] { white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th { background: var(--panel); vertical-align: bottom; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 0.2rem; }
img.pixels { image-rendering: pixelated; }
.picture { margin: 1.2rem 0 0; }
.picture + p { margin-top: 0.2rem; color: var(--soft); font-size: 0.9rem; }
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="ald_ext {version}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Results</title>
<style>
{style}</style>
</head>
<body>
{introduction}
<nav aria-label="Experiments">
{contents}
</nav>
<main>
{sections}
</main>
</body>
</html>
"""


class SelfContained(Treeprocessor):
    """Puts pictures into the page, tables into boxes that scroll, and takes away links to files beside the page.

    Args:
        converter: that runs this.
        pictures: by the links that the Markdown has.
    """

    def __init__(self, converter: Markdown, pictures: Mapping[str, ShownPicture]) -> None:
        super().__init__(converter)
        self.pictures = pictures

    def run(self, root: Element) -> None:
        for element in list(root.iter()):
            if element.tag == "p" and len(element) and self.is_captioned(element[0]):
                element.set("class", "picture")
            for place, child in enumerate(list(element)):
                if child.tag == "table":
                    element[place] = in_box(child)
        for picture in list(root.iter("img")):
            self.embed(picture)
        for link in root.iter("a"):
            if not link.get("href", "").startswith(("http://", "https://", "#")):
                link.attrib.pop("href", None)

    def is_captioned(self, element: Element) -> bool:
        shown = self.pictures.get(element.get("src", ""))
        return shown is not None and shown.captioned

    def embed(self, picture: Element) -> None:
        """A picture that is not the page's becomes a link to it."""
        link = picture.get("src", "")
        shown = self.pictures.get(link)
        if shown is None:
            description = picture.get("alt") or link
            picture.attrib.clear()
            picture.tag, picture.text = "a", description
            picture.set("href", link)
            return
        # The copy is made by now, but what it is made of is there in any case.
        picture.set("src", data_address(shown.source or shown.file))
        if shown.pixels:
            picture.set("class", "pixels")


def in_box(table: Element) -> Element:
    """A box around a table, which the keyboard can scroll, too."""
    box = Element("div", {"class": "scroll", "tabindex": "0"})
    box.tail, table.tail = table.tail, None
    box.append(table)
    return box


def data_address(path: Path) -> str:
    """A picture as an address that holds all of it. OSError where it cannot be read."""
    kind = "svg+xml" if path.suffix == ".svg" else path.suffix.lstrip(".").replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def html_page(text: str, pictures: Mapping[str, ShownPicture]) -> str:
    """The Markdown page as HTML. HTML inside it is shown as text.

    Args:
        text: the page.
        pictures: by the links in it; their files are read.
    """
    options = {"toc": {"toc_depth": "2-2"}}
    converter = Markdown(extensions=["tables", "fenced_code", "toc"], extension_configs=options)
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    # After "inline", which makes the pictures, and "toc".
    converter.treeprocessors.register(SelfContained(converter, pictures), "self_contained", 1)
    body = converter.convert(text)
    introduction, heading, sections = body.partition("<h2")
    return PAGE.format(
        version=__version__,
        style=STYLE,
        introduction=introduction.strip(),
        contents=converter.toc.strip(),  # type: ignore[attr-defined]
        sections=heading + sections,
    )
