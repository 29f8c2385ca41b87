"""Progress bars that suit a terminal and a log file."""

from __future__ import annotations

import sys
from typing import Any


class HiddenBar:
    """A bar that shows nothing, and needs no tqdm."""

    def __enter__(self) -> HiddenBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, number: float = 1) -> None:
        pass

    def set_postfix(self, **values: Any) -> None:
        pass


def progress_bar(items: Any = None, *, show: bool = True, **options: Any) -> Any:
    """Return a bar of tqdm's that is updated ten times a second on a terminal, every ten seconds in a log file.

    Args:
        items: what the bar iterates over; None for a bar that is updated by hand.
        show: False for the items themselves, or for a bar that shows nothing.
        options: options of tqdm, such as ``desc``, ``unit`` and ``total``.

    Raises:
        ImportError: tqdm, which a bar that is shown needs, is missing.
    """
    if not show:
        return HiddenBar() if items is None else items
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ImportError("progress: needs tqdm: pip install tqdm") from error
    return tqdm(items, mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)
