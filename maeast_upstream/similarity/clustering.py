"""Groups the clips of a table of any size into clusters, by HDBSCAN or k-means."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from maeast_upstream.checks import check_number
from maeast_upstream.data.embeddings import BATCH_ROWS, Embeddings, EmbeddingTable
from maeast_upstream.messages import counted
from maeast_upstream.similarity.components import Components

Method = Literal["hdbscan", "kmeans"]
NOISE = -1
"""The cluster of rows that are in none."""
MIN_SIZE = 5
SAMPLE_ROWS = 20_000
"""Of larger tables, components and HDBSCAN's clusters are computed from so many rows, k-means' from small batches."""
MINI_BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The clusters of a table."""

    cluster: np.ndarray
    """(rows,) int64: the cluster of each row, counted from 0, the largest first; -1 for a row in none."""
    representative: np.ndarray
    """(rows,) bool: whether a row is the one of its cluster that is nearest to the mean of the cluster."""
    sampled: int
    """Number of rows that the clusters were found in; the others were added to them."""

    @property
    def counts(self) -> np.ndarray:
        """(clusters,) number of rows of each cluster."""
        return np.bincount(self.cluster[self.cluster != NOISE])

    @property
    def noise(self) -> int:
        """Number of rows that are in no cluster."""
        return int((self.cluster == NOISE).sum())


def cluster(
    table: str | Path | EmbeddingTable | Embeddings,
    method: Method = "hdbscan",
    clusters: int | None = None,
    min_size: int = MIN_SIZE,
    seed: int = 0,
) -> Clusters:
    """Find clusters of clips: vectors are standardized, reduced to 50 principal components, and clustered.

    The same table, options and seed give the same clusters. Memory is some 200 bytes per row, and what the rows of a
    sample need.

    Args:
        table: A table of scene embeddings, its path, or its rows.
        method: "hdbscan", which finds the number of clusters and leaves out rows that are in none; or "kmeans".
        clusters: Number of clusters of k-means.
        min_size: HDBSCAN's smallest cluster, in rows; of tables of more than 20,000 rows in rows of the sample.
        seed: Seed of the sample, of the components and of k-means.

    Raises:
        ValueError: The table cannot be read or has too few rows, an option is out of range, or scikit-learn is not
            installed.
    """
    opened = EmbeddingTable(table) if isinstance(table, str | Path) else table
    name = f"{opened.path}: " if isinstance(opened, EmbeddingTable) else ""
    if opened.rows < 2:
        raise ValueError(f"{name}{counted(opened.rows, 'embedding')}; expected at least 2 to cluster")
    _check(method, clusters, min_size, opened.rows, name)
    sample = _sample(opened.rows, seed)
    reduced = _reduced(opened, sample, seed)
    found = _hdbscan(reduced, sample, min_size) if clusters is None else _kmeans(reduced, clusters, seed)
    labels = _largest_first(found)
    return Clusters(cluster=labels, representative=_nearest_to_means(reduced, labels), sampled=len(sample))


def _check(method: str, clusters: int | None, min_size: int, rows: int, name: str) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method must be {' or '.join(get_args(Method))}, got {method!r}")
    if method == "hdbscan":
        check_number("min_size", min_size, whole=True)
        if clusters is not None:
            raise ValueError("clusters goes with k-means; HDBSCAN finds the number of clusters itself")
        if not 2 <= min_size <= rows:
            raise ValueError(f"{name}clusters of at least {min_size} rows; expected from 2 to the table's {rows}")
        return
    if clusters is None:
        raise ValueError("k-means needs the number of clusters")
    check_number("clusters", clusters, whole=True)
    if not 1 <= clusters <= rows:
        raise ValueError(f"{name}{clusters} clusters of {counted(rows, 'row')}; expected from 1 to the number of rows")


def _sample(rows: int, seed: int) -> np.ndarray:
    """Return the numbers of all rows, or of 20,000 of them, in their order."""
    if rows <= SAMPLE_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_ROWS, replace=False))


def _blocks(table: EmbeddingTable | Embeddings) -> Iterator[np.ndarray]:
    if isinstance(table, EmbeddingTable):
        yield from (block.vectors for block in table.blocks())
        return
    if not np.isfinite(table.vectors).all():
        raise ValueError("NaN or infinite values in the embeddings")
    for start in range(0, table.rows, BATCH_ROWS):
        yield table.vectors[start : start + BATCH_ROWS]


def _reduced(table: EmbeddingTable | Embeddings, sample: np.ndarray, seed: int) -> np.ndarray:
    """Return (rows, at most 50) principal components, which are those of the sample."""
    vectors, first = np.empty((len(sample), table.dimensions), np.float32), 0
    for block in _blocks(table):
        low, high = np.searchsorted(sample, [first, first + len(block)])
        vectors[low:high] = block[sample[low:high] - first]
        first += len(block)
    components = Components.fit(vectors, seed)
    if len(sample) == table.rows:
        return components.apply(vectors)
    del vectors
    reduced, first = np.empty((table.rows, len(components.axes)), np.float32), 0
    for block in _blocks(table):
        reduced[first : first + len(block)] = components.apply(block)
        first += len(block)
    return reduced


def _kmeans(reduced: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(reduced) <= SAMPLE_ROWS:
        model = KMeans(clusters, random_state=seed)
    else:
        model = MiniBatchKMeans(clusters, random_state=seed, batch_size=MINI_BATCH_ROWS)
    labels: np.ndarray = model.fit_predict(reduced).astype(np.int64)
    return labels


def _hdbscan(reduced: np.ndarray, sample: np.ndarray, min_size: int) -> np.ndarray:
    """Cluster the sample; another row joins the cluster of its nearest clustered row, if it lies near enough.

    Near enough is the distance to which that row itself has ``min_size`` rows of the sample around it: its core
    distance, by which HDBSCAN decides what is dense.
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import pairwise_distances_argmin_min
    from sklearn.neighbors import NearestNeighbors

    points = reduced[sample]
    found = HDBSCAN(min_cluster_size=min_size, copy=True).fit_predict(points).astype(np.int64)
    labels = np.full(len(reduced), NOISE)
    labels[sample] = found
    members = np.flatnonzero(found != NOISE)
    if len(sample) == len(reduced) or not len(members):
        return labels
    core = NearestNeighbors(n_neighbors=min_size).fit(points).kneighbors(points[members])[0][:, -1]
    others = np.setdiff1d(np.arange(len(reduced)), sample, assume_unique=True)
    for start in range(0, len(others), BATCH_ROWS):
        rows = others[start : start + BATCH_ROWS]
        nearest, distance = pairwise_distances_argmin_min(reduced[rows], points[members])
        labels[rows] = np.where(distance <= core[nearest], found[members[nearest]], NOISE)
    return labels


def _largest_first(labels: np.ndarray) -> np.ndarray:
    """Number clusters by their size; of equal ones, that of the first row comes first."""
    known = labels != NOISE
    _, first, inverse, counts = np.unique(labels[known], return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort([first, -counts])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    numbered = np.full(len(labels), NOISE)
    numbered[known] = rank[inverse]
    return numbered


def _nearest_to_means(reduced: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (rows,) bool: the first of the rows that are nearest to the mean of their cluster."""
    representative = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if labels[rows[0]] != NOISE:
            points = reduced[rows]
            representative[rows[((points - points.mean(0, dtype=np.float64)) ** 2).sum(1).argmin()]] = True
    return representative
