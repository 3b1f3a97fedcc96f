"""Widget callbacks brought back to the kernel's main thread.

    click ──> callback in a thread of its own ──> main thread: after the cell that is running

JupyterLab 4.4 and ipykernel 7 run a widget's callbacks in a subshell, a thread beside the one
that runs the cells. A model must not answer there: a cell may be training it at that moment, and
the kernel's Interrupt reaches the main thread only. Elsewhere a callback is on the main thread
already, and runs at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class MainThread:
    """Remembers the event loop of the cell in which it is made, and runs calls there."""

    def __init__(self) -> None:
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # a script: there is no loop, and no other thread either
            self._loop = None

    def run(self, call: Callable[[], object]) -> None:
        """Now, on the main thread or without a loop; else as soon as the main thread is free."""
        if self._loop is None or threading.current_thread() is threading.main_thread():
            call()
        else:
            self._loop.call_soon_threadsafe(call)
