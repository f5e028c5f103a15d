"""The part of ``maeast fit`` that trains on events with onsets and offsets."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import UsageError, columns_from, parse_layer
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import as_text, printable
from maeast_upstream.messages import counted
from maeast_upstream.progress import say

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.events.recordings import Recording
    from maeast_upstream.events.training import TrainedEvents

LEFT_OUT_NAME = "left_out.tsv"
MAX_SHOWN = 5


def fit_events(args: argparse.Namespace) -> int:
    """Train a detector of events by the options of ``maeast fit``, print its scores and save it.

    Returns:
        The exit status.

    Raises:
        UsageError: An option does not go with events.
        ValueError: As in `train_on_events`.
    """
    for option in ("multi_label", "balance", "pool", "hop_ms", "dims", "whiten"):
        if getattr(args, option):
            raise UsageError(f"--{option.replace('_', '-')} does not go with events; --clips takes rows as clips")
    from maeast_upstream.data.audio_length import seconds_of
    from maeast_upstream.data.inputs import Segment
    from maeast_upstream.encoder import load_model
    from maeast_upstream.engines.names import check_names
    from maeast_upstream.events.recordings import read_recordings
    from maeast_upstream.events.report import format_training
    from maeast_upstream.events.scoring import refuse_no_sed_eval
    from maeast_upstream.events.steps import step_readout, step_spec
    from maeast_upstream.events.training import train_on_events
    from maeast_upstream.extract.engine import attach_for

    # whatever can be refused is refused before a checkpoint is loaded
    refuse_no_sed_eval()
    columns = columns_from(args)
    recordings = read_recordings(args.labels, columns)
    check_names(args.engine, args.precision)
    encoder = load_model(args.checkpoint, args.device)
    layer = None if args.layer is None else parse_layer(args.layer)
    readout = step_readout(encoder, layer, args.mel)
    encoder.kept_layers(readout.layers(encoder.num_layers))
    seconds = seconds_of(Segment(recording.path) for recording in recordings)
    choice = attach_for(encoder, step_spec(readout), seconds, args.engine, args.precision)
    if (args.engine, args.precision) != (choice.engine, choice.precision) or args.engine != "torch":
        say(str(choice))
    trained = train_on_events(
        args.labels,
        encoder,
        checkpoint=args.checkpoint,
        readout=readout,
        columns=columns,
        workers=args.workers,
        seed=args.seed,
    )
    trained.detector.save(args.out)
    print(f"{format_training(trained)}\n")
    return finish(trained, args.out)


def finish(trained: "TrainedEvents", out: Path) -> int:
    """Name what was left out or noticed, and what to do next; returns the exit status."""
    for name, note in trained.notes[:MAX_SHOWN]:
        print(printable(f"{name}: {note}"), file=sys.stderr)
    if len(trained.notes) > MAX_SHOWN:
        print(f"{len(trained.notes) - MAX_SHOWN} more such notes", file=sys.stderr)
    if trained.cut:
        events = counted(trained.cut, "event")
        print(f"{events} cut at the end of a recording, behind which the table's times lie", file=sys.stderr)
    for recording, reason in trained.left_out[:MAX_SHOWN]:
        name = as_text(recording.path)
        print(printable(f"left out: {reason if name in reason else f'{name}: {reason}'}"), file=sys.stderr)
    if not any(scores.onsets.hits for scores in trained.scores.values()):
        print("no onset was found where the detector was not fitted: it needs more events", file=sys.stderr)
    write_left_out(out / LEFT_OUT_NAME, trained.left_out)
    print(f"detector: {out}; try maeast predict FOLDER -m {shlex.quote(str(out))} -o found.parquet")
    if not trained.left_out:
        return ExitStatus.DONE
    print(f"{counted(len(trained.left_out), 'recording')} left out, listed in {out / LEFT_OUT_NAME}", file=sys.stderr)
    return ExitStatus.PARTIAL


def write_left_out(path: Path, left_out: Sequence[tuple["Recording", str]]) -> None:
    """Write the list of recordings that were left out; without any remove an earlier list."""
    from maeast_upstream.storage.delimited import write_csv

    if not left_out:
        path.unlink(missing_ok=True)
        return
    rows = [(as_text(recording.path), len(recording.rows), reason) for recording, reason in left_out]
    write_csv(path, [("path", "events", "reason"), *rows], "\t")
