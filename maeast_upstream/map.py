"""``maeast map``: embeddings as points on a plane, coloured by class."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.command import Parser
from maeast_upstream.files import replacing

PCA_DIMENSIONS = 50
"""Before t-SNE or UMAP, as is usual: what is below is mostly noise."""


def main(argv: Sequence[str]) -> int:
    """Draw a 2-D map of a table of embeddings."""
    parser = Parser(prog="maeast map", description=main.__doc__)
    parser.add_argument("embeddings", type=Path, help="what maeast embed wrote (--kind scene)")
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with columns path (relative to it) and label; default: folder names",
    )
    parser.add_argument("--method", choices=("tsne", "pca", "umap"), default="tsne")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    paths, vectors = read_embeddings(args.embeddings)
    labels = labels_of(paths, args.labels)
    known = [i for i, label in enumerate(labels) if label is not None]
    if len(known) < 3:
        raise ValueError(f"{args.embeddings}: {len(known)} rows have a label; a map needs at least 3")
    points = project(vectors[known], args.method, args.seed)
    draw(args.out, points, [str(labels[i]) for i in known], f"{len(known)} clips, {args.method}")
    print(f"wrote {args.out}")
    return 0


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths and (rows, dimensions) vectors of a parquet table of scene embeddings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["path", "vector"])
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise ValueError(f"{path}: not a table of embeddings ({' '.join(str(error).split())[:120]})") from error
    vectors = table["vector"].combine_chunks()
    return table["path"].to_pylist(), vectors.flatten().to_numpy().reshape(len(table), -1)


def labels_of(paths: Sequence[str], labels: Path | None) -> list[str | None]:
    """Each path's label: from a CSV, else the name of its folder."""
    if labels is None:
        return [Path(path).parent.name for path in paths]
    try:
        with labels.open(newline="", encoding="utf-8") as file:
            by_path = {(labels.parent / row["path"]).resolve(): row["label"] for row in csv.DictReader(file)}
    except KeyError as error:
        raise ValueError(f"{labels}: no column {error}; expected columns path, label") from error
    return [by_path.get(Path(path).resolve()) for path in paths]


def project(vectors: np.ndarray, method: str, seed: int) -> np.ndarray:
    """(rows, dimensions) -> (rows, 2)."""
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


def draw(out: Path, points: np.ndarray, labels: Sequence[str], title: str) -> None:
    """Points coloured by label, with a legend beside."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("maeast map needs matplotlib: pip install 'maeast-upstream[plot]'") from error
    figure = Figure(figsize=(8, 6), layout="constrained", facecolor="white")
    axis = figure.subplots()
    names = sorted(set(labels))
    markers = "osD^vP*X"
    colours = colormaps["tab20"] if len(names) > 10 else colormaps["tab10"]
    for number, name in enumerate(names):
        here = points[[label == name for label in labels]]
        axis.scatter(
            here[:, 0],
            here[:, 1],
            s=36,
            color=colours(number % colours.N),
            marker=markers[number % len(markers)],
            label=name,
            edgecolors="white",
            linewidths=0.4,
        )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    with replacing(out) as part:
        figure.savefig(part, dpi=110, format=out.suffix.lstrip(".") or "png")
