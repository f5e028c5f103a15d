"""``maeast map``: draw a table of embeddings as an interactive page or a picture."""

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser, UsageError, parse_seed
from maeast_upstream.data.labels import read_rows
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.visualization.figures import drawing
from maeast_upstream.visualization.map.page import MapPage, plotly_source, write_page
from maeast_upstream.visualization.map.projection import (
    METHODS,
    draw,
    neighbours,
    place,
    reduce,
)
from maeast_upstream.visualization.map.sound import sound_of
from maeast_upstream.visualization.map.table import Embeddings, read_embeddings


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
