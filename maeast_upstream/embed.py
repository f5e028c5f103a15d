"""``maeast embed``: audio in, a table of embeddings out; killed and started again, it goes on where it was."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from maeast_upstream.cluster import connected, write_parts_on_ray
from maeast_upstream.command import (
    Parser,
    UsageError,
    add_model_options,
    add_readout_options,
    parse_layer,
    readout_from,
)
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.engines import Choice, Engine, attach, check_names
from maeast_upstream.extract import Work, cut_parts, write_parts
from maeast_upstream.inputs import list_segments
from maeast_upstream.outputs import FORMATS, Output, output_at
from maeast_upstream.parts import PartReport
from maeast_upstream.progress import Progress
from maeast_upstream.readout import Readout
from maeast_upstream.settings import refuse_changes
from maeast_upstream.table import METADATA_KEY, Wanted
from maeast_upstream.version import __version__

DONE, DONE_IN_PART, INTERRUPTED = 0, 3, 130
SHOWN_ERRORS = 5


def main(argv: Sequence[str]) -> int:
    """Embed audio files, folders, manifests or tars into a table."""
    args = build_parser().parse_args(argv)
    check_numbers(args)
    output = output_at(args.out, args.format)
    survey = take_survey(args.inputs)
    check_names(args.engine, args.precision)
    encoder = load_model(args.checkpoint, args.device)
    wanted = wanted_from(args, encoder.config.readout)
    wanted.width(encoder.config)
    encoder.grid(wanted.readouts[0].hop_ms)
    if args.force:
        output.remove()
    engine = start_engine(args, encoder, wanted, output.recorded())
    job = Job(args.inputs, survey, output, encoder, wanted, engine, args.checkpoint or "bundled")
    if output.whole():
        job.refuse_other_table()
        print(f"{output.address} is whole already; --force makes it anew")
        return DONE_IN_PART if output.place.exists(output.error_list) else DONE
    try:
        report = job.run(args.workers, args.batch_seconds, args.ray)
    except KeyboardInterrupt:
        print(f"stopped: {job.standing()}; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        raise OSError(f"{error}; {job.standing()}: make room, and the same command goes on from there") from error
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
    parser.add_argument("--format", choices=FORMATS, help="of a folder: parquet (default) or npy, one file a clip")
    parser.add_argument("--kind", choices=("scene", "frames"), default="scene", help="one row a clip, or a time step")
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        default="auto",
        help="what runs the transformer; auto (default): the fastest here, measured once",
    )
    parser.add_argument("--vectors", choices=("float32", "float16"), default="float32", help="as they are stored")
    parser.add_argument("--batch-seconds", type=float, help="audio that goes to the model at once")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode; default 1, 0 for a thread")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, auto (default) for the one of this machine, local for one of its own",
    )
    parser.add_argument("--force", action="store_true", help="make OUT anew, whatever is there")
    return parser


def start_engine(args: argparse.Namespace, encoder: Encoder, wanted: Wanted, before: Mapping[str, Any]) -> Choice:
    """Attach the engine that was asked for and say which it is; auto goes on with the one that a run was begun with."""
    engine = before.get("engine", "auto") if args.engine == "auto" else args.engine
    choice = attach(encoder, engine, args.precision, wanted.layers(encoder.num_layers))
    print(choice, file=sys.stderr)
    return choice


def check_numbers(args: argparse.Namespace) -> None:
    """UsageError if a number is out of range."""
    if args.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {args.workers}")
    if args.batch_seconds is not None and not 0 < args.batch_seconds < float("inf"):
        raise UsageError(f"--batch-seconds must be above 0, got {args.batch_seconds}")


def wanted_from(args: argparse.Namespace, default: Readout) -> Wanted:
    """What the command line asks of every clip; --layer may be a list."""
    layers = [parse_layer(text) for text in (args.layer or str(default.layer)).split(",")]
    args.layer = None
    readout = readout_from(args, default)
    return Wanted(
        kind=args.kind,
        readouts=tuple(replace(readout, layer=layer) for layer in layers),
        vectors=args.vectors,
    )


@dataclass(frozen=True)
class Survey:
    """What the inputs are, before any is decoded."""

    segments: int
    digest: str
    """Of their names, places and sizes."""


def take_survey(inputs: Iterable[str]) -> Survey:
    """Go through the list once: it is counted, and what is wrong with it shows before the model is loaded.

    Raises:
        ValueError: an input does not exist, or there is no audio at all.
    """
    digest, count = hashlib.sha256(), 0
    for segment in list_segments(inputs):
        digest.update(repr(segment).encode("utf-8", "surrogateescape"))
        count += 1
    if not count:
        raise ValueError(f"no audio in {', '.join(inputs)}")
    return Survey(count, digest.hexdigest()[:16])


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder's weights and of what its configuration computes with."""
    config = encoder.config.to_dict()
    sections = {name: config[name] for name in ("model", "frontend", "normalisation")}
    digest = hashlib.sha256(json.dumps(sections, sort_keys=True).encode())
    for name, value in sorted(encoder.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Job:
    """One run: from inputs to an output."""

    inputs: Sequence[str]
    survey: Survey
    output: Output
    encoder: Encoder
    wanted: Wanted
    engine: Choice
    checkpoint: str
    """As the user named it."""

    def settings(self) -> dict[str, Any]:
        """What decides the rows: a run goes on with the same ones only."""
        return {
            "version": __version__,
            "checkpoint": fingerprint(self.encoder),
            "engine": self.engine.engine,
            "precision": self.engine.precision,
            **self.wanted.to_dict(),
            "format": self.output.format,
            "inputs": {"segments": self.survey.segments, "digest": self.survey.digest},
        }

    def metadata(self) -> dict[str, str]:
        """How the table was made, for its schema."""
        config = self.encoder.config.to_dict()
        made = {"settings": self.settings(), "checkpoint": self.checkpoint, "config": config}
        return {METADATA_KEY: json.dumps(made)}

    def refuse_other_table(self) -> None:
        """ValueError if what lies at the output is not this job's table."""
        before = self.output.recorded()
        if not before:
            raise ValueError(f"{self.output.address} exists already; give --force to replace it, or another name")
        remedy = "give --force to replace it, or another name"
        refuse_changes(before, self.settings(), self.output.address, remedy)

    def standing(self) -> str:
        """How far it came, in words."""
        store = self.output.store
        clips = sum(store.report(number).clips for number in store.numbers())
        return f"{clips} of {self.survey.segments} clips are safe in {store.storage.root}"

    def run(self, workers: int, batch_seconds: float | None = None, ray: str | None = None) -> PartReport:
        """Do what is not done yet, then put the table together.

        Args:
            workers: processes that decode, of each actor with Ray.
            batch_seconds: audio that goes to the model at once; None for what suits its device.
            ray: a cluster's address; None for this process.

        Raises:
            ValueError: begun with other settings, another run at work, or not one input could be read.
            OSError: a disk that is full, or the like; whole parts stay.
        """
        store = self.output.store
        sink = self.output.sink(self.wanted, self.wanted.width(self.encoder.config), self.metadata())
        with store.locked():
            store.open(self.settings())
            done = set(store.numbers())
            parts = (part for part in cut_parts(list_segments(self.inputs)) if part.number not in done)
            work = Work(store, sink, self.encoder, self.engine, workers, batch_seconds)
            with Progress(self.survey.segments, store.total()) as progress:
                if ray is None:
                    write_parts(parts, work, progress.add)
                else:
                    with connected(ray):
                        write_parts_on_ray(parts, work, progress.add)
            total = store.total()
            self.output.write_errors(total.errors)
            if not total.clips:
                store.remove()
                count, reason = self.survey.segments, total.errors[0][1]
                raise ValueError(f"not one of {count} files could be read; the first: {reason}")
            self.output.finish(sink.schema)
        return total


def tell(report: PartReport, dimensions: int, output: Output) -> int:
    """Print what was done; the exit status."""
    for path, reason in report.errors[:SHOWN_ERRORS]:
        print(f"left out: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
    print(f"{report.clips} files, {report.rows} rows of {dimensions} dimensions: {output.address}")
    if not report.errors:
        return DONE
    print(f"{len(report.errors)} files left out, listed in {output.place.path(output.error_list)}", file=sys.stderr)
    return DONE_IN_PART
