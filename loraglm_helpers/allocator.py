"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
import sys


def reuse_memory() -> bool:
    """Let glibc keep freed blocks, once a process, before training on a CPU.

    By default each large tensor is mapped anew and its pages faulted in one by one, which
    doubles the time of every element-wise operation. False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim, top_pad, mmap = -1, -2, -3  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
    settings = {mmap: 32 << 20, trim: 2**31 - 1, top_pad: 64 << 20}
    return all([mallopt(name, size) for name, size in settings.items()])
