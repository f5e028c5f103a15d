"""``maeast embed``: audio in, a table of embeddings out; killed and started again, it goes on where it was."""

import argparse
import errno
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from maeast_upstream.arguments import (
    Parser,
    UsageError,
    add_model_options,
    add_readout_options,
    parse_layer,
    readout_from,
)
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.engines.selection import OFFERS, Choice, Engine, attach, check_names
from maeast_upstream.engines.streams import streams_on
from maeast_upstream.extract.job import Job
from maeast_upstream.extract.outputs import FORMATS, Output, output_at
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.survey import Listing, Survey, take_survey
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.readout import Readout
from maeast_upstream.storage.settings import refuse_changes

DONE, DONE_IN_PART, INTERRUPTED = 0, 3, 130
SHOWN_ERRORS = 5
SMALL_BYTES = 2 << 20
"""Below it, a minute of wav or eight of opus, an engine takes longer to start than it saves."""


def main(argv: Sequence[str]) -> int:
    """Embed audio files, folders, manifests or tars into a table."""
    args = build_parser().parse_args(argv)
    check_numbers(args)
    output = output_at(args.out, args.format)
    listing = Listing(args.inputs)
    survey = take_survey(listing)
    check_names(args.engine, args.precision)
    encoder = load_model(args.checkpoint, args.device)
    wanted = wanted_from(args, encoder.config.readout)
    wanted.width(encoder.config)
    encoder.grid(wanted.readouts[0].hop_ms)
    before = {} if args.force else output.recorded()
    engine = start_engine(args, encoder, wanted, survey, before)
    # ahead of the job's own check, which would name the engine that follows from it
    refuse_changes(before, {"precision": engine.precision}, output.address, "give the same, another -o, or --force")
    job = Job(listing, survey, output, encoder, wanted, engine, args.checkpoint or "bundled")
    if args.force:
        output.remove()
    if output.whole():
        job.refuse_other_table()
        output.store.remove()  # what a kill in the last moment left
        print(f"{output.address} is whole already; --force makes it anew")
        return DONE_IN_PART if output.place.exists(output.error_list) else DONE
    command = "the same command without --force" if args.force else "the same command"
    try:
        report = job.run(args.workers, args.batch_seconds, args.ray)
    except KeyboardInterrupt:
        print(
            f"stopped: {job.standing()}; {command} goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    except OSError as error:
        room = ": make room, and" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ";"
        raise OSError(f"{error}; {job.standing()}{room} {command} goes on from there") from error
    return tell(report, wanted.width(encoder.config), output)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="maeast embed", description=main.__doc__)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files; folders of them; manifests (.tsv, .csv with path and, for segments, start and end in "
        "seconds or start_ms and end_ms); WebDataset tars; packed folders; - for a list of paths on stdin",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        help="OUT.parquet, OUT.npz, or a folder for parquet parts or npy files",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of a folder: parquet (default) or npy, one file a clip",
    )
    parser.add_argument(
        "--kind",
        choices=("scene", "frames"),
        default="scene",
        help="one row a clip, or a time step",
    )
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        default="auto",
        help="what runs the transformer; auto (default): the fastest here, measured once",
    )
    parser.add_argument(
        "--vectors",
        choices=("float32", "float16"),
        default="float32",
        help="as they are stored",
    )
    parser.add_argument("--batch-seconds", type=float, help="audio that goes to the model at once")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that decode; default 1, 0 for a thread",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, auto (default) for the one of this machine, local for one of its own",
    )
    parser.add_argument("--force", action="store_true", help="make OUT anew, whatever is there")
    return parser


def start_engine(
    args: argparse.Namespace,
    encoder: Encoder,
    wanted: EmbeddingSpec,
    survey: Survey,
    before: Mapping[str, Any],
) -> Choice:
    """Attach the engine that was asked for and say which it is.

    auto goes on with the one that a run was begun with, and takes torch where compiling another would not pay.
    """
    engine, why = args.engine, None
    if engine == "auto" and args.precision in OFFERS.get(before.get("engine", ""), ()):
        engine, why = before["engine"], "as this run was begun"
    elif engine == "auto" and survey.bytes < SMALL_BYTES and args.precision in OFFERS["torch"]:
        engine, why = "torch", "too little audio for another to pay"
    streams = streams_on(encoder.device)
    choice = attach(
        encoder,
        engine,
        args.precision,
        wanted.layers(encoder.num_layers),
        streams=streams,
    )
    choice = replace(choice, why=why) if why and choice.engine == engine else choice
    print(choice)
    return choice


def check_numbers(args: argparse.Namespace) -> None:
    """UsageError if a number is out of range."""
    if args.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {args.workers}")
    if args.batch_seconds is not None and not 0 < args.batch_seconds < float("inf"):
        raise UsageError(f"--batch-seconds must be above 0, got {args.batch_seconds}")


def wanted_from(args: argparse.Namespace, default: Readout) -> EmbeddingSpec:
    """What the command line asks of every clip; --layer may be a list."""
    layers = [parse_layer(text) for text in (args.layer or str(default.layer)).split(",")]
    args.layer = None
    readout = readout_from(args, default)
    return EmbeddingSpec(
        kind=args.kind,
        readouts=tuple(replace(readout, layer=layer) for layer in layers),
        vectors=args.vectors,
    )


def tell(report: PartReport, dimensions: int, output: Output) -> int:
    """Print what was done; the exit status."""
    for path, reason, _ in report.errors[:SHOWN_ERRORS]:
        print(
            f"left out: {reason if path in reason else f'{path}: {reason}'}",
            file=sys.stderr,
        )
    print(f"{report.clips} files, {report.rows} rows of {dimensions} dimensions: {output.address}")
    if not report.errors:
        return DONE
    print(
        f"{len(report.errors)} files left out, listed in {output.place.path(output.error_list)}",
        file=sys.stderr,
    )
    return DONE_IN_PART
