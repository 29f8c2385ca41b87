"""Links of a page to files and pictures, and the pictures that are written beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from .plot import Multiple, plot_multiples


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

    def plot(self, multiples: Sequence[Multiple], name: str) -> str:
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
