"""Whitening of scene embeddings: a linear map after which their numbers vary alike and are little correlated; no torch.

The C numbers of a vector are G groups (statistics over time times mel patches, or one) of the D numbers of a token. The
covariance of all C is taken to be separable, a G x G matrix for the groups times a D x D matrix for the numbers of a
token, so that some hundred vectors are enough to fit it and its file is small. The two are found in turns, as in
Dutilleul, The MLE algorithm for the matrix normal distribution, 1999. Each is mixed with the identity (shrinkage:
Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004), because directions that
hardly vary hold noise, and its inverse symmetric square root is the map ("ZCA-cor" in Kessy, Lewin and Strimmer,
Optimal whitening and decorrelation, 2018).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from maeast_upstream.data.reduction import moments

SHRINKAGE = 0.2
"""Share of the identity in each of the two matrices."""
ROUNDS = 10
"""How often the two matrices are found in turns; the last time changed those of the bundled checkpoint by 4e-5."""
LEAST_DEVIATION = 1e-3
"""A number that varies less than this share of its own size is as good as constant: its weight is 0."""
MAX_WEIGHT = 1e6
"""The largest weight of a number, so that no number of a vector becomes infinite."""
ARRAYS = ("mean", "weights", "groups", "numbers")
"""The fields of a `Whitening`, by which its arrays are stored."""
MAX_ENTRY = 100.0
"""Shrunk matrices have eigenvalues from SHRINKAGE, so that no entry of the square root of an inverse is near it."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """Turns (C,) pooled statistics into (C,) whitened ones: ``groups @ ((x - mean) * weights as (G, D)) @ numbers``."""

    mean: np.ndarray
    """(C,) float32."""
    weights: np.ndarray
    """(C,) float32: 1 / the standard deviation of each number, or 0 for one that is constant."""
    groups: np.ndarray
    """(G, G) float32, symmetric."""
    numbers: np.ndarray
    """(D, D) float32, symmetric."""

    @property
    def width(self) -> int:
        """C."""
        return len(self.mean)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """(n, C) vectors -> (n, C) float32."""
        scaled = (np.asarray(vectors, np.float64) - self.mean) * self.weights
        grouped = self.groups @ scaled.reshape(len(scaled), len(self.groups), len(self.numbers)) @ self.numbers
        whitened: np.ndarray = grouped.reshape(len(scaled), -1).astype(np.float32)
        return whitened

    def check(self, width: int, token_width: int) -> None:
        """Raise ValueError unless this can whiten vectors of a network, whatever program wrote it.

        Args:
            width: C, the length of its scene embeddings.
            token_width: D, the length of its tokens.
        """
        expected = {
            "mean": (width,),
            "weights": (width,),
            "groups": (width // token_width, width // token_width),
            "numbers": (token_width, token_width),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f"whitening: {name} of shape {array.shape}; expected {shape}")
        if not ((self.weights >= 0) & (self.weights <= MAX_WEIGHT)).all():
            raise ValueError(f"whitening: weights that are not {width} numbers from 0 to {MAX_WEIGHT:g}")
        if not (np.abs(self.mean) <= MAX_WEIGHT).all():
            raise ValueError(f"whitening: a mean beyond {MAX_WEIGHT:g}, or NaN")
        if not all((np.abs(matrix) <= MAX_ENTRY).all() for matrix in (self.groups, self.numbers)):
            raise ValueError(f"whitening: matrices with entries beyond {MAX_ENTRY:g}, or NaN")


def fit_whitening(blocks: Iterable[np.ndarray], token_width: int) -> Whitening:
    """Fit a whitening on vectors that are read once, in memory of C x C whatever their number.

    Args:
        blocks: (n, C) scene embeddings, of the same length in every block; at least `least_vectors` in all.
        token_width: D, the length of a token; C is a multiple of it.

    Raises:
        ValueError: There are too few vectors, or they do not vary.
    """
    sums = moments(blocks)
    width = len(sums.total)
    count, mean = sums.count, sums.total / sums.count
    if count < least_vectors(width, token_width):
        least = least_vectors(width, token_width)
        raise ValueError(f"{count} vectors are too few for a whitening; expected at least {least}")
    sizes = np.sqrt(sums.products.diagonal() / count)
    varies = sums.deviations > LEAST_DEVIATION * sizes
    if not varies.any():
        raise ValueError("the vectors do not vary")
    weights = np.divide(1, sums.deviations, where=varies, out=np.zeros(width)).clip(max=MAX_WEIGHT)
    correlations = (sums.products / count - np.outer(mean, mean)) * weights * weights[:, None]
    groups, numbers = separate(correlations, token_width)
    arrays = mean, weights, shrunk_root(groups), shrunk_root(numbers)
    return Whitening(*(array.astype(np.float32) for array in arrays))


def least_vectors(width: int, token_width: int) -> int:
    """How many vectors are enough for both matrices to be of full rank; several times as many are better.

    Args:
        width: C.
        token_width: D.
    """
    groups = width // token_width
    return max(groups, -(-token_width // groups)) + 1


def separate(covariance: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the (G, G) and (width, width) matrices whose Kronecker product is nearest in likelihood to a covariance.

    Args:
        covariance: (G * width, G * width).
        width: D.

    Returns:
        Matrices whose diagonals have a mean of 1.
    """
    count = len(covariance) // width
    blocks = covariance.reshape(count, width, count, width)
    groups = np.eye(count)
    for _ in range(ROUNDS):
        numbers = _of_mean_1(np.tensordot(_inverse(groups), blocks, ([0, 1], [0, 2])))
        groups = _of_mean_1(np.tensordot(blocks, _inverse(numbers), ([1, 3], [0, 1])))
    return groups, numbers


def shrunk_root(covariance: np.ndarray) -> np.ndarray:
    """Return the inverse symmetric square root of a covariance that is mixed with the identity, see SHRINKAGE."""
    values, vectors = np.linalg.eigh(covariance)
    shrunk = (1 - SHRINKAGE) * values.clip(0) + SHRINKAGE
    root: np.ndarray = (vectors / np.sqrt(shrunk)) @ vectors.T
    return root


def _of_mean_1(matrix: np.ndarray) -> np.ndarray:
    """The matrix, made symmetric to the last bit, with a diagonal of mean 1."""
    symmetric = (matrix + matrix.T) / 2
    scaled: np.ndarray = symmetric / np.trace(symmetric) * len(symmetric)
    return scaled


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a covariance that may have directions in which nothing varies."""
    inverse: np.ndarray = np.linalg.inv(matrix + 1e-3 * np.eye(len(matrix)))
    return inverse
