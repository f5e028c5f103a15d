"""Standardizes vectors by the labelled ones, and rotates them to the principal axes of those."""

from dataclasses import dataclass
from typing import Self

import numpy as np

MAX_STANDARD_DEVIATIONS = 20.0
"""Standardized values are clipped here, so that a clip far outside the range of train does no harm."""


@dataclass(frozen=True)
class Standardization:
    """The means and standard deviations of the rows that a classifier is fitted on."""

    mean: np.ndarray
    """(E,) float64."""
    scale: np.ndarray
    """(E,) float64; 1 where a dimension is constant."""

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Measure (n, E) rows."""
        x = rows.astype(np.float64)
        mean = x.mean(axis=0)
        deviation = (x - mean).std(axis=0)
        return cls(mean, np.where(deviation > 1e-8, deviation, 1.0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Standardize (n, E) rows: float64, clipped at `MAX_STANDARD_DEVIATIONS`."""
        x = rows.astype(np.float64)
        x -= self.mean
        x /= self.scale
        return np.clip(x, -MAX_STANDARD_DEVIATIONS, MAX_STANDARD_DEVIATIONS, out=x)


def principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis of the span of rows, in which their dimensions are uncorrelated.

    With an L2 penalty the weights of a linear classifier lie in that span: to fit ``x @ axes`` changes nothing but the
    size. The axes come from the products of the rows or of the dimensions, whichever are fewer.

    Args:
        x: (n, E) float64.

    Returns:
        axes: (E, R) float64, R at most the smaller of n and E.
        variances: (R,) mean squares of ``x @ axes``, ascending.
    """
    is_wide = x.shape[0] < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
    kept = values > 1e-12 * max(float(values[-1]), 0.0)
    values, vectors = values[kept], vectors[:, kept]
    return (x.T @ (vectors / np.sqrt(values)) if is_wide else vectors), values / len(x)
