"""An empty picture, where matplotlib is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(owner: str, width: float, height: float) -> Figure:
    """Return a figure of a size in inches, without a window. ImportError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(f"{owner}: needs matplotlib: pip install 'ald_ext[bayes]'") from error
    return Figure(figsize=(width, height), layout="constrained")
