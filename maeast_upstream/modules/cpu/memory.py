"""Lets a process keep the memory that it frees."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of the options in glibc's malloc.h."""
MAX_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse blocks of up to 1 GiB, which it otherwise returns to the system at once.

    A training step on a CPU frees and allocates the same tensors of some 10 MB again and again, and each time the
    system clears every page. On systems without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # an older glibc refuses so large a threshold; its own adaptive one is then better than the other option alone
    if mallopt is not None and mallopt(MMAP_THRESHOLD, MAX_KEPT_BYTES):
        mallopt(TRIM_THRESHOLD, MAX_KEPT_BYTES)
