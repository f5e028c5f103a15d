"""Projects embeddings to a plane, finds nearest neighbours, and draws the points coloured by class."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.messages import install_extra
from maeast_upstream.visualization.figures import draw_legend, drawn_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PCA_DIMENSIONS = 50
"""Principal components kept for t-SNE, UMAP and the neighbours, as is usual: the others are mostly noise."""
NEIGHBOURS = 10
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
MARKERS = "os^DvP*X"
"""The next marker for every ten classes, as there are ten colours."""
LEGEND_ROWS = 30
MAX_CLASSES = 60
"""Classes of a picture with a look of their own; more would leave no room for the points."""


def reduce(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Standardize each dimension, then reduce by PCA: (rows, dimensions) -> (rows, at most 50).

    Raises:
        ValueError: scikit-learn is not installed, or the vectors are too large for float32.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise ValueError(f"maeast map needs scikit-learn: {install_extra('plot')}") from error
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = vectors - vectors.mean(0)
    if not np.isfinite(scaled).all():
        raise ValueError(f"embeddings up to {np.abs(vectors).max():.2g} cannot be compared; expected below 1e30")
    variance = np.einsum("nd,nd->d", scaled, scaled, dtype=np.float64) / len(scaled)  # std() would make another copy
    scaled /= np.maximum(np.sqrt(variance), 1e-8).astype(scaled.dtype)
    with np.errstate(invalid="ignore"):  # the share of a variance of 0, if all rows are equal
        pca = PCA(min(PCA_DIMENSIONS, *scaled.shape), random_state=seed, copy=False)
        reduced: np.ndarray = pca.fit_transform(scaled)
    return reduced


def project(reduced: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Project the output of `reduce` to a plane.

    Args:
        reduced: (rows, dimensions) of `reduce`.
        method: "pca", the first two components; "tsne" or "umap".
        seed: seed of t-SNE and UMAP.

    Returns:
        (rows, 2).

    Raises:
        ValueError: umap-learn is not installed.
    """
    points = np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - reduced.shape[1]))))  # one-dimensional vectors: on a line
    if (reduced == reduced[0]).all():  # as of silent clips: t-SNE would never end
        return points
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(20.0, (len(reduced) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ValueError(f"--method umap needs umap-learn: {install_extra('umap')}") from error
        points = UMAP(random_state=seed, n_jobs=1).fit_transform(reduced)
    return points


def neighbours(reduced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other rows of each row by cosine, at most 10.

    Args:
        reduced: (rows, dimensions) of `reduce`.

    Returns:
        (rows, K) their indices, nearest first, and (rows, K) their cosines.
    """
    from sklearn.neighbors import NearestNeighbors

    unit = (reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    count = min(NEIGHBOURS, len(unit) - 1)
    # on unit vectors the order of distances is the order of cosines, and distances are scikit-learn's fast path
    nearest = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(unit).kneighbors(unit)[1]
    itself = nearest == np.arange(len(unit))[:, None]
    itself[~itself.any(1), -1] = True  # among more than 10 equal rows the row itself may be missing: drop the last
    near = nearest[~itself].reshape(len(unit), count)
    cosine = np.stack([np.einsum("nd,nd->n", unit, unit[column]) for column in near.T], axis=1)
    return near, cosine


def draw(figure: "Figure", points: np.ndarray, labels: Sequence[str]) -> None:
    """Draw (rows, 2) points coloured by label, with a legend beside them; the rarest of many classes look the same."""
    axis = figure.subplots()
    names = sorted(set(labels))
    size = float(np.clip(8000 / len(points), 6, 40))
    if len(names) > MAX_CLASSES:
        counts = Counter(labels)
        kept = set(sorted(names, key=lambda name: -counts[name])[: MAX_CLASSES - 1])
        others = f"{len(names) - len(kept)} rarer classes"
        labels = [label if label in kept else others for label in labels]
        names = [*sorted(kept), others]
    handles = []
    for number, name in enumerate(names):
        members = points[[label == name for label in labels]]
        handles.append(
            axis.scatter(
                members[:, 0],
                members[:, 1],
                s=size,
                color=f"C{number % 10}",
                marker=MARKERS[number // 10 % len(MARKERS)],
                edgecolors="white",
                linewidths=0.4,
            )
        )
    axis.set_xticks([])
    axis.set_yticks([])
    columns = -(-len(names) // LEGEND_ROWS)
    short = [drawn_name(name, 40 // columns) for name in names]
    draw_legend(figure, handles, short, loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
