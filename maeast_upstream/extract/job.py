"""Runs one `maeast embed`: from a list of inputs, through parts on disk, to the output."""

import functools
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.checkpoint.identity import Identity
from maeast_upstream.data.embeddings import METADATA_KEY
from maeast_upstream.data.relative_names import ROOT_KEY
from maeast_upstream.display import without_secrets
from maeast_upstream.engines.names import Choice
from maeast_upstream.extract.outputs import Output, TableBuilder
from maeast_upstream.extract.part_store import PartReport, PartStore
from maeast_upstream.extract.survey import Survey, state_of
from maeast_upstream.extract.table import STATE_KEY, EmbeddingSpec
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.storage.settings import refuse_changes
from maeast_upstream.version import __version__

if TYPE_CHECKING:  # imported when it is needed, so that a finished output loads no torch
    from maeast_upstream.decoding.pool import DecodePool
    from maeast_upstream.encoder import Encoder

logger = logging.getLogger(__name__)
SHORT_SECONDS = 60.0
"""A run on less audio is over before a log needs a line on its progress."""
BuilderMaker = Callable[[dict[str, str]], TableBuilder]
"""From the metadata of a schema to the builder of the rows."""


@dataclass(frozen=True)
class Job:
    """One run, from inputs to an output."""

    survey: Survey
    output: Output
    model: "Encoder | Identity"
    """The encoder; the identity alone is enough where all inputs are done."""
    spec: EmbeddingSpec
    engine: Choice
    checkpoint: str
    """Its name as the user gave it."""
    max_hours: float = MAX_HOURS
    """Limit of the audio of a file; a longer one is an error."""
    make_builder: BuilderMaker | None = None
    """Makes the builder of the rows from their schema's metadata; None for rows of embeddings."""
    more_settings: Mapping[str, Any] = field(default_factory=dict)
    """What else determines the rows, as plain data."""

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Return everything that determines the rows; a run can be continued only with the same settings."""
        weights, projected = fingerprint(self.model), any(readout.projected for readout in self.spec.readouts)
        return {
            "version": __version__,
            "weights": weights,
            "engine": self.engine.engine,
            "precision": self.engine.precision,
            **self.spec.to_dict(),
            # after the readouts: it is another one if they are whitened or projected
            "checkpoint": fingerprint(self.model, *self.spec.readouts) if projected else weights,
            "format": self.output.format,
            "max_hours": self.max_hours,
            "inputs": {"segments": self.survey.segments, "digest": self.survey.digest},
            ROOT_KEY: self.survey.relative_to,
            **self.more_settings,
        }

    def metadata(self, state: str = "") -> dict[str, str]:
        """Return the metadata of the table's schema, which tells how the table was made.

        Args:
            state: Of all inputs, see `Survey.state`; "" for a part, whose report has its own.
        """
        config = self.model.config.to_dict()
        content = {"settings": self.settings, "checkpoint": without_secrets(self.checkpoint), "config": config}
        content |= {STATE_KEY: state} if state else {}
        return {METADATA_KEY: json.dumps(content)}

    def refuse_other_table(self) -> None:
        """Raise ValueError if the existing output is not the table of this job."""
        self.output.refuse_unknown()
        before = self.output.recorded()
        remedy = "give --force to replace it, or another name"
        refuse_changes(before, self.settings, self.output.address, remedy)
        if self.output.recorded_state() not in (None, self.survey.state):
            name = self.survey.changed_since(self.output.time_ns())
            example = f", such as {name}" if name else ""
            raise ValueError(
                f"{self.output.address}: files that it was made from have changed in size or time{example}: "
                "give --force to make it again, or another name"
            )

    def standing(self) -> str:
        """Return a sentence about the parts that are done."""
        store = self.output.store
        clips = sum(store.report(number).clips for number in store.numbers())
        return f"{clips} of {self.survey.segments} clips are saved in {store.storage.shown()}"

    def run(
        self,
        workers: int,
        batch_seconds: float | None = None,
        ray: str | None = None,
        pool: "DecodePool | None" = None,
    ) -> PartReport:
        """Embed the parts that are not done yet, then assemble the table.

        Args:
            workers: Number of decoding processes; with Ray, of each actor.
            batch_seconds: Seconds of audio in a batch; None for the default of the device.
            ray: Address of a Ray cluster; None to run in this process.
            pool: Decodes in this process's run; None to open one.

        Returns:
            The report of the whole table.

        Raises:
            ValueError: The run was begun with other settings, another process is running it, or no input can be read.
            OSError: Writing failed, for example on a full disk; complete parts stay.
        """
        store = self.output.store
        builder = self._builder()
        with store.locked():
            store.open(self.settings)
            self._remove_changed_parts(store)
            if store.total().segments < self.survey.segments:
                self._write_parts(store, builder, workers, batch_seconds, ray, pool)
            total = store.total(self.survey.segments)
            self.output.write_lists(total)
            if not total.clips:
                store.remove()
                count, reason = self.survey.segments, total.errors[0][1]
                raise ValueError(f"none of the {count} input files could be read; first error: {reason}")
            self.output.finish(builder.schema.with_metadata(self.metadata(self.survey.state)), self.spec)
        return total

    def is_done(self) -> bool:
        """Whether the output is complete, or all parts are there, so that `run` needs no encoder."""
        if self.output.recorded() != json.loads(json.dumps(self.settings)):
            return False
        if self.output.whole():
            return self.output.recorded_state() in (None, self.survey.state)
        store = self.output.store
        return not self._changed_parts(store) and store.total().segments == self.survey.segments

    def _write_parts(
        self,
        store: PartStore,
        builder: TableBuilder,
        workers: int,
        batch_seconds: float | None,
        ray: str | None,
        pool: "DecodePool | None",
    ) -> None:
        """Embed what is not done yet."""
        from maeast_upstream.extract.parts import SAVE_SECONDS, Work, cut_parts, write_parts
        from maeast_upstream.extract.progress import Progress

        if isinstance(self.model, Identity):
            raise ValueError(f"{self.output.address}: another run has changed it just now; run the same command again")
        done = {number: store.report(number).segments for number in store.numbers()}
        parts = cut_parts(self.survey, done)
        # on Ray a part may be made twice, by a machine that is thought lost, too: its cut must not depend on time
        save_seconds = SAVE_SECONDS if ray is None else math.inf
        limits = (batch_seconds, save_seconds, self.survey.stamps, self.max_hours)
        work = Work(store, builder, self.model, self.engine, workers, *limits)
        with Progress(self.survey.segments, store.total(), announce=self.survey.seconds > SHORT_SECONDS) as progress:
            if ray is None:
                write_parts(parts, replace(work, pool=pool), progress.add)
            else:
                from maeast_upstream.extract.ray import connected, write_parts_on_ray

                with connected(ray):
                    write_parts_on_ray(parts, work, progress.add)

    def _builder(self) -> TableBuilder:
        if self.make_builder is not None:
            return self.make_builder(self.metadata())
        return self.output.table_builder(self.spec.of_parts(), self.spec.width(self.model.config), self.metadata())

    def _remove_changed_parts(self, store: PartStore) -> None:
        """Remove the parts with a clip whose file has another size or time now than when the part was made."""
        for number, end in self._changed_parts(store):
            logger.warning("clips %d to %d are embedded again: a file among them has changed", number, end - 1)
            store.remove_part(number)

    def _changed_parts(self, store: PartStore) -> list[tuple[int, int]]:
        """The segments of each such part: the first, and the one past the last."""
        reports = [(number, store.report(number)) for number in store.numbers()]
        ranges = [(number, number + report.segments, report.state) for number, report in reports]
        stamps = self.survey.stamps
        return [(begin, end) for begin, end, state in ranges if state and state != state_of(stamps[begin:end])]
