"""What the commands that embed many inputs share: the options of a job, its engine, and how it ends."""

import argparse
import contextlib
import errno
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maeast_upstream.arguments import UsageError
from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import printable
from maeast_upstream.messages import counted
from maeast_upstream.progress import is_quiet

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.checkpoint.identity import Identity
    from maeast_upstream.decoding.pool import DecodePool
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.engines.names import Choice
    from maeast_upstream.extract.job import Job
    from maeast_upstream.extract.outputs import Output
    from maeast_upstream.extract.part_store import PartReport
    from maeast_upstream.extract.survey import Survey
    from maeast_upstream.extract.table import EmbeddingSpec

MAX_SHOWN_ERRORS = 5


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add --relative-to, --engine, --batch-seconds, --workers, --max-hours, --ray and --force."""
    parser.add_argument(
        "--relative-to",
        metavar="FOLDER",
        help="folder in which the inputs are: paths in the table are relative to it, and hold on other machines",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "openvino", "onnx"),
        default="auto",
        help="program that runs the transformer; auto (default): the one with which this much audio is done first; "
        "engines are measured once, where that pays",
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


def check_numbers(args: argparse.Namespace) -> None:
    """Raise UsageError if a number is out of range."""
    if args.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {args.workers}")
    if not args.max_hours > 0:
        raise UsageError(f"--max-hours must be above 0, got {args.max_hours}")
    if args.batch_seconds is not None and not 0 < args.batch_seconds < float("inf"):
        raise UsageError(f"--batch-seconds must be above 0, got {args.batch_seconds}")


def embed_inputs(
    args: argparse.Namespace,
    survey: "Survey",
    output: "Output",
    checkpoint: Path,
    job_of: "Callable[[Encoder | Identity, Choice], Job]",
    start: "Callable[[], tuple[Encoder, Choice]]",
) -> int:
    """Run the job of a command and return the exit status; a model is loaded only if something is left to do.

    Args:
        args: The options of `add_job_options`.
        survey: The inputs.
        output: Of the job.
        checkpoint: Where the checkpoint is.
        job_of: Makes the job.
        start: Loads the encoder and starts its engine.

    Raises:
        ValueError: The output is a file that does not tell how it was made, or that of another job.
        OSError: As `run_job`.
    """
    from maeast_upstream.checkpoint.identity import Identity, remember, stamp_of
    from maeast_upstream.decoding.pool import DecodePool, needs_decoding
    from maeast_upstream.extract.progress import announce

    if not args.force:
        output.refuse_unknown()
        if job := finished_job(args, output, checkpoint, job_of):
            return run_job(args, job)
    store = output.store
    announce(survey.segments, 0 if args.force or not store.begun else store.total().segments)
    with DecodePool(args.workers, max_hours=args.max_hours) as pool:
        if args.ray is None and needs_decoding(next(iter(survey))):
            pool.start(survey.segments)  # a process starts while the model is loaded
        stamp = stamp_of(checkpoint)
        with without_collection():
            encoder, choice = start()
        job = job_of(encoder, choice)
        remember(checkpoint, stamp, Identity(encoder.config, job.settings["checkpoint"]))
        return run_job(args, job, pool)


def finished_job(
    args: argparse.Namespace, output: "Output", checkpoint: Path, job_of: "Callable[[Encoder | Identity, Choice], Job]"
) -> "Job | None":
    """Return the job if its output is complete already, which is found without torch; None if that is not known."""
    from maeast_upstream.checkpoint.identity import identity_of
    from maeast_upstream.fingerprint import has_fingerprint

    before = output.recorded()
    choice = recorded_choice(args, before)
    identity = identity_of(checkpoint) if choice else None
    if not choice or not identity or not has_fingerprint(identity, before.get("checkpoint")):
        return None
    job = job_of(identity, choice)
    return job if job.is_done() else None


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """A context without garbage collection, which takes an eighth of the time that the import of torch takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def weights_unset() -> Iterator[None]:
    """A context in which a model is loaded without drawing the random weights that those of its file replace."""
    from maeast_upstream.modules.unset import Unset

    with Unset():
        yield


def recorded_choice(args: argparse.Namespace, before: Mapping[str, Any]) -> "Choice | None":
    """Return the engine that an output was made with, if the options allow it; None if it must be started to tell."""
    from maeast_upstream.engines.names import OFFERS, Choice

    engine, precision = before.get("engine", ""), before.get("precision")
    if args.engine not in ("auto", engine) or args.precision not in ("auto", precision):
        return None
    return Choice(engine, precision, "the output was made with it") if precision in OFFERS.get(engine, ()) else None


def start_engine(
    args: argparse.Namespace, encoder: "Encoder", spec: "EmbeddingSpec", survey: "Survey", output: "Output"
) -> "Choice":
    """Attach the engine that the options name and print which it is.

    ``auto`` continues a run with the engine and the precision that it was begun with; for a new one they are those
    with which this much audio is embedded first.

    Raises:
        ValueError: The existing output was made with another precision, or with an engine that cannot run here.
    """
    from maeast_upstream.extract.engine import attach_for
    from maeast_upstream.storage.settings import refuse_changes

    before = {} if args.force else output.recorded()
    recorded = recorded_choice(args, before)
    engine, precision = (recorded.engine, recorded.precision) if recorded else (args.engine, args.precision)
    try:
        choice = attach_for(encoder, spec, survey.seconds, engine, precision)
    except ValueError as error:
        if (engine, precision) == (args.engine, args.precision):
            raise
        begun = f"{output.address} was begun with engine {engine}, {precision}"
        raise ValueError(f"{begun}: {error}; or give another -o, or --force") from error
    if (engine, precision) != (args.engine, args.precision) and choice.engine == engine:
        choice = replace(choice, why="this run was begun with it")
    if not is_quiet():
        print(choice)
    # before the job's own check, which would name the engine that follows from the precision
    refuse_changes(before, {"precision": choice.precision}, output.address, "give the same, another -o, or --force")
    return choice


def run_job(args: argparse.Namespace, job: "Job", pool: "DecodePool | None" = None) -> int:
    """Run a job, or say that its output is complete already; return the exit status.

    Args:
        args: The options of `add_job_options`.
        job: The job.
        pool: Decodes; None where nothing is left to do.

    Raises:
        ValueError: The output is that of another job.
        OSError: Writing failed; the message says what is saved.
    """
    output = job.output
    if args.force:
        output.remove()
    if output.whole():
        job.refuse_other_table()
        output.store.remove()  # a run that was killed at its very end leaves its parts
        print(f"{output.address} is complete already; --force makes it again")
        return ExitStatus.PARTIAL if output.parent.exists(output.error_list) else ExitStatus.DONE
    command = "the same command without --force" if args.force else "the same command"
    try:
        report = job.run(args.workers, args.batch_seconds, args.ray, pool)
    except KeyboardInterrupt:
        print(f"stopped: {job.standing()}; {command} continues from there", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except OSError as error:
        space = ": free some space, then" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ";"
        raise OSError(f"{error}; {job.standing()}{space} {command} continues from there") from error
    has_vectors = job.make_builder is None
    return print_report(report, output, job.spec.stored_width(job.model.config) if has_vectors else None)


def print_report(report: "PartReport", output: "Output", dimensions: int | None = None) -> int:
    """Print what was done and return the exit status."""
    for path, reason, _ in report.errors[:MAX_SHOWN_ERRORS]:
        print(printable(f"left out: {reason if path in reason else f'{path}: {reason}'}"), file=sys.stderr)
    rows = f"{counted(report.clips, 'file')}, {counted(report.rows, 'row')}"
    rows += f" of {counted(dimensions, 'dimension')}" if dimensions else ""
    warnings = f"; {counted(len(report.warnings), 'warning')} in {output.parent.shown(output.warning_list)}"
    print(f"{rows}: {output.address}{warnings if report.warnings else ''}")
    if not report.errors:
        return ExitStatus.DONE
    error_list = output.parent.shown(output.error_list)
    print(f"{counted(len(report.errors), 'file')} left out, listed in {error_list}", file=sys.stderr)
    return ExitStatus.PARTIAL
