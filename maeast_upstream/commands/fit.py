"""``maeast fit``: trains a classifier on labelled clips, or on events with onsets and offsets."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import (
    ENGINE_PRECISIONS,
    Parser,
    UsageError,
    add_column_options,
    add_model_options,
    add_readout_options,
    add_window_options,
    columns_from,
    parse_seed,
    readout_from,
    windows_from,
)
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import as_text, printable
from maeast_upstream.messages import counted
from maeast_upstream.progress import say

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.classification.labelled_clips import LabelledClip
    from maeast_upstream.classification.training import Trained
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.readout import Readout

PICTURE_NAME, LEFT_OUT_NAME = "confusion.png", "left_out.tsv"
MAX_SHOWN_ERRORS = 5
OF_READOUT = ("mel", "pool", "hop_ms", "dims", "whiten")
OF_EMBEDDING = ("checkpoint", "device", *OF_READOUT, "window", "overlap", "engine", "precision", "workers")
"""Options that say how clips are embedded, which a table of embeddings has settled."""


def main(argv: Sequence[str]) -> int:
    """Train a classifier on labelled audio, for maeast predict."""
    args = build_parser().parse_args(argv)
    check_options(args)
    from maeast_upstream.classification.folder import refuse_unwritable_folder
    from maeast_upstream.data.labelled_segments import has_times

    refuse_unwritable_folder(args.out, args.force, "--force to replace it")
    timed = has_times(args.labels, columns_from(args))
    if timed and not (args.clips or args.window or args.table):
        say("the table has times: training on events; --clips takes each row as a labelled clip")
        from maeast_upstream.commands.fit_events import fit_events

        return fit_events(args)
    if timed:
        say("each row with times is one labelled clip")
    return fit_clips(args)


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast fit",
        description=f"{main.__doc__} Logistic regression on frozen embeddings; the clips in valid, or cross-validation "
        "where there are none, choose its penalty, the calibration and the thresholds; those in test are scored once.",
    )
    parser.add_argument(
        "labels",
        type=Path,
        metavar="LABELS.csv",
        help="columns path (relative to the file), label, and optionally split (train, valid, test), start_ms, end_ms. "
        "A table with times trains on events, with their onsets and offsets, unless --clips, --window or -t is given",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the classifier")
    add_column_options(parser, "path", "label", "split")
    parser.add_argument(
        "-t",
        "--table",
        type=Path,
        metavar="TABLE",
        help="take vectors from this table that maeast embed wrote, in place of embedding the clips",
    )
    parser.add_argument("--clips", action="store_true", help="take each row with times as one labelled clip")
    parser.add_argument("--multi-label", action="store_true", help="a clip may have several labels, joined by ;")
    parser.add_argument("--balance", action="store_true", help="give rare labels as much weight as frequent ones")
    add_window_options(parser)
    add_model_options(parser, precisions=ENGINE_PRECISIONS)
    add_readout_options(parser)
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "openvino", "onnx"),
        default="torch",
        help="program that runs the transformer; torch (default), or auto: the one with which this much audio is done "
        "first; engines are measured once, where that pays",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that decode; default 1, or 0 for a thread of this process"
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the folds of cross-validation; default 0")
    parser.add_argument("--force", action="store_true", help="replace the classifier in OUT")
    return parser


def check_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other or are out of range."""
    if args.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {args.workers}")
    windows_from(args)
    if args.table is None:
        return
    default = build_parser().parse_args([str(args.labels), "-o", str(args.out)])
    for name in OF_EMBEDDING:
        if (value := getattr(args, name)) != getattr(default, name):
            option = ("no-" if value is False else "") + name.replace("_", "-")
            raise UsageError(f"--{option} does not go with -t: the table has its vectors already")


def fit_clips(args: argparse.Namespace) -> int:
    """Train a classifier of clips, print its scores and write its folder; returns the exit status."""
    from maeast_upstream.classification.training import train_on_labels

    options = {"multi_label": args.multi_label, "balance": args.balance, "seed": args.seed}
    if args.table is not None:
        trained = train_on_labels(
            args.labels, table=args.table, layer=args.layer, columns=columns_from(args), **options
        )
    else:
        from maeast_upstream.classification.labelled_clips import read_clips

        clips = read_clips(args.labels, args.multi_label, columns_from(args))  # refused before a checkpoint is loaded
        encoder, readout = load_encoder(args, clips)
        trained = train_on_labels(
            args.labels,
            encoder=encoder,
            checkpoint=args.checkpoint or "bundled",
            readout=readout,
            windows=windows_from(args),
            columns=columns_from(args),
            workers=args.workers,
            **options,
        )
    return write(trained, args.out)


def load_encoder(args: argparse.Namespace, clips: "Sequence[LabelledClip]") -> tuple["Encoder", "Readout"]:
    """Load the checkpoint that the options name and attach its engine for the clips; also return the readout."""
    from maeast_upstream.data.audio_length import seconds_of
    from maeast_upstream.data.inputs import Segment
    from maeast_upstream.encoder import load_model
    from maeast_upstream.engines.names import check_names
    from maeast_upstream.extract.engine import attach_for
    from maeast_upstream.extract.table import EmbeddingSpec

    check_names(args.engine, args.precision)
    encoder = load_model(args.checkpoint, args.device)
    readout = readout_from(args, encoder.config.readout)
    encoder.check_readout(readout)
    seconds = seconds_of(Segment(clip.path, start_ms=clip.start_ms, end_ms=clip.end_ms) for clip in clips)
    spec = EmbeddingSpec(readouts=(readout,), windows=windows_from(args))
    choice = attach_for(encoder, spec, seconds, args.engine, args.precision)
    if (args.engine, args.precision) != (choice.engine, choice.precision) or args.engine != "torch":
        say(str(choice))
    return encoder, readout


def write(trained: "Trained", out: Path) -> int:
    """Print the scores, write the folder, and name the clips that were left out; returns the exit status."""
    from maeast_upstream.classification.report import draw_confusion, format_report
    from maeast_upstream.visualization.figures import refuse_no_matplotlib

    trained.classifier.save(out)
    write_left_out(out / LEFT_OUT_NAME, trained.left_out)
    print(f"{trained.description}, {trained.classifier.dimensions} dimensions\n{format_report(trained)}\n")
    try:
        refuse_no_matplotlib()
    except ValueError as error:
        say(f"no {PICTURE_NAME}: {error}")
    else:
        draw_confusion(out / PICTURE_NAME, trained)
    for clip, reason in trained.left_out[:MAX_SHOWN_ERRORS]:
        name = as_text(clip.path)
        text = reason if name in reason else f"{name}: {reason}"
        print(printable(f"left out: {clip.where}: {text}"), file=sys.stderr)
    print(f"classifier: {out}; try maeast predict FOLDER -m {shlex.quote(str(out))} -o found.parquet")
    if not trained.left_out:
        return ExitStatus.DONE
    print(f"{counted(len(trained.left_out), 'clip')} left out, listed in {out / LEFT_OUT_NAME}", file=sys.stderr)
    return ExitStatus.PARTIAL


def write_left_out(path: Path, left_out: Sequence[tuple["LabelledClip", str]]) -> None:
    """Write the list of clips that were left out; without any remove an earlier list."""
    from maeast_upstream.storage.delimited import write_csv

    if not left_out:
        path.unlink(missing_ok=True)
        return
    rows = [(as_text(clip.path), clip.start_ms, clip.end_ms, clip.where, reason) for clip, reason in left_out]
    write_csv(path, [("path", "start_ms", "end_ms", "row", "reason"), *rows], "\t")
