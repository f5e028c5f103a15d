"""Vectors of fewer dimensions: the principal components of a table, which stand in its metadata."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MAX_WIDTH = 8192
"""Longest vectors that are reduced: the sums of their products take 0.5 GB."""


@dataclass(frozen=True)
class Reduction:
    """Principal components of the vectors of a table.

    The vectors are not centred before, so that a product of two reduced vectors is close to the product of the vectors
    themselves, and with it their cosine.
    """

    components: np.ndarray
    """(N, E) float32, of length 1 and perpendicular to each other, that of the largest share first."""

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """(n, E) vectors -> (n, N) float32."""
        reduced: np.ndarray = np.asarray(vectors, np.float32) @ self.components.T
        return reduced

    def restore(self, reduced: np.ndarray) -> np.ndarray:
        """(n, N) reduced vectors -> (n, E) float32, the vectors without what the components do not hold."""
        vectors: np.ndarray = np.asarray(reduced, np.float32) @ self.components
        return vectors

    def to_text(self) -> str:
        """Return the components as text for the metadata of a table: safetensors in base64."""
        from safetensors.numpy import save

        return base64.b64encode(save({"components": np.ascontiguousarray(self.components)})).decode()

    @classmethod
    def from_text(cls, text: str | bytes, dimensions: int) -> "Reduction":
        """Read what `to_text` wrote.

        Raises:
            ValueError: It is something else, or its components do not give vectors of ``dimensions``.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            components = load(base64.b64decode(text, validate=True))["components"]
        except (binascii.Error, SafetensorError, KeyError, ValueError) as error:
            raise ValueError("principal components that cannot be read") from error
        if components.ndim != 2 or components.dtype != np.float32 or len(components) != dimensions:
            shape = "x".join(map(str, components.shape))
            raise ValueError(f"principal components of shape {shape} for vectors of length {dimensions}")
        if not np.isfinite(components).all():
            raise ValueError("principal components that are NaN or infinite")
        return cls(components)


def principal_components(blocks: Iterable[np.ndarray], count: int) -> tuple[Reduction, float]:
    """Find the principal components of vectors that are read once, in memory of E x E.

    Args:
        blocks: (n, E) vectors, of the same length in every block.
        count: Number of components, at most E.

    Returns:
        The components, and the share of the vectors' squared length that they hold, from 0 to 1.

    Raises:
        ValueError: There are no vectors, or they are too large for float64.
    """
    components, values = leading_components(moments(blocks).products, count)
    total = float(values.sum())
    share = float(values[:count].sum()) / total if total > 0 else 1.0
    return Reduction(components.astype(np.float32)), share


@dataclass(frozen=True)
class Moments:
    """Sums over vectors, from which their components and deviations follow; float64."""

    count: int
    """The number of vectors."""
    total: np.ndarray
    """(E,) their sum."""
    products: np.ndarray
    """(E, E) the sum of the products of their numbers."""

    @property
    def deviations(self) -> np.ndarray:
        """The standard deviation of each number, (E,)."""
        variances = self.products.diagonal() / self.count - (self.total / self.count) ** 2
        deviations: np.ndarray = np.sqrt(variances.clip(0))
        return deviations


def moments(blocks: Iterable[np.ndarray]) -> Moments:
    """Sum vectors that are read once; ValueError as in `principal_components`."""
    count, total, products = 0, np.zeros(()), np.zeros(())
    for block in blocks:
        wide = block.astype(np.float64)
        count, total, products = count + len(wide), total + wide.sum(axis=0), products + wide.T @ wide
    if not count or not np.isfinite(products).all():
        raise ValueError("vectors too large" if count else "no vectors to find principal components of")
    return Moments(count, total, products)


def leading_components(products: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the principal components of vectors, of which the (E, E) sum of their products is given.

    Returns:
        The (count, E) components, and the squared length of all vectors along each of the E that there are, the
        largest first; float64.
    """
    values, vectors = np.linalg.eigh(products)  # in ascending order
    chosen = vectors[:, : -count - 1 : -1].T
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(1)[:, None], 1)
    # their sign is free; so equal tables have equal components
    return chosen * np.where(largest < 0, -1.0, 1.0), values[::-1]
