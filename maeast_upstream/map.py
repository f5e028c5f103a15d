"""``maeast map``: embeddings as points on a plane, coloured by class."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.command import Parser
from maeast_upstream.figures import drawing
from maeast_upstream.labels import read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PCA_DIMENSIONS = 50
"""Before t-SNE or UMAP, as is usual: what is below is mostly noise."""
MARKERS = "os^DvP*X"
"""One for each ten classes, as there are ten colours."""
LEGEND_ROWS = 30


def main(argv: Sequence[str]) -> int:
    """Draw a 2-D map of a table of embeddings."""
    parser = Parser(prog="maeast map", description=main.__doc__)
    parser.add_argument("embeddings", type=Path, help="what maeast embed wrote")
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with columns path (relative to it) and label; default: folder names",
    )
    parser.add_argument("--method", choices=("tsne", "pca", "umap"), default="tsne", help="default: tsne")
    parser.add_argument("--seed", type=int, default=0, help="of t-SNE and UMAP; default 0")
    args = parser.parse_args(argv)
    with drawing(args.out, 8, 6) as figure:
        paths, vectors = read_embeddings(args.embeddings)
        labels = labels_of(paths, args.labels)
        known = [i for i, label in enumerate(labels) if label is not None]
        if len(known) < 3:
            raise ValueError(
                f"{args.embeddings}: {len(known)} of {len(paths)} rows have a label, a map needs 3; the table's "
                "paths count from the folder in which it was made"
            )
        draw(figure, project(vectors[known], args.method, args.seed), [str(labels[i]) for i in known])
        figure.suptitle(f"{args.embeddings.name}: {len(known)} embeddings, {args.method}", fontsize=11)
    if len(known) < len(paths):
        print(f"{len(paths) - len(known)} rows without a label left out")
    print(f"{len(known)} embeddings: {args.out}")
    return 0


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths and (rows, dimensions) vectors of a parquet table of embeddings.

    Raises:
        ValueError: not a parquet file, not the columns of ``maeast embed``, or values that are not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["path", "vector"])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a table of embeddings ({' '.join(str(error).split())[:120]})") from error
    if table.column_names != ["path", "vector"] or not pa.types.is_fixed_size_list(table["vector"].type):
        raise ValueError(f"{path}: expected columns path and vector as maeast embed writes them")
    width = table["vector"].type.list_size
    vectors = np.concatenate(
        [np.zeros(0, np.float32), *(chunk.flatten().to_numpy() for chunk in table["vector"].chunks)]
    ).reshape(-1, width)
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path}: NaN or infinite values in the embeddings")
    return table["path"].to_pylist(), vectors


def labels_of(paths: Sequence[str], labels: Path | None) -> list[str | None]:
    """Each path's label: from a CSV with columns path,label, else the name of its folder."""
    if labels is None:
        return [Path(path).resolve().parent.name for path in paths]
    by_path = {path: label for path, (label,) in read_rows(labels, ["label"]).items()}
    return [by_path.get(Path(path).resolve()) for path in paths]


def project(vectors: np.ndarray, method: str, seed: int) -> np.ndarray:
    """(rows, dimensions) -> (rows, 2): standardise, PCA to at most 50, then the method.

    Raises:
        ValueError: scikit-learn or umap-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ValueError("maeast map needs scikit-learn: pip install 'maeast-upstream[plot]'") from error
    scaled = (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-8)
    dimensions = 2 if method == "pca" else min(PCA_DIMENSIONS, *scaled.shape)
    reduced: np.ndarray = PCA(dimensions, random_state=seed).fit_transform(scaled)
    if method == "tsne":
        perplexity = min(20.0, (len(reduced) - 1) / 3)
        reduced = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ValueError("--method umap needs the package umap-learn: pip install umap-learn") from error
        reduced = UMAP(random_state=seed).fit_transform(reduced)
    return reduced


def draw(figure: "Figure", points: np.ndarray, labels: Sequence[str]) -> None:
    """(rows, 2) points coloured by label, with a legend beside."""
    axis = figure.subplots()
    names = sorted(set(labels))
    size = float(np.clip(8000 / len(points), 6, 40))
    for number, name in enumerate(names):
        here = points[[label == name for label in labels]]
        axis.scatter(
            here[:, 0],
            here[:, 1],
            s=size,
            color=f"C{number % 10}",
            marker=MARKERS[number // 10 % len(MARKERS)],
            label=name,
            edgecolors="white",
            linewidths=0.4,
        )
    axis.set_xticks([])
    axis.set_yticks([])
    columns = -(-len(names) // LEGEND_ROWS)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
