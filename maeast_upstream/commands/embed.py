"""``maeast embed``: turns audio into a table of embeddings; an interrupted run continues when it is started again."""

import argparse
import errno
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maeast_upstream.arguments import (
    Parser,
    UsageError,
    add_column_options,
    add_model_options,
    add_readout_options,
    add_window_options,
    parse_layer,
    readout_from,
    windows_from,
)
from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import printable
from maeast_upstream.messages import counted
from maeast_upstream.progress import is_quiet
from maeast_upstream.readout import Readout

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.engines.selection import Choice
    from maeast_upstream.extract.outputs import Output
    from maeast_upstream.extract.part_store import PartReport
    from maeast_upstream.extract.survey import Survey
    from maeast_upstream.extract.table import EmbeddingSpec

MAX_SHOWN_ERRORS = 5
MIN_ENGINE_BYTES = 2 << 20
"""Below this much audio, a minute of wav or eight of opus, another engine takes longer to start than it saves."""


def main(argv: Sequence[str]) -> int:
    """Embed audio files, folders, manifests or tars into a table."""
    args = build_parser().parse_args(argv)
    check_numbers(args)
    from maeast_upstream.encoder import load_model
    from maeast_upstream.engines.selection import check_names
    from maeast_upstream.extract.job import Job
    from maeast_upstream.extract.outputs import output_at
    from maeast_upstream.extract.survey import Survey
    from maeast_upstream.storage.settings import refuse_changes

    output = output_at(args.out, args.format)
    output.refuse_as_input(args.inputs)
    survey = Survey(args.inputs, args.path_column)
    check_names(args.engine, args.precision)
    encoder = load_model(args.checkpoint, args.device)
    spec = spec_from(args, encoder.config.readout)
    spec.width(encoder.config)
    encoder.grid(spec.readouts[0].hop_ms)
    before = {} if args.force else output.recorded()
    engine = start_engine(args, encoder, spec, survey, before)
    # before the job's own check, which would name the engine that follows from the precision
    refuse_changes(before, {"precision": engine.precision}, output.address, "give the same, another -o, or --force")
    job = Job(survey, output, encoder, spec, engine, args.checkpoint or "bundled", args.max_hours)
    if args.force:
        output.remove()
    if output.whole():
        job.refuse_other_table()
        output.store.remove()  # a run that was killed at its very end leaves its parts
        print(f"{output.address} is complete already; --force makes it again")
        return ExitStatus.PARTIAL if output.parent.exists(output.error_list) else ExitStatus.DONE
    command = "the same command without --force" if args.force else "the same command"
    try:
        report = job.run(args.workers, args.batch_seconds, args.ray)
    except KeyboardInterrupt:
        print(f"stopped: {job.standing()}; {command} continues from there", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except OSError as error:
        space = ": free some space, then" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ";"
        raise OSError(f"{error}; {job.standing()}{space} {command} continues from there") from error
    return print_report(report, spec.width(encoder.config), output)


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast embed",
        description=f"{main.__doc__} Resumable: run the same command again after an interruption and it continues.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files; folders of them; manifests (.tsv, .csv with path and, for segments, start and end in "
        "seconds or start_ms and end_ms; selection tables of Raven and label tracks of Audacity, .txt); "
        "WebDataset tars; packed folders; - for a list of paths on stdin",
    )
    add_column_options(parser, "path")
    parser.add_argument(
        "-o", "--out", required=True, help="OUT.parquet, OUT.npz, or a folder for parquet parts or npy files"
    )
    parser.add_argument(
        "--format", choices=("parquet", "npz", "npy"), help="of a folder: parquet (default), or npy, one file per clip"
    )
    parser.add_argument(
        "--kind", choices=("scene", "frames"), default="scene", help="one row per clip, or one per time step"
    )
    add_model_options(parser, precisions="fp32 (default), bf16 or fp16; int8 if the engine supports it")
    add_readout_options(parser)
    add_window_options(parser)
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "openvino", "onnx"),
        default="auto",
        help="program that runs the transformer; auto (default): the fastest on this machine, measured once",
    )
    parser.add_argument(
        "--vectors", choices=("float32", "float16"), default="float32", help="how the table stores the vectors"
    )
    parser.add_argument("--batch-seconds", type=float, help="seconds of audio in a batch")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that decode; default 1, or 0 for a thread of this process"
    )
    parser.add_argument(
        "--max-hours",
        type=float,
        default=MAX_HOURS,
        help=f"audio that a file may have; a longer one is left out; default {MAX_HOURS:g}, or inf",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, auto (default) for the one of this machine, or local to start one",
    )
    parser.add_argument("--force", action="store_true", help="make OUT again if it exists")
    return parser


def start_engine(
    args: argparse.Namespace, encoder: "Encoder", spec: "EmbeddingSpec", survey: "Survey", before: Mapping[str, Any]
) -> "Choice":
    """Attach the engine that the options name and print which it is.

    ``auto`` continues a run with the engine that it was begun with, and chooses torch where there is too little audio
    for the start of another engine to pay.
    """
    from maeast_upstream.engines.selection import OFFERS, attach
    from maeast_upstream.engines.streams import streams_on

    engine, why = args.engine, None
    if engine == "auto" and args.precision in OFFERS.get(before.get("engine", ""), ()):
        engine, why = before["engine"], "this run was begun with it"
    elif engine == "auto" and survey.bytes < MIN_ENGINE_BYTES and args.precision in OFFERS["torch"]:
        engine, why = "torch", "too little audio for another engine to pay"
    streams = streams_on(encoder.device)
    choice = attach(encoder, engine, args.precision, spec.layers(encoder.num_layers), streams=streams)
    choice = replace(choice, why=why) if why and choice.engine == engine else choice
    if not is_quiet():
        print(choice)
    return choice


def check_numbers(args: argparse.Namespace) -> None:
    """Raise UsageError if a number is out of range."""
    if args.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {args.workers}")
    if not args.max_hours > 0:
        raise UsageError(f"--max-hours must be above 0, got {args.max_hours}")
    if args.batch_seconds is not None and not 0 < args.batch_seconds < float("inf"):
        raise UsageError(f"--batch-seconds must be above 0, got {args.batch_seconds}")


def spec_from(args: argparse.Namespace, default: Readout) -> "EmbeddingSpec":
    """Return what the options ask of every clip; --layer may be a comma-separated list."""
    from maeast_upstream.extract.table import EmbeddingSpec

    layers = [parse_layer(text) for text in (args.layer or str(default.layer)).split(",")]
    args.layer = None
    readout = readout_from(args, default)
    readouts = tuple(replace(readout, layer=layer) for layer in layers)
    return EmbeddingSpec(kind=args.kind, readouts=readouts, vectors=args.vectors, windows=windows_from(args))


def print_report(report: "PartReport", dimensions: int, output: "Output") -> int:
    """Print what was done and return the exit status."""
    for path, reason, _ in report.errors[:MAX_SHOWN_ERRORS]:
        print(printable(f"left out: {reason if path in reason else f'{path}: {reason}'}"), file=sys.stderr)
    rows = f"{counted(report.clips, 'file')}, {counted(report.rows, 'row')} of {counted(dimensions, 'dimension')}"
    warnings = f"; {counted(len(report.warnings), 'warning')} in {output.parent.shown(output.warning_list)}"
    print(f"{rows}: {output.address}{warnings if report.warnings else ''}")
    if not report.errors:
        return ExitStatus.DONE
    error_list = output.parent.shown(output.error_list)
    print(f"{counted(len(report.errors), 'file')} left out, listed in {error_list}", file=sys.stderr)
    return ExitStatus.PARTIAL
