"""Finds all pairs of similar vectors and joins them into groups; exact, although few pairs are compared in full.

What is skipped cannot change the groups: pairs whose bound, see `bounds`, is below the threshold, blocks of rows that
lie too far from each other, and rows that belong to the same group already.
"""

from collections.abc import Callable

import numpy as np

from maeast_upstream.progress import progress_bar
from maeast_upstream.similarity.bounds import (
    BLOCK_ROWS,
    FULL_COST,
    blocks_of,
    coordinates_of,
    neighbouring,
    squared_gaps,
)
from maeast_upstream.similarity.groups import Groups

ROUNDING = 2e-5
"""More than the error of a product of unit vectors in float32: no pair is skipped because of it."""
BELOW = 0.01
"""How far below the threshold the pairs lie that are remembered."""
REMEMBERED = 64
MAX_CHECKED_BELOW = 10_000_000
"""Pairs below the threshold that are compared in order to be remembered; then no more are looked for."""

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(pairs,) similarities and the rows of each, the first one before the second."""
NO_PAIRS: Pairs = (np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))


class SimilarPairs:
    """A search for the pairs of rows whose cosine reaches a threshold."""

    def __init__(
        self,
        unit: np.ndarray,
        threshold: float,
        groups: Groups,
        excluded: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> None:
        """Name what is to be compared.

        Args:
            unit: (rows, E) float32 vectors of length 1; a vector of length 0 is similar to none.
            threshold: The smallest cosine of similar rows.
            groups: The groups of the rows so far, which `join` joins further.
            excluded: Returns, for two arrays of rows, which of these pairs do not count.
        """
        self.above: Pairs = NO_PAIRS
        """Some pairs that were joined, those nearest to the threshold first."""
        self.below: Pairs = NO_PAIRS
        """Some that were not, in the same order."""
        self.zero_vectors = 0
        """Rows whose vector is zero, which were not compared."""
        self._unit, self._threshold, self._groups, self._excluded = unit, threshold, groups, excluded
        self._low, self._checks_left = threshold - BELOW, MAX_CHECKED_BELOW

    def join(self, rows: np.ndarray) -> None:
        """Join the groups of all similar ones of ``rows``."""
        nonzero = np.concatenate([block.any(1) for _, block in blocks_of(self._unit)])[rows]
        self.zero_vectors = int((~nonzero).sum())
        rows = rows[nonzero]
        if len(rows) < 2:
            return
        coordinates = coordinates_of(self._unit, rows, self._low)
        blocks = list(neighbouring(coordinates, rows))
        lowest = np.stack([coordinates[block].min(0) for block in blocks])
        highest = np.stack([coordinates[block].max(0) for block in blocks])
        with progress_bar(total=len(blocks) * (len(blocks) + 1) // 2, desc="comparing", unit=" blocks") as bar:
            for number, block in enumerate(blocks):
                short = coordinates[block]
                # the squared distance of unit vectors is 2 - 2 cosine
                near = squared_gaps(lowest, highest, number) <= 2 - 2 * self._low + ROUNDING
                for other in np.flatnonzero(near) + number:
                    self._compare(block, short, blocks[other], coordinates, is_same=other == number)
                bar.update(len(blocks) - number)

    def _compare(
        self, block: np.ndarray, short: np.ndarray, other: np.ndarray, coordinates: np.ndarray, is_same: bool
    ) -> None:
        """Compare the rows of a block with those of another one, or with each other."""
        groups, others = self._groups.of(block), self._groups.of(other)
        if (groups == others[0]).all() and (others == groups[0]).all():
            return
        bound = short @ coordinates[other].T
        low = self._low - ROUNDING
        if bound.max() < low:
            return
        first, second = np.nonzero(np.triu(bound >= low, 1) if is_same else bound >= low)
        counts = groups[first] != others[second]
        counts[counts] = ~self._excluded(block[first[counts]], other[second[counts]])
        first, second = first[counts], second[counts]
        similarity = self._similarities(block, other, first, second)
        similar = similarity >= self._threshold
        self._remember(similarity, block[first], other[second], similar)
        self._groups.join(block[first[similar]], other[second[similar]])

    def _similarities(self, block: np.ndarray, other: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the cosines of pairs of rows of two blocks; those of many pairs by one product of matrices."""
        rows, row = np.unique(first, return_inverse=True)
        columns, column = np.unique(second, return_inverse=True)
        left, right = self._unit[block[rows]], self._unit[other[columns]]
        if FULL_COST * len(first) >= len(rows) * len(columns):
            similarity: np.ndarray = (left @ right.T)[row, column]
            return similarity
        parts = np.array_split(np.arange(len(first)), -(-len(first) // BLOCK_ROWS))
        return np.concatenate([np.einsum("nd,nd->n", left[row[part]], right[column[part]]) for part in parts])

    def _remember(self, similarity: np.ndarray, first: np.ndarray, second: np.ndarray, similar: np.ndarray) -> None:
        """Keep the pairs nearest to the threshold; from now on look below it only for nearer ones than those kept."""
        found = (similarity, np.minimum(first, second), np.maximum(first, second))
        self.above = self._nearest(self.above, found, similar)
        self.below = self._nearest(self.below, found, ~similar & (similarity >= self._low))
        self._checks_left -= int((~similar).sum())
        if self._checks_left < 0:
            self._low = self._threshold
        elif len(self.below[0]) == REMEMBERED:
            self._low = max(self._low, float(self.below[0][-1]))

    def _nearest(self, kept: Pairs, found: Pairs, chosen: np.ndarray) -> Pairs:
        if len(kept[0]) == REMEMBERED:
            chosen = chosen & (np.abs(found[0] - self._threshold) < abs(kept[0][-1] - self._threshold))
        values, first, second = (np.concatenate([old, new[chosen]]) for old, new in zip(kept, found, strict=True))
        order = np.argsort(np.abs(values - self._threshold), kind="stable")[:REMEMBERED]
        return values[order], first[order], second[order]
