"""SIGINT and SIGTERM as a request, which the training loop grants between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(RuntimeError):  # noqa: N818 - it is no error
    """The signal ``signal_number`` ended the run; its checkpoint was written."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[type[TrainingInterrupted], tuple[str, int]]:
        """Pickle both arguments, so that the exception can come from other processes."""
        return type(self), (str(self), self.signal_number)


class Interruption:
    """A context in which the first SIGINT or SIGTERM only sets ``signal_number``; a second one acts as usual.

    Only the main thread can handle signals; in others the context does nothing. A signal that the process was started
    to ignore stays ignored.

    Args:
        patient: ignore further signals, too: torchrun passes on those that its processes had from the terminal already,
            and kills them after a while.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.signal_number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._previous = {number: signal.signal(number, self._request) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.patient and kind is not None and issubclass(kind, ConnectionError):
            self._previous.pop(signal.SIGTERM, None)  # torchrun stops a group at once; why is said before
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        if not self.patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
