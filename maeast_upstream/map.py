"""``maeast map``: embeddings as points on a plane, coloured by class: a page to look at and listen to, or a picture."""

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.command import Parser, UsageError, parse_seed
from maeast_upstream.figures import drawing
from maeast_upstream.files import replacing
from maeast_upstream.labels import read_rows
from maeast_upstream.map_page import MapPage, plotly_source, write_page
from maeast_upstream.map_sound import sound_of
from maeast_upstream.map_table import Embeddings, read_embeddings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PCA_DIMENSIONS = 50
"""Before t-SNE, UMAP and the search for neighbours, as is usual: what is below is mostly noise."""
NEIGHBOURS = 10
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
MARKERS = "os^DvP*X"
"""One for each ten classes, as there are ten colours."""
LEGEND_ROWS = 30


def main(argv: Sequence[str]) -> int:
    """Draw a 2-D map of a table of embeddings, as a page with sound or a picture."""
    args = _parser().parse_args(argv)
    page, png = _outputs(args)
    method = args.method or ("pca" if page else "tsne")
    with contextlib.ExitStack() as stack:  # what cannot be written is refused before anything is read
        figure = stack.enter_context(drawing(png, 8, 6)) if png else None
        part = stack.enter_context(replacing(page)) if page else None
        table, labels = _labelled(read_embeddings(args.embeddings, args.layer), args.embeddings, args.labels)
        if len(table.layers) > 1 and args.layer is None:
            print(f"layer {table.layer} of {', '.join(table.layers)}; --layer takes another")
        reduced = reduce(table.vectors, args.seed)
        points = place(reduced, method, args.seed)
        if figure:
            draw(figure, points, labels)
            figure.suptitle(
                f"{args.embeddings.name}: {len(labels)} embeddings, {method}",
                fontsize=11,
                parse_math=False,
            )
        if page and part:
            sound = sound_of(table, args.audio)
            if sound.note:
                print(sound.note)
            content = MapPage(
                title=args.embeddings.resolve().name,
                method=METHODS[method],
                table=table,
                labels=labels,
                points=points,
                neighbours=neighbours(reduced),
                sound=sound,
            )
            write_page(part, content, page.parent)
    print(f"{len(labels)} embeddings: {' '.join(str(out) for out in (page, png) if out)}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="maeast map", description=main.__doc__)
    parser.add_argument(
        "embeddings",
        type=Path,
        help="what maeast embed wrote: a parquet file, or a folder of them",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        help="OUT.html, a page with sound; or OUT.png",
    )
    parser.add_argument("--png", type=Path, help="a picture beside the page")
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with columns path (relative to it) and label; default: folder names",
    )
    parser.add_argument("--layer", help="of a table with several; default: its last")
    parser.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="default: pca for a page, tsne for a picture alone",
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="of t-SNE and UMAP; default 0")
    parser.add_argument(
        "--audio",
        choices=("embed", "link", "none"),
        help="the page's sound: in it, or links to the files; default: embed up to 2,000 clips and 50 MB, else link",
    )
    return parser


def _outputs(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The page and the picture that are to be written."""
    if args.out.suffix.lower() in (".html", ".htm"):
        plotly_source()  # its lack is told before any work
        return args.out, args.png
    for option in ("png", "audio"):
        if getattr(args, option):
            raise UsageError(f"--{option} goes with a page: -o OUT.html, got -o {args.out}")
    return None, args.out


def _labelled(table: Embeddings, source: Path, labels_file: Path | None) -> tuple[Embeddings, list[str]]:
    """The rows that have a label, and their labels."""
    labels = labels_of(table.paths, labels_file)
    known = [row for row, label in enumerate(labels) if label is not None]
    if len(known) < 3:
        raise ValueError(
            f"{source}: {len(known)} of {len(labels)} rows have a label, a map needs 3; the table's "
            "paths count from the folder in which it was made"
        )
    if len(known) < len(labels):
        print(f"{len(labels) - len(known)} rows without a label left out")
    return table.take(known), [str(labels[row]) for row in known]


def labels_of(paths: Sequence[str], labels: Path | None) -> list[str | None]:
    """Each path's label: from a CSV with columns path,label, else the name of its folder."""
    if labels is None:
        # abspath, since resolve() would give the folder of a link's target
        return [Path(os.path.abspath(path)).parent.name for path in paths]  # noqa: PTH100
    by_path = {path: label for path, (label,) in read_rows(labels, ["label"]).items()}
    return [by_path.get(Path(path).resolve()) for path in paths]


def reduce(vectors: np.ndarray, seed: int) -> np.ndarray:
    """(rows, dimensions) -> (rows, at most 50): each dimension standardised, then PCA.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise ValueError("maeast map needs scikit-learn: pip install 'maeast-upstream[plot]'") from error
    scaled = vectors - vectors.mean(0)
    variance = np.einsum("nd,nd->d", scaled, scaled, dtype=np.float64) / len(scaled)  # std() would copy them once more
    scaled /= np.maximum(np.sqrt(variance), 1e-8).astype(scaled.dtype)
    reduced: np.ndarray = PCA(min(PCA_DIMENSIONS, *scaled.shape), random_state=seed, copy=False).fit_transform(scaled)
    return reduced


def place(reduced: np.ndarray, method: str, seed: int) -> np.ndarray:
    """(rows, dimensions) of `reduce` -> (rows, 2): its first two, or by t-SNE or UMAP.

    Raises:
        ValueError: umap-learn is not installed.
    """
    points = np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - reduced.shape[1]))))  # one-dimensional vectors: on a line
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(20.0, (len(reduced) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ValueError("--method umap needs umap-learn: pip install 'maeast-upstream[umap]'") from error
        points = UMAP(random_state=seed, n_jobs=1).fit_transform(reduced)
    return points


def neighbours(reduced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of each row by cosine, at most 10, itself left out.

    Args:
        reduced: (rows, dimensions) of `reduce`.

    Returns:
        (rows, K) their numbers, nearest first, and (rows, K) their cosines.
    """
    from sklearn.neighbors import NearestNeighbors

    unit = (reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    count = min(NEIGHBOURS, len(unit) - 1)
    # on unit vectors the order of distances is the order of cosines, and distances are scikit-learn's fast path
    found = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(unit).kneighbors(unit)[1]
    itself = found == np.arange(len(unit))[:, None]
    itself[~itself.any(1), -1] = True  # more than 10 equal rows: itself may be missing, the last one goes
    near = found[~itself].reshape(len(unit), count)
    cosine = np.stack([np.einsum("nd,nd->n", unit, unit[column]) for column in near.T], axis=1)
    return near, cosine


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
            label=str(number),
            edgecolors="white",
            linewidths=0.4,
        )
    axis.set_xticks([])
    axis.set_yticks([])
    columns = -(-len(names) // LEGEND_ROWS)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
    for text, name in zip(legend.get_texts(), names, strict=True):
        # set only now: of labels, those with $ are parsed as TeX, and those that begin with _ are left out
        text.set(text=name, parse_math=False)
