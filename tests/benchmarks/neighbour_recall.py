"""How many of the ten nearest clips stay the nearest when vectors are stored as int8 or reduced; a row per table.

``python neighbour_recall.py T.parquet...``, tables that ``maeast embed`` wrote as float32.
"""

import sys
from pathlib import Path

import numpy as np

from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.data.reduction import principal_components
from maeast_upstream.extract.vector_columns import to_int8

NEIGHBOURS, DIMS = 10, (384, 192, 96, 48)


def nearest(vectors: np.ndarray) -> np.ndarray:
    """(n, E) -> (n, 10), the rows with the largest cosines, without the row itself."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]


def recall(vectors: np.ndarray) -> list[float]:
    """Return the recall of int8, then of each number of dimensions without int8 and with it."""
    exact, results = nearest(vectors), []
    reduced = [principal_components([vectors], dims)[0].apply(vectors) for dims in DIMS]
    stored = [to_int8(vectors)[0], *(kind for small in reduced for kind in (small, to_int8(small)[0]))]
    for other in stored:
        pairs = zip(exact, nearest(other.astype(np.float32)), strict=True)
        results.append(float(np.mean([len(np.intersect1d(*pair)) / NEIGHBOURS for pair in pairs])))
    return results


if __name__ == "__main__":
    names = ["int8", *(name for dims in DIMS for name in (str(dims), f"{dims} int8"))]
    print(f"| set | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for table in map(Path, sys.argv[1:]):
        values = recall(read_embeddings(table).vectors)
        print(f"| {table.stem} | {' | '.join(f'{value:.3f}' for value in values)} |", flush=True)
