"""Joins decoded blocks of samples to one array."""

from collections.abc import Callable, Iterator

import numpy as np

Join = Callable[[Iterator[np.ndarray]], np.ndarray]
"""Joins blocks of float32 samples to one array; may raise AudioError, where there are too many."""
LARGE_BLOCK_SAMPLES = 1 << 23
"""Small blocks are joined to blocks of 32 MiB, whose memory malloc returns to the system when it is freed."""


def cut(blocks: Iterator[np.ndarray], first: int, stop: float) -> Iterator[np.ndarray]:
    """Yield samples ``first`` to ``stop`` of the blocks."""
    position = 0
    for block in blocks:
        yield block[max(0, first - position) : int(max(0, min(len(block), stop - position)))]
        position += len(block)


def join_in_memory(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Join blocks to one float32 array, without holding all of them twice in memory."""
    kept: list[np.ndarray] = []
    small = small_samples = 0
    for block in blocks:
        kept.append(block)
        small, small_samples = small + 1, small_samples + len(block)
        if small_samples >= LARGE_BLOCK_SAMPLES:
            kept[-small:] = [np.concatenate(kept[-small:])]
            small = small_samples = 0
    joined = np.empty(sum(map(len, kept)), np.float32)
    position = len(joined)
    while kept:
        last = kept.pop()
        joined[position - len(last) : position] = last
        position -= len(last)
    return joined
