"""``maeast map``: draws a table of embeddings as an interactive page or a picture."""

import argparse
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError, add_column_options, columns_from, parse_seed
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import torch
    from maeast_upstream.data.embeddings import Embeddings


def main(argv: Sequence[str]) -> int:
    """Draw a 2-D map of a table of embeddings, as a page with sound or a picture."""
    args = build_parser().parse_args(argv)
    from maeast_upstream.data.embeddings import read_embeddings
    from maeast_upstream.storage.atomic import replacing
    from maeast_upstream.visualization.figures import drawing, drawn_name
    from maeast_upstream.visualization.map.page import MapPage, write_page
    from maeast_upstream.visualization.map.projection import METHODS, draw, neighbours, project, reduce
    from maeast_upstream.visualization.map.sound import sound_of

    page, png = output_paths(args)
    if columns_from(args) and args.labels is None:
        raise UsageError("--path-column and --label-column go with --labels")
    method = args.method or ("pca" if page else "tsne")
    with contextlib.ExitStack() as stack:  # outputs that cannot be written are refused before anything is read
        figure = stack.enter_context(drawing(png, 8, 6)) if png else None
        part = stack.enter_context(replacing(page)) if page else None
        table, labels = labelled_rows(
            read_embeddings(args.embeddings, args.layer), args.embeddings, args.labels, columns_from(args)
        )
        if len(table.layers) > 1 and args.layer is None:
            print(f"layer {table.layer} of {', '.join(table.layers)}; --layer chooses another")
        reduced = reduce(table.vectors, args.seed)
        points = project(reduced, method, args.seed)
        if figure:
            draw(figure, points, labels)
            title = f"{drawn_name(args.embeddings.name)}: {counted(len(labels), 'embedding')}, {method}"
            figure.suptitle(title, fontsize=11, parse_math=False)
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
    print(f"wrote {' and '.join(str(out) for out in (page, png) if out)}: {counted(len(labels), 'embedding')}")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast map", description=main.__doc__)
    parser.add_argument(
        "embeddings", type=Path, help="table that maeast embed wrote: a parquet file, or a folder of them"
    )
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.html, a page with sound; or OUT.png")
    parser.add_argument("--png", type=Path, help="also write a picture, beside the page")
    parser.add_argument(
        "--labels", type=Path, help="CSV with columns path (relative to the CSV) and label; default: folder names"
    )
    add_column_options(parser, "path", "label")
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    parser.add_argument(
        "--method", choices=("pca", "tsne", "umap"), help="default: pca for a page, tsne for a picture alone"
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of t-SNE and UMAP; default 0")
    parser.add_argument(
        "--audio",
        choices=("embed", "link", "none"),
        help="embed sound in the page, or link the files; default: embed up to 2,000 clips and 50 MB, else link",
    )
    return parser


def output_paths(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Return the page and the picture to write, either of which may be None.

    Raises:
        UsageError: an option of pages is given, but no page.
        ValueError: a page is to be written and plotly is not installed.
    """
    if args.out.suffix.lower() in (".html", ".htm"):
        from maeast_upstream.visualization.map.page import plotly_source

        plotly_source()  # a missing package is reported before any work
        return args.out, args.png
    for option in ("png", "audio"):
        if getattr(args, option):
            raise UsageError(f"--{option} goes with a page: -o OUT.html, got -o {args.out}")
    return None, args.out


def labelled_rows(
    table: "Embeddings", source: Path, labels_file: Path | None, names: Mapping[str, str]
) -> tuple["Embeddings", list[str]]:
    """Return the rows that have a label, and their labels.

    Raises:
        ValueError: there are fewer than three rows, or fewer than three have a label.
    """
    if len(table.paths) < 3:
        raise ValueError(f"{source}: {counted(len(table.paths), 'embedding')}, and a map needs 3")
    labels = labels_of(table.paths, labels_file, names)
    known = [row for row, label in enumerate(labels) if label is not None]
    if len(known) < 3:
        raise ValueError(
            f"{source}: {len(known)} of {len(labels)} rows have a label, and a map needs 3; relative paths in the "
            "table start at the folder in which it was made"
        )
    if len(known) < len(labels):
        print(f"{counted(len(labels) - len(known), 'row')} without a label left out")
    return table.take(known), [str(labels[row]) for row in known]


def labels_of(
    paths: Sequence[str], labels_file: Path | None, names: Mapping[str, str] | None = None
) -> list[str | None]:
    """Return each path's label: from a CSV with columns path and label, or the name of its folder without a CSV."""
    if labels_file is None:
        # abspath, since resolve() would give the folder of a link's target
        return [Path(os.path.abspath(path)).parent.name for path in paths]  # noqa: PTH100
    from maeast_upstream.data.labels import clip_path, read_rows
    from maeast_upstream.display import from_name

    rows = read_rows(labels_file, ["label"], names or {})
    by_path = {path: label for path, (label,) in rows.items()}
    return [by_path.get(clip_path(Path(), from_name(path))) for path in paths]
