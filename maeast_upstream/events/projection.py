"""Reduces time steps to their principal axes, so that a detector can be fitted on each step and its neighbours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maeast_upstream.classification.classifier import standardized
from maeast_upstream.events.steps import with_context

AXES = 192
"""Principal axes that are kept of a time step; more of them found no more onsets in docs/results/events.md."""
BLOCK_STEPS = 8192
"""Time steps that are in memory at once in float32."""


@dataclass(frozen=True)
class Projection:
    """Standardization and rotation to principal axes."""

    mean: np.ndarray
    """(E,) float32."""
    scale: np.ndarray
    """(E,) float32; 1 where a dimension is constant."""
    axes: np.ndarray
    """(E, R) float32, orthonormal."""

    @classmethod
    def of(cls, blocks: "StepBlocks") -> "Projection":
        """Measure time steps, which are gone through twice.

        Args:
            blocks: Yields (n, E) steps in blocks, the same ones each time.
        """
        count, total, squares = 0, 0.0, 0.0
        for x in blocks():
            values = x.astype(np.float64)
            count, total, squares = count + len(x), total + values.sum(axis=0), squares + (values**2).sum(axis=0)
        mean = np.asarray(total / count)
        deviation = np.sqrt(np.maximum(np.asarray(squares / count) - mean**2, 0.0))
        scale = np.where(deviation > 1e-4, deviation, 1.0).astype(np.float32)
        mean = mean.astype(np.float32)
        products = np.zeros((len(mean), len(mean)))
        for x in blocks():
            z = standardized(x, mean, scale)
            products += z.T @ z
        return cls(mean, scale, principal_axes(products))

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        """Project (T, E) steps: (T, R) float32."""
        result: np.ndarray = standardized(steps, self.mean, self.scale) @ self.axes
        return result

    def context_blocks(self, steps: np.ndarray, offsets: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield consecutive steps of a recording with their neighbours: the first one's number, (n, O * R)."""
        reach = max(map(abs, offsets))
        for first in range(0, len(steps), BLOCK_STEPS):
            before = min(reach, first)
            block = with_context(self(steps[first - before : first + BLOCK_STEPS + reach]), offsets)
            yield first, block[before : before + BLOCK_STEPS]

    def unrotated(self, weight: np.ndarray) -> np.ndarray:
        """Turn (K, O * R) weights of projected steps with neighbours into (K, O * E) of standardized ones."""
        classes, axes = len(weight), self.axes.shape[1]
        result: np.ndarray = weight.reshape(classes, -1, axes) @ self.axes.T.astype(weight.dtype)
        return result.reshape(classes, -1)


class StepBlocks:
    """Chosen steps of recordings, in blocks."""

    def __init__(self, recordings: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> None:
        """Take (T, E) steps of recordings, and of each the ascending numbers of those that count."""
        self._pairs = list(zip(recordings, rows, strict=True))

    def __call__(self) -> Iterator[np.ndarray]:
        """Yield (n, E) float32 blocks."""
        for steps, rows in self._pairs:
            for first in range(0, len(rows), BLOCK_STEPS):
                yield steps[rows[first : first + BLOCK_STEPS]].astype(np.float32)


def principal_axes(products: np.ndarray) -> np.ndarray:
    """Return the directions of the largest values of (E, E) sums of products, at most `AXES`: (E, R) float32."""
    if len(products) <= 2 * AXES:
        values, vectors = np.linalg.eigh(products)
        return np.asarray(vectors[:, ::-1][:, : min(AXES, len(values))], np.float32)
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(products))
    _, vectors = eigsh(products, k=AXES, v0=start)
    return np.asarray(vectors[:, ::-1], np.float32)
