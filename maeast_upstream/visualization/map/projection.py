"""Projects embeddings to a plane, finds nearest neighbours, and draws the points coloured by class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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
MAX_TSNE_ROWS = 5000
"""Points of a page that are placed by t-SNE unless another method is named; with more, it takes minutes."""
UMAP_NEIGHBOURS = 15
"""UMAP's default, which it lowers with a warning where there are fewer rows."""
MIN_SPECTRAL_ROWS = 10
"""Below, UMAP begins at random: the eigenvectors that it begins with need more rows."""
MARKERS = "os^DvP*X"
"""The next marker for every ten classes, as there are ten colours."""
LEGEND_ROWS = 30
MAX_CLASSES = 60
"""Classes of a picture with a look of their own; more would leave no room for the points."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The principal components of embeddings."""

    values: np.ndarray
    """(rows, at most 50)."""
    explained: np.ndarray
    """(at most 50,) the share of the variance that each component explains, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Points of a map."""

    method: str
    """pca, tsne or umap."""
    components: Components
    points: np.ndarray
    """(rows, 2)."""
    axes: tuple[str, str]
    """Names of the two coordinates."""


def place(vectors: np.ndarray, method: str | None, seed: int, is_page: bool) -> Placed:
    """Place (rows, dimensions) embeddings on a map, by the method that is usual for their number if it is None.

    Raises:
        ValueError: As in `reduce` and `project`.
    """
    method = method or (usual_method(len(vectors)) if is_page else "tsne")
    components = reduce(vectors, seed)
    points = project(components, method, seed)
    return Placed(method=method, components=components, points=points, axes=axis_names(method, components))


def reduce(vectors: np.ndarray, seed: int) -> Components:
    """Standardize each dimension of (rows, dimensions), then reduce by PCA.

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
        values = pca.fit_transform(scaled)
    return Components(values=values, explained=np.nan_to_num(pca.explained_variance_ratio_))


def usual_method(rows: int) -> str:
    """Return the method for a page of so many points, if none is named."""
    return "tsne" if rows <= MAX_TSNE_ROWS else "pca"


def axis_names(method: str, components: Components) -> tuple[str, str]:
    """Return the names of the two coordinates, with what their numbers mean."""
    if method != "pca":
        return f"{METHODS[method]} 1 (no unit)", f"{METHODS[method]} 2 (no unit)"
    shares = [*components.explained[:2], 0.0][:2]
    first, second = (f"component {i} ({share:.0%} of the variance)" for i, share in enumerate(shares, start=1))
    return first, second


def project(components: Components, method: str, seed: int) -> np.ndarray:
    """Project embeddings to a plane.

    Args:
        components: What `reduce` returned.
        method: "pca", the first two components; "tsne" or "umap".
        seed: Seed of t-SNE and UMAP.

    Returns:
        (rows, 2).

    Raises:
        ValueError: umap-learn is not installed.
    """
    values = components.values
    points = np.pad(values[:, :2], ((0, 0), (0, max(0, 2 - values.shape[1]))))  # one-dimensional vectors: on a line
    if (values == values[0]).all():  # as of silent clips: t-SNE would never end
        return points
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(20.0, (len(values) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(values)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ValueError(f"--method umap needs umap-learn: {install_extra('umap')}") from error
        near, init = min(UMAP_NEIGHBOURS, len(values) - 1), "spectral" if len(values) >= MIN_SPECTRAL_ROWS else "random"
        points = UMAP(n_neighbors=near, init=init, random_state=seed, n_jobs=1).fit_transform(values)
    return points


def neighbours(reduced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other rows of each row by cosine, at most 10.

    Args:
        reduced: (rows, dimensions), the values that `reduce` returned.

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


def draw(figure: "Figure", points: np.ndarray, labels: Sequence[str], axes: tuple[str, str] = ("", "")) -> None:
    """Draw (rows, 2) points coloured by label, with a legend beside them; the rarest of many classes look the same.

    Args:
        figure: Where to draw.
        points: The coordinates.
        labels: The class of each.
        axes: The names of the coordinates.
    """
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
    axis.set_xlabel(axes[0], fontsize=9)
    axis.set_ylabel(axes[1], fontsize=9)
    columns = -(-len(names) // LEGEND_ROWS)
    short = [drawn_name(name, 40 // columns) for name in names]
    draw_legend(figure, handles, short, loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
