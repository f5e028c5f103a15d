"""``maeast map``: draws a table of embeddings as an interactive page or a picture."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import (
    Parser,
    UsageError,
    add_column_options,
    add_window_options,
    columns_from,
    parse_seed,
    windows_from,
)
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import torch
    from maeast_upstream.data.embeddings import Embeddings
    from maeast_upstream.visualization.map.page import Colouring
    from maeast_upstream.visualization.map.predictions import Predictions

SHOWN_FIRST = ("prediction", "label", "cluster", "folder")
"""What the colours show, if there are several: what the options name before what the table has."""
NO_LABEL = "no label"
MIN_ROWS = 3


def main(argv: Sequence[str]) -> int:
    """Draw a 2-D map of embeddings, as a page with sound on which clips are labelled, or as a picture."""
    args = build_parser().parse_args(argv)
    from maeast_upstream.storage.atomic import replacing
    from maeast_upstream.visualization.figures import drawing, drawn_name
    from maeast_upstream.visualization.map.page import MapPage, write_page
    from maeast_upstream.visualization.map.projection import METHODS, draw, neighbours, place
    from maeast_upstream.visualization.map.sound import sound_of

    page, png = output_paths(args)
    if columns_from(args) and args.labels is None:
        raise UsageError("--path-column and --label-column go with --labels")
    with contextlib.ExitStack() as stack:  # outputs that cannot be written are refused before anything is read
        figure = stack.enter_context(drawing(png, 8, 6)) if png else None
        part = stack.enter_context(replacing(page)) if page else None
        table, clusters, status = read_rows(args)
        table, colourings, predictions = coloured_rows(args, table, clusters, keeps_all=page is not None)
        shown = next(found for kind in SHOWN_FIRST for found in colourings if found.kind == kind)
        placed = place(table.vectors, args.method, args.seed, is_page=page is not None)
        title, count = args.title or args.inputs[0].resolve().name, counted(len(table.paths), "embedding")
        if figure:
            draw(figure, placed.points, [value or NO_LABEL for value in shown.values], placed.axes)
            heading = f"{drawn_name(title)}: {count}, {METHODS[placed.method]}"
            figure.suptitle(heading, fontsize=11, parse_math=False)
        if page and part:
            sound = sound_of(table, args.audio)
            if sound.note:
                print(sound.note)
            content = MapPage(
                title=title,
                method=METHODS[placed.method],
                axes=placed.axes,
                table=table,
                colourings=colourings,
                colour_by=shown.kind,
                points=placed.points,
                neighbours=neighbours(placed.components.values),
                sound=sound,
                predictions=predictions,
            )
            write_page(part, content, page.parent)
    print(f"wrote {' and '.join(str(out) for out in (page, png) if out)}: {count}, {METHODS[placed.method]}")
    return status


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast map", description=main.__doc__)
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="table that maeast embed wrote: a parquet file, or a folder of them; or audio, as maeast embed takes it, "
        "which is embedded for the map only",
    )
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.html, a page with sound; or OUT.png")
    parser.add_argument("--png", type=Path, help="also write a picture, beside the page")
    parser.add_argument("--title", help="title of the map; default: the name of the input")
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with columns path (relative to the CSV) and label, and for parts of files start_ms and end_ms, such "
        "as the labels.csv that the page saves; default: folder names",
    )
    add_column_options(parser, "path", "label")
    parser.add_argument(
        "--predictions", type=Path, help="what maeast predict wrote for the same clips: colours, and uncertain first"
    )
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    parser.add_argument(
        "--method",
        choices=("pca", "tsne", "umap"),
        help="how to place the points; default: tsne, or pca for a page of more than 5,000",
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of t-SNE and UMAP; default 0")
    parser.add_argument(
        "--audio",
        choices=("embed", "link", "none"),
        help="embed sound in the page, or link the files; default: embed up to 2,000 clips and 50 MB, else link",
    )
    add_window_options(parser)
    parser.add_argument("--checkpoint", help="for audio: name, path or hub id; default: the one in the package")
    parser.add_argument("--device", help="for audio: cpu, cuda, cuda:1, ..., or auto; default: cpu")
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


def is_table(path: Path) -> bool:
    """Whether an input is a table of embeddings, or else audio; what does not exist counts as a table."""
    if path.is_dir():
        return next(path.rglob("*.parquet"), None) is not None
    return path.suffix.lower() == ".parquet" or not path.exists()


def read_rows(args: argparse.Namespace) -> tuple["Embeddings", list[str] | None, int]:
    """Return the embeddings to draw, the cluster of each if the table has them, and the exit status.

    Raises:
        UsageError: options of audio with a table, or the other way round.
        ValueError: there are fewer than three rows.
    """
    from maeast_upstream.data.embeddings import EmbeddingTable, joined

    status, clusters, source = ExitStatus.DONE, None, args.inputs[0]
    windows = windows_from(args)
    if any(map(is_table, args.inputs)):
        if len(args.inputs) > 1:
            raise UsageError(f"one table, or audio; got {len(args.inputs)} inputs, with tables among them")
        for option in ("window", "checkpoint", "device"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option} goes with audio, and {source} is a table of embeddings")
        reader = EmbeddingTable(source, args.layer)
        table = joined(list(reader.blocks()), reader.layer, reader.layers)
        numbers = reader.numbers("cluster")
        clusters = None if numbers is None else [str(number) for number in numbers.tolist()]
        if len(table.layers) > 1 and args.layer is None:
            print(f"layer {table.layer} of {', '.join(table.layers)}; --layer chooses another")
    else:
        from maeast_upstream.extract.engine import load_for
        from maeast_upstream.extract.in_memory import embed_in_memory

        if args.layer is not None:
            raise UsageError("--layer goes with a table of embeddings")
        encoder = load_for(args.inputs, args.checkpoint, args.device, windows=windows)
        table, errors = embed_in_memory(args.inputs, encoder, windows=windows)
        status = ExitStatus.PARTIAL if errors else ExitStatus.DONE
    if len(table.paths) < MIN_ROWS:
        raise ValueError(f"{source}: {counted(len(table.paths), 'embedding')}, and a map needs {MIN_ROWS}")
    return table, clusters, status


def coloured_rows(
    args: argparse.Namespace, table: "Embeddings", clusters: Sequence[str] | None, keeps_all: bool
) -> tuple["Embeddings", list["Colouring"], "Predictions | None"]:
    """Return the rows to draw, what their colours can show, and their predictions.

    Args:
        args: the options.
        table: all rows.
        clusters: the cluster of each row.
        keeps_all: keep rows without a label, as a page does, on which they can be labelled.

    Raises:
        ValueError: too few rows have a label, or the predictions are those of other clips.
    """
    from maeast_upstream.visualization.map.labels import folders_of, labels_of
    from maeast_upstream.visualization.map.page import Colouring
    from maeast_upstream.visualization.map.predictions import predictions_of

    values: dict[str, Sequence[str | None]] = {"folder": folders_of(table.files)}
    if clusters is not None:
        values["cluster"] = clusters
    kept: Sequence[int] = range(len(table.paths))
    if args.labels is not None:
        labels = labels_of(table, args.labels, columns_from(args))
        values["label"] = labels.values
        kept = labelled_rows(args, labels.values, labels.others, keeps_all)
    table = table.take(kept)
    predictions = None
    colourings = [Colouring(kind=kind, values=[found[row] for row in kept]) for kind, found in values.items()]
    if args.predictions is not None:
        predictions = predictions_of(table, args.predictions)
        colourings.append(Colouring(kind="prediction", values=predictions.labels))
        for count, text in ((predictions.missing, "without a prediction"), (predictions.others, "of other clips")):
            if count:
                print(f"{args.predictions}: {counted(count, 'row')} {text}")
    return table, colourings, predictions


def labelled_rows(
    args: argparse.Namespace, labels: Sequence[str | None], others: int, keeps_all: bool
) -> Sequence[int]:
    """Return the rows to keep; print how many labels belong to none, and how many rows have none."""
    known = [row for row, label in enumerate(labels) if label is not None]
    if len(known) < (1 if keeps_all else MIN_ROWS):
        raise ValueError(
            f"{args.inputs[0]}: {len(known)} of {len(labels)} rows have a label in {args.labels}, and a "
            f"{'map' if keeps_all else 'picture'} needs {1 if keeps_all else MIN_ROWS}; relative paths in the table "
            "start at the folder in which it was made"
        )
    if others:
        print(f"{args.labels}: {counted(others, 'row')} of other clips")
    if len(known) < len(labels):
        print(f"{counted(len(labels) - len(known), 'row')} without a label{'' if keeps_all else ' left out'}")
    return range(len(labels)) if keeps_all else known
