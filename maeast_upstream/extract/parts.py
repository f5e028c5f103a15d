"""Cuts the list of inputs into parts and writes each part while it is embedded."""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.data.inputs import Segment, cost
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.names import Choice
from maeast_upstream.extract.outputs import TableBuilder
from maeast_upstream.extract.part_store import PartReport, PartStore
from maeast_upstream.extract.pipeline import FailedInput, embed_decoded
from maeast_upstream.extract.survey import state_of
from maeast_upstream.extract.table import ROW_GROUP_BYTES, Embedded
from maeast_upstream.extract.whole_clips import only_whole

PART_CLIPS, PART_BYTES = 1000, 32 << 20
"""Limits of a part: clips, and bytes of encoded audio, which are a quarter of an hour of wav or two hours of opus."""
SAVE_SECONDS = 30.0
"""Time between two saves. With a part of this time, and two blocks of the pipeline, a kill costs a minute of work."""


@dataclass(frozen=True)
class Part:
    """Consecutive segments that are embedded into one file."""

    number: int
    """Number of segments before it."""
    segments: list[Segment]


def cut_parts(segments: Iterable[Segment], done: Mapping[int, int] | None = None) -> Iterator[Part]:
    """Cut a list of segments into parts of bounded work; the same list gives the same parts.

    Args:
        segments: All segments of a run.
        done: Number and count of segments of the parts that exist. Their segments are left out, even if they would be
            cut differently now because the size of a file has changed.
    """
    done = done or {}
    part: list[Segment] = []
    size = until = 0
    for number, segment in enumerate(segments):
        until = max(until, number + done.get(number, 0))
        segment_bytes = cost(segment)
        if part and (number < until or len(part) == PART_CLIPS or size + segment_bytes > PART_BYTES):
            yield Part(number - len(part), part)
            part, size = [], 0
        if number >= until:
            part.append(segment)
            size += segment_bytes
    if part:
        yield Part(number + 1 - len(part), part)


@dataclass(frozen=True)
class Work:
    """How parts are embedded and where they are written."""

    store: PartStore
    """Receives the parts."""
    builder: TableBuilder
    """Makes the rows of clips."""
    encoder: Encoder
    engine: Choice | None = None
    """The engine that runs the transformer, to attach it again on another machine."""
    workers: int = 1
    """Number of decoding processes; 0 for a thread."""
    batch_seconds: float | None = None
    """Seconds of audio in a batch; None for the default of the device."""
    save_seconds: float = SAVE_SECONDS
    """Time after which a part ends before its planned end, so that a kill costs little; infinity for whole parts."""
    stamps: Sequence[int] = ()
    """Stamps of all segments of the run, see `Survey.stamps`; none to note no state of the parts."""
    max_hours: float = MAX_HOURS
    """Limit of the audio of a file."""
    pool: DecodePool | None = None
    """Decodes; None to open a pool of ``workers``."""


def write_parts(parts: Iterable[Part], work: Work, progress: Callable[[PartReport], object]) -> None:
    """Embed parts and write each of them, in pieces if it takes long; decoding is ahead by several parts.

    Args:
        parts: The parts to embed.
        work: How to embed and where to write them.
        progress: Called with a report of each input when it is done.
    """
    begun: deque[Part] = deque()

    def segments() -> Iterator[Segment]:
        for part in parts:
            begun.append(part)
            yield from part.segments

    with contextlib.ExitStack() as stack:
        pool = work.pool or stack.enter_context(DecodePool(work.workers, max_hours=work.max_hours))
        found = embed_decoded(pool.stream(segments()), work.encoder, work.builder.spec, work.batch_seconds)
        outcomes = only_whole(found)
        while (first := next(outcomes, None)) is not None:
            part = begun.popleft()
            number, end = part.number, part.number + len(part.segments)
            outcomes_of_part = of_segments(itertools.chain([first], outcomes), len(part.segments))
            while number < end:
                number += write_part(number, for_seconds(outcomes_of_part, work.save_seconds), work, progress)


def write_part(
    number: int,
    outcomes: Iterable[Embedded | FailedInput],
    work: Work,
    progress: Callable[[PartReport], object],
) -> int:
    """Write one part while its outcomes arrive; return the number of its segments."""
    rows = 0
    with work.store.write(number, work.builder.schema) as (writer, report):
        for group in row_groups(counted(outcomes, report, progress)):
            clips = [outcome for outcome in group if isinstance(outcome, Embedded)]
            for table in work.builder.tables(clips) if clips else ():
                writer.write_table(table)
                rows += len(table)
        report.rows = rows
        if work.stamps:
            report.state = state_of(work.stamps[number : number + report.segments])
    return report.segments


def of_segments(outcomes: Iterator[Embedded | FailedInput], count: int) -> Iterator[Embedded | FailedInput]:
    """Pass on the outcomes of the next ``count`` segments, each of which may have several windows."""
    while count:
        outcome = next(outcomes)
        yield outcome
        count -= outcome.is_last


def for_seconds(outcomes: Iterator[Embedded | FailedInput], seconds: float) -> Iterator[Embedded | FailedInput]:
    """Pass outcomes on until this much time has passed and all windows of a segment are there, at least one."""
    begun = time.monotonic()
    for outcome in outcomes:
        yield outcome
        if outcome.is_last and time.monotonic() - begun > seconds:
            return


def counted(
    outcomes: Iterable[Embedded | FailedInput],
    report: PartReport,
    progress: Callable[[PartReport], object],
) -> Iterator[Embedded | FailedInput]:
    """Pass outcomes on; add each to the report of the part and report it to ``progress``."""
    for outcome in outcomes:
        outcome_report = report_of(outcome)
        report.add(outcome_report)
        progress(outcome_report)
        yield outcome


def report_of(outcome: Embedded | FailedInput) -> PartReport:
    """Return the report of one input, or of one window of it."""
    warnings = [(outcome.path, outcome.segment, note) for note in outcome.notes]
    if isinstance(outcome, FailedInput):
        errors = [(outcome.path, outcome.reason, outcome.segment)]
        is_clip = outcome.is_window and outcome.is_last
        return PartReport(clips=int(is_clip), errors=errors, warnings=warnings, failed_windows=int(outcome.is_window))
    return PartReport(
        clips=int(outcome.is_last),
        rows=outcome.vectors.shape[0] * outcome.vectors.shape[1],
        samples=outcome.samples,
        warnings=warnings,
    )


def row_groups(outcomes: Iterable[Embedded | FailedInput]) -> Iterator[list[Embedded | FailedInput]]:
    """Collect outcomes into lists for a row group each, which take bounded memory."""
    group: list[Embedded | FailedInput] = []
    size = 0
    for outcome in outcomes:
        group.append(outcome)
        size += outcome.vectors.nbytes if isinstance(outcome, Embedded) else 0
        if size > ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
