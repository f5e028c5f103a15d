"""Compares files by their bytes."""

import hashlib
import os
import stat
from collections.abc import Sequence

import numpy as np

from maeast_upstream.progress import progress_bar

NOT_FOUND = -1


def contents_of(paths: Sequence[str]) -> np.ndarray:
    """Find the files with the same bytes; only files whose size another one has are read.

    Args:
        paths: Different files, see `Clips`.

    Returns:
        (files,) int64: equal numbers for equal bytes; `NOT_FOUND` for a file that is not there or cannot be read, and
        for an address, which is not looked at.
    """
    sizes = np.array([_size(path) for path in paths], np.int64)
    contents = np.where(sizes == NOT_FOUND, NOT_FOUND, np.arange(len(paths)))
    _, group, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    first_of: dict[tuple[int, bytes], int] = {}
    alike = np.flatnonzero((counts[group] > 1) & (sizes != NOT_FOUND)).tolist()
    for number in progress_bar(alike, desc="comparing files", unit=" files"):
        try:
            with open(paths[number], "rb") as file:  # noqa: PTH123
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            contents[number] = NOT_FOUND
            continue
        contents[number] = first_of.setdefault((sizes[number], digest), number)
    return contents


def _size(path: str) -> int:
    """Return the number of bytes of an ordinary file, and otherwise `NOT_FOUND`."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return NOT_FOUND
    return status.st_size if stat.S_ISREG(status.st_mode) else NOT_FOUND
