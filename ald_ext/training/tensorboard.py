"""Scalars and pictures for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor


class TensorBoardLog:
    """A log of events in a folder.

    Args:
        folder: the folder.
        first_step: step from which on events of an earlier run are discarded.
        enabled: False for a log that does nothing.

    Raises:
        ImportError: the package tensorboard is missing.
    """

    def __init__(self, folder: Path, first_step: int, enabled: bool) -> None:
        self.writer: Any = None
        if not enabled:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"tensorboard: {error}. Install it: pip install tensorboard") from error
        self.writer = SummaryWriter(str(folder), purge_step=first_step)  # type: ignore[no-untyped-call]

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one point of each curve."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, grid: Tensor) -> None:
        """Write a picture (H, W, 3), brightness in [0, 1]."""
        if self.writer is not None:
            self.writer.add_image(name, grid, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left, and close the log."""
        if self.writer is not None:
            self.writer.close()
