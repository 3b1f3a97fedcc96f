"""Stopping a run politely: Ctrl-C, the kernel's Interrupt or SIGTERM end it after its step."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class InterruptGuard:
    """Inside the ``with`` block a first SIGINT or SIGTERM only sets ``stop``.

    A second one acts at once as it would without the guard. The handlers from before come back
    at the end. Outside the main thread, where Python allows no handlers, nothing is guarded.
    """

    def __init__(self) -> None:
        self.stop = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number in list(self._before):
            self._restore(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop = True
        for guarded in list(self._before):
            self._restore(guarded)

    def _restore(self, number: int) -> None:
        signal.signal(number, self._before.pop(number) or signal.SIG_DFL)
