"""Short coordinates of unit vectors, whose products bound the cosines from above, and blocks of neighbours.

A vector x is its projection Px to a few orthonormal directions and a rest Rx. By the inequality of Cauchy and Schwarz,
x·y <= Px·Py + |Rx| |Ry|. With |Rx| as the last coordinate, this bound is one product of short vectors, and the distance
of two such vectors is at most that of x and y.
"""

from collections.abc import Iterator

import numpy as np

BLOCK_ROWS = 1024
SAMPLE_ROWS = 1024
"""Rows from which directions are computed and costs are estimated."""
DIRECTIONS = (16, 32, 64, 128, 256)
"""How many directions there may be; the sample decides."""
ORDER_DIRECTIONS = 16
"""Directions by which rows are put into blocks."""
FULL_COST = 40.0
"""Time of the full cosine of a pair, whose rows are gathered for it, in those of a pair in a product of matrices."""
REST = 1e-6
"""Added to the square of the rest, above its error in float32: a bound may be too high, but not too low."""


def blocks_of(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield consecutive rows and where they stand."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        yield part, vectors[part]


def coordinates_of(unit: np.ndarray, rows: np.ndarray, low: float) -> np.ndarray:
    """Project vectors to as many principal directions as make a search for similar pairs fastest.

    Args:
        unit: (all rows, E) float32, of length 1.
        rows: The rows to compute the directions from.
        low: The smallest cosine to search for.

    Returns:
        (all rows, directions + 1) float32.
    """
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(SAMPLE_ROWS, len(rows)), replace=False))
    sample = unit[chosen]
    directions = _principal_directions(sample)
    best = directions[:, : _best_count(sample, directions, low)]
    coordinates = np.empty((len(unit), best.shape[1] + 1), np.float32)
    for part, block in blocks_of(unit):
        coordinates[part] = _coordinates(block, best)
    return coordinates


def _principal_directions(sample: np.ndarray) -> np.ndarray:
    """Return (E, at most 256) orthonormal directions, those of most of the sample's squares first."""
    # of the smaller of the two matrices of products: (rows, rows) or (E, E)
    wide = sample.shape[1] > sample.shape[0]
    squares = sample @ sample.T if wide else sample.T @ sample
    found = np.linalg.eigh(squares.astype(np.float64))[1][:, ::-1][:, : DIRECTIONS[-1]]
    directions = sample.T.astype(np.float64) @ found if wide else found
    orthonormal: np.ndarray = np.linalg.qr(directions)[0].astype(np.float32)
    return orthonormal


def _best_count(sample: np.ndarray, directions: np.ndarray, low: float) -> int:
    """Return the number of directions with the least cost: of coordinates, and of cosines of the pairs left."""
    costs: dict[int, float] = {}
    for count in {min(count, directions.shape[1]) for count in DIRECTIONS}:
        short = _coordinates(sample, directions[:, :count])
        left = float(np.triu(short @ short.T >= low, 1).sum()) / max(1, len(sample) * (len(sample) - 1) / 2)
        costs[count] = count + FULL_COST * left * sample.shape[1]
    return min(costs, key=lambda count: (costs[count], count))


def _coordinates(block: np.ndarray, directions: np.ndarray) -> np.ndarray:
    projected = block @ directions
    rest = np.einsum("nd,nd->n", block, block) - np.einsum("nd,nd->n", projected, projected)
    return np.column_stack([projected, np.sqrt(np.maximum(rest, 0) + REST)])


def neighbouring(coordinates: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Cut rows into blocks of neighbours: at the median of the widest direction, and again, as in a k-d tree."""
    if len(rows) <= BLOCK_ROWS:
        yield rows
        return
    points = coordinates[rows, :ORDER_DIRECTIONS]
    widest = np.ptp(points, axis=0).argmax()
    order = np.argpartition(points[:, widest], len(rows) // 2)
    for half in np.split(rows[order], [len(rows) // 2]):
        yield from neighbouring(coordinates, np.sort(half))


def squared_gaps(lowest: np.ndarray, highest: np.ndarray, number: int) -> np.ndarray:
    """Return the squared distances of one of several boxes, (boxes, directions) each, from it and those after it."""
    gaps = np.maximum(lowest[number] - highest[number:], lowest[number:] - highest[number]).clip(0)
    squared: np.ndarray = np.einsum("nd,nd->n", gaps, gaps)
    return squared
