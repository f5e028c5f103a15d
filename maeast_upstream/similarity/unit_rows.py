"""The vectors of a table, scaled to length 1, where any row can be read: in memory, or in a temporary file."""

import tempfile
from collections.abc import Iterable

import numpy as np

MAX_BYTES_IN_MEMORY = 1 << 30
"""Larger tables go to a file without a name in the folder that TMPDIR names."""


def unit_rows(blocks: Iterable[np.ndarray], rows: int, dimensions: int) -> np.ndarray:
    """Return vectors divided by their lengths; a vector of zeros stays one.

    Args:
        blocks: Consecutive rows, (n, dimensions) float32, finite.
        rows: Their number.
        dimensions: Length of a vector.

    Returns:
        (rows, dimensions) float32, which cannot be written to if it is a file.

    Raises:
        OSError: The temporary file does not fit.
    """
    shape = (rows, dimensions)
    if 4 * rows * dimensions <= MAX_BYTES_IN_MEMORY:
        unit, first = np.empty(shape, np.float32), 0
        for block in blocks:
            unit[first : first + len(block)] = _scaled(block)
            first += len(block)
        return unit
    with tempfile.TemporaryFile() as file:  # the map keeps it
        for block in blocks:
            _scaled(block).tofile(file)
        file.flush()
        return np.memmap(file, np.float32, mode="r", shape=shape)


def _scaled(block: np.ndarray) -> np.ndarray:
    wide = block.astype(np.float64)  # squares of float32 may be infinite
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]
    scaled: np.ndarray = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return scaled.astype(np.float32)
