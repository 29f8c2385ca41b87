"""Where the pictures of the page lie, and how it links to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from .formatting import escape
from .plots import Ratio


@dataclass(frozen=True)
class ShownPicture:
    """
    Attributes:
        file: that the link leads to.
        source: of which it is a copy; the file itself where it needs none.
        ratios: that it is to be drawn of; then there is no source.
        pixels: whether it is a grid of small images, whose pixels are to be seen as such.
        captioned: whether the paragraph that follows is its caption.
    """

    file: Path
    source: Path | None = None
    ratios: tuple[Ratio, ...] = ()
    pixels: bool = False
    captioned: bool = False


@dataclass
class ShownPictures:
    """The pictures of a page, by link.

    Attributes:
        out: the page's Markdown file.
        by_link: what was linked to so far.
    """

    out: Path
    by_link: dict[str, ShownPicture] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        """The folder of the page: what lies inside is linked to where it lies."""
        return self.out.parent.resolve()

    @property
    def files(self) -> Path:
        """The folder of copies and plots."""
        return self.tree / f"{self.out.stem}_files"

    def show(self, path: Path, folder: str, name: str, caption: str, pixels: bool = False) -> str:
        """A block of Markdown: the picture, and its caption below it."""
        return captioned(self.link(path, folder, name, pixels=pixels, captioned=bool(caption)), name, caption)

    def link(self, path: Path, folder: str, name: str, *, pixels: bool = False, captioned: bool = False) -> str:
        """The link to a picture, or to its copy FOLDER/NAME where it lies outside of the page's tree."""
        path = path.resolve()
        file = path if path.is_relative_to(self.tree) else self.files / folder / name
        return self.add(ShownPicture(file, path, pixels=pixels, captioned=captioned))

    def plot(self, ratios: Sequence[Ratio], name: str, caption: str) -> str:
        """A block of Markdown: a plot that is yet to be drawn, and its caption below it."""
        link = self.add(ShownPicture(self.files / name, ratios=tuple(ratios), captioned=True))
        return captioned(link, name, caption)

    def add(self, picture: ShownPicture) -> str:
        link = self.relative(picture.file)
        self.by_link[link] = picture
        return link

    def file_link(self, path: Path, name: str) -> str:
        """A link to a file inside the page's tree; the name of one outside."""
        path = path.resolve()
        if path.is_relative_to(self.tree):
            return f"[{escape(path.relative_to(self.tree).as_posix())}]({self.relative(path)})"
        return escape(name)

    def relative(self, path: Path) -> str:
        return quote(path.relative_to(self.tree).as_posix())


def captioned(link: str, name: str, caption: str) -> str:
    """A block of Markdown, or two."""
    picture = f"![{escape(PurePosixPath(name).stem)}]({link})"
    return f"{picture}\n\n{escape(caption)}" if caption else picture
