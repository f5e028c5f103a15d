"""``maeast project``: fits shorter or whitened vectors on a table of embeddings; the checkpoint stores the result."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.cli import ExitStatus
from maeast_upstream.progress import say
from maeast_upstream.readout import MAX_DIMS, Readout, describe

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    import numpy as np

    from maeast_upstream.checkpoint import Loaded, Projection
    from maeast_upstream.data.embeddings import EmbeddingTable

SHOWN_DIMS = (16, 32, 64, 128, 256, 512)
"""Lengths whose share is shown, beside that of all."""


def main(argv: Sequence[str]) -> int:
    """Fit principal components or a whitening on a table of embeddings, and store it in the checkpoint that made it."""
    args = build_parser().parse_args(argv)
    if args.half and args.out is None:
        raise UsageError("--half goes with -o FOLDER, whose weights it is about")
    if args.whiten and args.dims is not None:
        raise UsageError("--dims goes without --whiten; for both embed again with --whiten, and project that table")
    from maeast_upstream import checkpoint
    from maeast_upstream.data.embeddings import EmbeddingTable

    table = EmbeddingTable(args.table, args.layer)
    readout = readout_of(table)
    place = checked_place(args, table, readout)
    loaded = checkpoint.read(place)
    if args.out is not None and not serves(loaded.config.readout, readout, args.whiten):
        say(f"the copy's own readout will be that of the table: {describe(readout)}")
        loaded = replace(loaded, config=replace(loaded.config, readout=readout))
    vectors = (block.vectors for block in table.blocks())
    if args.whiten:
        refuse_whitening(readout, table, loaded)
        say(f"fitting a whitening on {table.rows} vectors of {table.dimensions} numbers: {describe(readout)}")
        fitted = checkpoint.fit_whitening(vectors, loaded.config.model.embed_dim)
        projection, lines, option = checkpoint.Projection.whitening_only(fitted, readout), [], "--whiten"
    else:
        dims = args.dims if args.dims is not None else min(MAX_DIMS, table.dimensions, table.rows - 1)
        refuse_dims(dims, readout, table, loaded)
        say(f"fitting {dims} components on {table.rows} vectors of {table.dimensions} numbers: {describe(readout)}")
        whitening = loaded.projection.whitening if loaded.projection and readout.whiten else None
        projection, shares = checkpoint.fit_projection(vectors, readout, dims, whitening)
        lines, option = report(projection, shares), f"--dims {dims}"
    projection.check(loaded.config)
    if args.out is None:
        add_projection(place, loaded, projection)
    else:
        import torch

        dtype = torch.float16 if args.half else torch.float32
        card = checkpoint.card_for_copy(place, loaded, args.out.resolve().name, projection)
        checkpoint.save_state(args.out, loaded.state, loaded.config, dtype, card, projection)
    out = args.out or place
    for line in [
        *lines,
        f"wrote {out / checkpoint.PROJECTION_NAME}: try maeast embed FOLDER --checkpoint {out} {option} -o OUT",
    ]:
        print(line)
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast project",
        description=f"{main.__doc__} With it, --dims N of the other commands gives vectors of N numbers, as "
        "Readout(dims=N) does in Python, or --whiten whitened ones, as Readout(whiten=True) does. The table should be "
        "of audio like that which is embedded later, and have several times as many rows as there are components.",
    )
    parser.add_argument(
        "table",
        metavar="TABLE",
        help="vectors of the readout that is projected, which maeast embed wrote: a parquet file, or a folder of them",
    )
    parser.add_argument(
        "--dims",
        type=int,
        metavar="K",
        help=f"number of components; the first N of them serve any N up to it; default: {MAX_DIMS}, or fewer where the "
        "vectors are shorter or the rows fewer",
    )
    parser.add_argument(
        "--whiten",
        action="store_true",
        help="fit a whitening, after which the numbers of a vector vary alike and are little correlated, in place of "
        "components; the table has vectors that are not whitened",
    )
    parser.add_argument(
        "--checkpoint",
        help="folder of the checkpoint that made the table, to which projection.safetensors is added; default: where "
        "it was when the table was made",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write a copy of the checkpoint with the projection, and leave the checkpoint itself as it is",
    )
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    parser.add_argument("--half", action="store_true", help="store float16 weights in -o FOLDER")
    parser.add_argument("--force", action="store_true", help="replace an earlier projection, or FOLDER if it exists")
    return parser


def readout_of(table: "EmbeddingTable") -> Readout:
    """Return the readout that a table's vectors are those of; ValueError if they are not, or it does not say."""
    if table.origin is None or table.readout is None:
        raise ValueError(
            f"{table.path}: does not say which checkpoint made it; expected a table that maeast embed wrote"
        )
    if table.origin.reduction is not None or table.readout.dims is not None:
        raise ValueError(f"{table.path}: its vectors were shortened by --dims; expected full ones: --dims full")
    return table.readout


def checked_place(args: argparse.Namespace, table: "EmbeddingTable", readout: Readout) -> Path:
    """Return where the checkpoint of a table is, before long work; with its projection it must be possible to write it.

    Raises:
        ValueError: It is another checkpoint, or it cannot be written to without --out or --force.
    """
    from maeast_upstream.checkpoint import CONFIG_NAME, PROJECTION_NAME
    from maeast_upstream.checkpoint.layout import encoder_folder
    from maeast_upstream.fingerprint import load_same, place_of
    from maeast_upstream.storage.atomic import refuse_to_overwrite, refuse_unwritable

    assert table.origin is not None
    load_same(table.origin.checkpoint, table.origin.fingerprint, args.checkpoint).check_readout(readout)
    place = place_of(table.origin.checkpoint, args.checkpoint)
    place = encoder_folder(place) if place.is_dir() else place
    if args.out is not None:
        refuse_to_overwrite(args.out, args.force)
        if args.out.exists() and not (args.out / CONFIG_NAME).is_file():
            raise ValueError(f"{args.out}: exists and is no checkpoint folder; give another name")
        return place
    if not Path(args.checkpoint or table.origin.checkpoint).expanduser().is_dir():
        name = args.checkpoint or table.origin.checkpoint
        raise ValueError(f"{name}: not a checkpoint folder of yours: give -o FOLDER for a copy with the projection")
    if (place / PROJECTION_NAME).exists() and not args.force:
        raise ValueError(f"{place} has a projection already; give --force to replace it, or -o FOLDER for a copy")
    refuse_unwritable(place / PROJECTION_NAME)
    return place


def serves(own: Readout, readout: Readout, whiten: bool) -> bool:
    """Whether the checkpoint's own readout has what it needs in a whitening, or in components, for another readout."""
    if whiten:
        return not own.projected or own == replace(readout, whiten=True)
    return not own.projected or replace(own, dims=None) == readout


def refuse_whitening(readout: Readout, table: "EmbeddingTable", loaded: "Loaded") -> None:
    """Raise ValueError if a table is of whitened vectors, or the checkpoint's own readout needs another projection."""
    if readout.whiten:
        raise ValueError(f"{table.path}: its vectors are whitened already; expected others: embed with --no-whiten")
    from maeast_upstream.checkpoint.whitening import least_vectors

    least = least_vectors(table.dimensions, loaded.config.model.embed_dim)
    if table.rows < least:
        raise ValueError(f"{table.path}: {table.rows} rows, too few for a whitening; expected at least {least}")
    refuse_another_readout(loaded, readout, whiten=True)


def refuse_another_readout(loaded: "Loaded", readout: Readout, whiten: bool) -> None:
    """Raise ValueError if the checkpoint's own readout needs another projection than one for this readout."""
    own = loaded.config.readout
    if not serves(own, readout, whiten):
        raise ValueError(
            f"the checkpoint's own readout is {describe(own)}: its projection cannot be one for {describe(readout)}; "
            "give -o FOLDER for a copy with this readout"
        )


def refuse_dims(dims: int, readout: Readout, table: "EmbeddingTable", loaded: "Loaded") -> None:
    """Raise ValueError if a table cannot give so many components, or the checkpoint's own readout needs others."""
    if not 1 <= dims <= min(MAX_DIMS, table.dimensions):
        raise ValueError(f"--dims must be from 1 to {min(MAX_DIMS, table.dimensions)}, got {dims}")
    if table.rows <= dims:
        raise ValueError(f"{table.path}: {table.rows} rows, too few for {dims} components; embed more audio")
    refuse_another_readout(loaded, readout, whiten=False)
    own = loaded.config.readout
    if own.dims is not None and own.dims > dims:
        raise ValueError(f"the checkpoint's own readout has dims {own.dims}: give --dims {own.dims} or more")


def add_projection(folder: Path, loaded: "Loaded", projection: "Projection") -> None:
    """Write a projection beside a checkpoint's weights, and its name in the model card if nobody has edited that."""
    from maeast_upstream import checkpoint
    from maeast_upstream.checkpoint.card import is_ours
    from maeast_upstream.storage.atomic import replacing

    projection.save(folder)
    path = folder / checkpoint.CARD_NAME
    card = checkpoint.card_for_copy(folder, loaded, folder.resolve().name, projection) if is_ours(path) else None
    if card is not None:
        with replacing(path) as part:
            part.write_text(card, encoding="utf-8")


def report(projection: "Projection", shares: "np.ndarray") -> list[str]:
    """Return lines for people: the share of the squared length of the vectors, by number of dimensions."""
    count, width = projection.shape
    shown = [*(dims for dims in SHOWN_DIMS if dims < count), count]
    lines = [f"{dims:>10}  {100 * shares[dims - 1]:8.2f} %" for dims in shown]
    return [f"dimensions  share of the squared length of {width}", *lines]
