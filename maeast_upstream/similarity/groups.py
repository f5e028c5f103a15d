"""Joins rows into groups: a union-find over arrays."""

import numpy as np


class Groups:
    """The connected components of a graph whose edges come in arrays."""

    def __init__(self, rows: int) -> None:
        """Begin with each row in a group of its own."""
        self._parent = np.arange(rows)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the group of each row, named by its first row."""
        roots: np.ndarray = self._parent[rows]
        while not np.array_equal(above := self._parent[roots], roots):
            self._parent[roots] = self._parent[above]  # halves each way to a root
            roots = self._parent[roots]
        self._parent[rows] = roots  # found in one step from now on
        return roots

    def join(self, rows: np.ndarray, others: np.ndarray) -> None:
        """Join the group of each row with that of the row in the same place of ``others``."""
        while len(rows):
            first, second = self.of(rows), self.of(others)
            differ = first != second
            rows, others, first, second = rows[differ], others[differ], first[differ], second[differ]
            # a root's parent becomes the first of the roots that it meets; the next round joins it with the others
            np.minimum.at(self._parent, np.maximum(first, second), np.minimum(first, second))

    def members(self) -> list[np.ndarray]:
        """Return the rows of each group of at least two rows, in the order of their first rows."""
        roots = self.of(np.arange(len(self._parent)))
        shared = np.flatnonzero(np.bincount(roots)[roots] > 1)
        order = shared[np.argsort(roots[shared], kind="stable")]
        starts = np.flatnonzero(np.diff(roots[order])) + 1
        return np.split(order, starts) if len(order) else []
