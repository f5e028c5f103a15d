"""Arrays that files are mapped to."""

import mmap

import numpy as np


def release(array: np.ndarray) -> None:
    """Let the system drop the pages of an array that a file is mapped to; they can be read again."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)
