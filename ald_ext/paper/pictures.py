"""Pictures that matplotlib draws, without a window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # matplotlib is imported where something is drawn
    Figure = Any


def new_picture(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a picture of ``size`` inches, and its panels as an array (rows, columns)."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=size, layout="constrained")
    return picture, picture.subplots(rows, columns, squeeze=False, **options)


def save_picture(picture: Figure, path: Path) -> None:
    """Write a PNG file; the same picture gives the same bytes."""
    write_atomically(path, lambda file: picture.savefig(file, format="png", dpi=110, metadata={"Software": None}))
