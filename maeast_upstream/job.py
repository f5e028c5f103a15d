"""One run of `maeast embed`: from a list of inputs, through parts on disk, to an output."""

import functools
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

from maeast_upstream.cluster import connected, write_parts_on_ray
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines import Choice
from maeast_upstream.extract import Work, cut_parts, write_parts
from maeast_upstream.inputs import STDIN, Segment, cost, list_segments
from maeast_upstream.outputs import Output
from maeast_upstream.parts import PartReport
from maeast_upstream.progress import Progress
from maeast_upstream.settings import refuse_changes
from maeast_upstream.table import METADATA_KEY, Wanted
from maeast_upstream.version import __version__


@dataclass(frozen=True)
class Survey:
    """What the inputs are, before any is decoded."""

    segments: int
    bytes: int
    """About the size of the audio, see `inputs.cost`."""
    digest: str
    """Of their names and places."""


class Listing:
    """The inputs' segments, as often as they are asked for; what comes on stdin is kept for that."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = inputs
        self.spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=1 << 24)  # noqa: SIM115  (lives as long as the run)
        if STDIN in inputs:
            if sys.stdin is None:
                raise ValueError(f"{STDIN}: stdin is closed; expected a list of paths")
            shutil.copyfileobj(sys.stdin.buffer, self.spool)

    def __iter__(self) -> Iterator[Segment]:
        self.spool.seek(0)
        return list_segments(self.inputs, cast(BinaryIO, self.spool))


def take_survey(listing: Listing) -> Survey:
    """Go through the list once: it is counted, and what is wrong with it shows before the model is loaded.

    Raises:
        ValueError: an input does not exist, or there is no audio at all.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    for segment in listing:
        digest.update(f"{segment!r}\n".encode("utf-8", "surrogateescape"))
        count, size = count + 1, size + cost(segment)
    if not count:
        raise ValueError(f"no audio in {', '.join(listing.inputs)}")
    return Survey(count, size, digest.hexdigest()[:16])


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder's weights and of what its configuration computes with."""
    config = encoder.config.to_dict()
    sections = {name: config[name] for name in ("model", "frontend", "normalisation")}
    digest = hashlib.sha256(json.dumps(sections, sort_keys=True).encode())
    for name, value in sorted(encoder.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def results_key(encoder: Encoder, **settings: Any) -> str:
    """SHA-256 of all that decides an encoder's embeddings: its `fingerprint`, its readout, and ``settings``."""
    what = {"weights": fingerprint(encoder), "readout": encoder.config.to_dict()["readout"], **settings}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """One run: from inputs to an output."""

    listing: Listing
    survey: Survey
    output: Output
    encoder: Encoder
    wanted: Wanted
    engine: Choice
    checkpoint: str
    """As the user named it."""

    @functools.cached_property
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
        made = {
            "settings": self.settings,
            "checkpoint": self.checkpoint,
            "config": config,
        }
        return {METADATA_KEY: json.dumps(made)}

    def refuse_other_table(self) -> None:
        """ValueError if what lies at the output is not this job's table."""
        before = self.output.recorded()
        if not before:
            raise ValueError(f"{self.output.address} exists already; give --force to replace it, or another name")
        remedy = "give --force to replace it, or another name"
        refuse_changes(before, self.settings, self.output.address, remedy)

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
            store.open(self.settings)
            done = {number: store.report(number).segments for number in store.numbers()}
            parts = cut_parts(self.listing, done)
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
