"""Memory that a process frees stays with it."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of options in glibc's malloc.h."""
LARGEST = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse blocks of up to 1 GiB, which it else gives back at once.

    A training step on a CPU frees and asks for the same tensors of some 10 MB again and again, and the system clears
    every page each time: 3 to 6 per cent of a step of the base model. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # an older glibc refuses so large a threshold; its own, which adapts, is then better than the other option alone
    if mallopt is not None and mallopt(MMAP_THRESHOLD, LARGEST):
        mallopt(TRIM_THRESHOLD, LARGEST)
