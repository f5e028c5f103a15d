"""``maeast search``: finds the rows of a table of embeddings that sound most like some audio."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError, add_model_options, add_window_options, windows_from
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import printable
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.similarity.hits import Hit
    from maeast_upstream.similarity.queries import Table

ENDINGS = (".csv", ".parquet", ".html")
MAX_SHOWN_ERRORS = 5


def main(argv: Sequence[str]) -> int:
    """Find the clips of a table of embeddings that sound most like some audio."""
    args = build_parser().parse_args(argv)
    check(args)
    from maeast_upstream.similarity.cutting import check_folder, cut
    from maeast_upstream.similarity.hits import lines, write_hits
    from maeast_upstream.similarity.page import write_page
    from maeast_upstream.similarity.searching import search
    from maeast_upstream.storage.atomic import refuse_to_replace_inputs, refuse_unwritable

    if args.out:
        refuse_unwritable(args.out)
        refuse_to_replace_inputs([args.out], [Path(name) for name in (args.table, *args.queries)])
    if args.cut:
        check_folder(args.cut)
    table, encoder, left_out = table_from(args)
    if encoder is None and args.precision == "int8":
        raise UsageError("--precision int8 goes with audio in place of a table; a query alone takes fp32, bf16 or fp16")
    if not args.average:
        args.queries = list(dict.fromkeys(args.queries))
    hits = search(
        table,
        args.queries,
        args.k,
        mean=args.average,
        keep_self=args.keep_self,
        index=args.index,
        encoder=encoder,
        checkpoint=args.checkpoint,
        device=args.device,
        precision="fp32" if args.precision == "auto" else args.precision,  # of some seconds of audio
    )
    failed: list[tuple[Hit, str]] = []
    if args.out and args.out.suffix.lower() == ".html":
        failed += write_page(args.out, hits, f"Sounds like {', '.join(args.queries)}", table.root)
    elif args.out:
        write_hits(args.out, hits)
    else:
        print("\n".join(lines(hits)) or "no hits: the table has no other rows; --keep-self lists those of the query")
    silent = cut(hits, args.cut, args.force, table.root) if args.cut else []
    failed += [pair for pair in silent if pair not in failed]
    return max(report(hits, failed, len(hits) - len(silent), args), ExitStatus.PARTIAL if left_out else ExitStatus.DONE)


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast search", description=main.__doc__)
    parser.add_argument(
        "queries",
        nargs="+",
        metavar="QUERY",
        help="audio files; segments of files, such as call.wav@1.2-2.0 (seconds); or rows of the table by their path",
    )
    parser.add_argument(
        "-t",
        "--table",
        required=True,
        help="table that maeast embed wrote; or audio (a folder, file or manifest), which is embedded now",
    )
    parser.add_argument("-k", type=int, default=20, metavar="HITS", help="hits of each query; default 20")
    parser.add_argument(
        "--average", action="store_true", help="search once for the mean of all queries, not for each of them"
    )
    parser.add_argument(
        "--keep-self", action="store_true", help="also list rows that are the very same audio as the query"
    )
    parser.add_argument("-o", "--out", type=Path, help="OUT.csv, OUT.parquet, or OUT.html, a page to listen to")
    parser.add_argument("--cut", type=Path, metavar="FOLDER", help="write the audio of each hit there as a WAV file")
    parser.add_argument("--force", action="store_true", help="replace files of the same name in the folder of --cut")
    parser.add_argument("--index", type=Path, help="index of the table that maeast index made; for millions of rows")
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    add_model_options(
        parser, precisions="fp32 (default), bf16 or fp16; with audio in place of a table also int8 and auto, see embed"
    )
    add_window_options(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    if args.k < 1:
        raise UsageError(f"-k must be at least 1, got {args.k}")
    if args.out and args.out.suffix.lower() not in ENDINGS:
        raise UsageError(f"-o takes a name that ends in {', '.join(ENDINGS)}, got {args.out}")
    if args.force and not args.cut:
        raise UsageError("--force goes with --cut")
    windows_from(args)


def table_from(args: argparse.Namespace) -> "tuple[Table, Encoder | None, int]":
    """Return the table, or embeddings in memory and their encoder where audio is given; and how much was not read."""
    from maeast_upstream.data.embeddings import EmbeddingTable

    path = Path(args.table)
    is_table = path.suffix.lower() == ".parquet" or (path.is_dir() and next(path.rglob("*.parquet"), None))
    if is_table or not path.exists():
        for option in ("window", "overlap"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option} goes with audio, and {path} is a table")
        opened = EmbeddingTable(path, args.layer)
        if len(opened.layers) > 1 and args.layer is None:
            print(f"layer {opened.layer} of {', '.join(opened.layers)}; --layer chooses another")
        return opened, None, 0
    from maeast_upstream.extract.engine import load_for
    from maeast_upstream.extract.in_memory import embed_in_memory

    if args.layer is not None:
        raise UsageError("--layer goes with a table")
    windows = windows_from(args)
    encoder = load_for([args.table], args.checkpoint, args.device, args.precision, windows)
    embeddings, errors = embed_in_memory([args.table], encoder, windows=windows)
    return embeddings, encoder, len(errors)


def report(hits: Sequence["Hit"], failed: Sequence[tuple["Hit", str]], count: int, args: argparse.Namespace) -> int:
    """Print what was written, with the number of WAV files, and return the exit status."""
    for hit, reason in failed[:MAX_SHOWN_ERRORS]:
        print(printable(f"no sound: {reason if hit.path in reason else f'{hit.path}: {reason}'}"), file=sys.stderr)
    if len(failed) > MAX_SHOWN_ERRORS:
        print(f"no sound: {len(failed) - MAX_SHOWN_ERRORS} more", file=sys.stderr)
    if args.out:
        print(f"{counted(len(hits), 'hit')}: {args.out}")
    if args.cut:
        print(f"{counted(count, 'hit')} as WAV files: {args.cut}")
    return ExitStatus.PARTIAL if failed else ExitStatus.DONE
