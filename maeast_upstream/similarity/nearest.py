"""Exact cosine similarity of rows to queries, block by block: the nearest rows are kept, the blocks are not."""

import threading

import numpy as np
import torch

PIECE_ROWS = 512
"""Rows that are converted to float32 at a time: 3 MB of 1,536 dimensions stay in the cache between two uses."""
SHORTEST = 1e-15
"""Rows that are shorter are scaled before they are compared."""


class Nearest:
    """Collects the rows that are nearest to some queries; blocks may come in any order and from several threads."""

    def __init__(self, queries: np.ndarray, k: int) -> None:
        """Begin without any row.

        Args:
            queries: (Q, E) of any length but 0.
            k: Number of rows to keep for each query.

        Raises:
            ValueError: A query is zero or not finite, or k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self._queries = torch.from_numpy(unit(queries))
        self._rows = [np.zeros(0, np.int64) for _ in queries]
        self._similarities = [np.zeros(0, np.float32) for _ in queries]
        self._least = np.full(len(queries), -np.inf, np.float32)
        self._lock = threading.Lock()

    def add(self, first: int, vectors: np.ndarray) -> None:
        """Compare a block of rows with all queries.

        Args:
            first: Number of the first row of the block.
            vectors: (n, E) float32, float16 or int8; of the last any row may have a scale of its own, which does not
                matter here.

        Raises:
            ValueError: A value is NaN or infinite, or so large that the length of its row is.
        """
        similarities = cosines(vectors, self._queries, first)
        with self._lock:
            for query, column in enumerate(similarities):
                found = np.flatnonzero(column >= self._least[query])
                if len(found):
                    self._keep(query, first + found, column[found])

    def _keep(self, query: int, rows: np.ndarray, similarities: np.ndarray) -> None:
        rows = np.concatenate([self._rows[query], rows])
        similarities = np.concatenate([self._similarities[query], similarities])
        order = np.lexsort([rows, -similarities])[: self.k]  # equal ones in the order of the table
        self._rows[query], self._similarities[query] = rows[order], similarities[order]
        if len(order) == self.k:
            self._least[query] = similarities[order[-1]]

    def result(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return for each query (<= k,) row numbers, nearest first, and (<= k,) float32 cosines."""
        return self._rows, self._similarities


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale (Q, E) vectors to length 1, as float32.

    Raises:
        ValueError: One is zero, not finite or longer than float64 holds, so that it has no direction.
    """
    wide = np.asarray(vectors, np.float64)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("a query without direction: its vector is zero or not finite")
    scaled: np.ndarray = (wide / lengths).astype(np.float32)
    return scaled


@torch.no_grad()
def cosines(vectors: np.ndarray, queries: torch.Tensor, first: int = 0) -> np.ndarray:
    """Return (Q, n) float32 cosines of (n, E) rows and (Q, E) unit queries, 0 for a row of zeros.

    Raises:
        ValueError: A row is not finite; the message numbers it from ``first``.
    """
    result = torch.empty(len(queries), len(vectors))
    for start in range(0, len(vectors), PIECE_ROWS):
        rows = vectors[start : start + PIECE_ROWS]
        # torch warns of arrays that are read-only, as those of pyarrow are
        piece = torch.from_numpy(rows if rows.flags.writeable and rows.dtype != np.float32 else rows.copy()).float()
        lengths = torch.linalg.vector_norm(piece, dim=1)
        if not torch.isfinite(lengths).all():
            row = first + start + int((~torch.isfinite(lengths)).nonzero()[0])
            raise ValueError(f"row {row} (counted from 0) of the table has NaN, infinite or too large values")
        if (short := lengths < SHORTEST).any():  # the squares of such values are less than float32 holds
            piece[short] /= piece[short].abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            lengths = torch.linalg.vector_norm(piece, dim=1)
        products = queries @ piece.T
        result[:, start : start + PIECE_ROWS] = products / lengths.clamp_min(torch.finfo(torch.float32).tiny)
    return result.clamp_(-1.0, 1.0).numpy()
