"""A lock that processes share through a file: one holds it, the others wait.

It belongs to the open file, so it ends with its process, however that ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
PAUSE = 0.1  # seconds between two tries where the system cannot wait by itself


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of ``path`` (made when missing, and left there) inside a with-block."""
    with Path(path).open("ab") as stream:
        if fcntl is None:
            _lock_first_byte(stream)
        else:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield  # closing the file lets the next one in


def _lock_first_byte(stream: BinaryIO) -> None:
    import msvcrt

    while True:
        try:
            stream.seek(0)
            return msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            time.sleep(PAUSE)
