"""Principal components of standardized embeddings, computed from some rows and applied to all, block by block."""

from dataclasses import dataclass

import numpy as np

from maeast_upstream.messages import install_extra

DIMENSIONS = 50
"""Components that are kept, as for ``maeast map``."""
SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class Components:
    """A standardization of each dimension, then a projection to the principal components."""

    mean: np.ndarray
    scale: np.ndarray
    """(E,) float32 each."""
    axes: np.ndarray
    """(at most 50, E) float32."""

    @classmethod
    def fit(cls, vectors: np.ndarray, seed: int) -> "Components":
        """Compute the components of (rows, E) vectors.

        Raises:
            ValueError: scikit-learn is not installed, or the vectors are too large for float32.
        """
        try:
            from sklearn.decomposition import PCA
        except ImportError as error:
            raise ValueError(f"clusters need scikit-learn: {install_extra('probe')}") from error
        mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = vectors - mean
        if not np.isfinite(scaled).all():
            raise ValueError(f"embeddings up to {np.abs(vectors).max():.2g} cannot be compared; expected below 1e30")
        variance = np.einsum("nd,nd->d", scaled, scaled, dtype=np.float64) / len(scaled)
        scale = np.maximum(np.sqrt(variance), SMALLEST_DEVIATION).astype(np.float32)
        scaled /= scale
        with np.errstate(invalid="ignore"):  # the share of a variance of 0, if all rows are equal
            pca = PCA(min(DIMENSIONS, *scaled.shape), random_state=seed, copy=False).fit(scaled)
        return cls(mean, scale, pca.components_.astype(np.float32))

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """(rows, E) vectors -> (rows, at most 50) float32."""
        reduced: np.ndarray = ((vectors - self.mean) / self.scale) @ self.axes.T
        return reduced
