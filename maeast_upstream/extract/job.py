"""One run of `maeast embed`: from a list of inputs, through parts on disk, to an output."""

import functools
import json
from dataclasses import dataclass
from typing import Any

from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.selection import Choice
from maeast_upstream.extract.outputs import Output
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.parts import Work, cut_parts, write_parts
from maeast_upstream.extract.progress import Progress
from maeast_upstream.extract.ray import connected, write_parts_on_ray
from maeast_upstream.extract.survey import Listing, Survey
from maeast_upstream.extract.table import METADATA_KEY, EmbeddingSpec
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.storage.settings import refuse_changes
from maeast_upstream.version import __version__


@dataclass(frozen=True)
class Job:
    """One run: from inputs to an output."""

    listing: Listing
    survey: Survey
    output: Output
    encoder: Encoder
    wanted: EmbeddingSpec
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
