"""Cuts a list of inputs into parts and writes each part as it is embedded."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from maeast_upstream.data.inputs import Segment, cost
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.selection import Choice
from maeast_upstream.extract.outputs import Sink
from maeast_upstream.extract.part_store import PartReport, PartStore
from maeast_upstream.extract.pipeline import FailedInput, embed_decoded
from maeast_upstream.extract.table import Embedded
from maeast_upstream.frontend import SAMPLE_RATE

PART_CLIPS = 1000


PART_BYTES = 32 << 20
"""A part is closed at so many clips, or so much audio as it lies on disk: a quarter of an hour of wav, two of opus."""


STEPS_BYTES = 64 << 20
"""Time steps are written when they take so much memory."""


@dataclass(frozen=True)
class Part:
    """Consecutive segments that are done, or not, as one."""

    number: int
    """Segments before it."""
    segments: list[Segment]


def cut_parts(segments: Iterable[Segment], done: Mapping[int, int] | None = None) -> Iterator[Part]:
    """Cut a list of segments into parts of bounded work; the same list gives the same parts.

    Args:
        segments: all of a run.
        done: parts that are not wanted, each one's number and how many segments it has. They stay what they are, also
            where a file's size is another now than when they were cut.
    """
    done = done or {}
    part: list[Segment] = []
    size = until = 0
    for number, segment in enumerate(segments):
        until = max(until, number + done.get(number, 0))
        own = cost(segment)
        if part and (number < until or len(part) == PART_CLIPS or size + own > PART_BYTES):
            yield Part(number - len(part), part)
            part, size = [], 0
        if number >= until:
            part.append(segment)
            size += own
    if part:
        yield Part(number + 1 - len(part), part)


@dataclass(frozen=True)
class Work:
    """What is done with every part, and by what."""

    store: PartStore
    """Where parts go."""
    sink: Sink
    """Makes rows of clips, and says what is wanted of each."""
    encoder: Encoder
    engine: Choice | None = None
    """What runs its transformer, where that is to be attached again on another machine."""
    workers: int = 1
    """Processes that decode; 0 for a thread."""
    batch_seconds: float | None = None
    """Audio that goes to the model at once; None for what suits its device."""


def write_parts(parts: Iterable[Part], work: Work, progress: Callable[[PartReport], object]) -> None:
    """Embed parts and write each as it is done; decoding goes ahead into the next ones.

    Args:
        parts: those that are to be done.
        work: how.
        progress: is told what has been done since it was told last.
    """
    begun: deque[Part] = deque()

    def segments() -> Iterator[Segment]:
        for part in parts:
            begun.append(part)
            yield from part.segments

    with DecodePool(work.workers) as pool:
        outcomes = embed_decoded(pool.decode(segments()), work.encoder, work.sink.wanted, work.batch_seconds)
        while (first := next(outcomes, None)) is not None:
            part = begun.popleft()
            own = itertools.chain([first], itertools.islice(outcomes, len(part.segments) - 1))
            write_part(part.number, own, work, progress)


def write_part(
    number: int,
    outcomes: Iterable[Embedded | FailedInput],
    work: Work,
    progress: Callable[[PartReport], object],
) -> None:
    """One part, as its outcomes come."""
    with work.store.write(number, work.sink.schema) as (writer, report):
        for some in flushed(counted(outcomes, report, progress)):
            clips = [outcome for outcome in some if isinstance(outcome, Embedded)]
            if clips:
                writer.write_table(work.sink.table(clips))


def counted(
    outcomes: Iterable[Embedded | FailedInput],
    report: PartReport,
    progress: Callable[[PartReport], object],
) -> Iterator[Embedded | FailedInput]:
    """Outcomes as they come, each counted in its part's report and told."""
    for outcome in outcomes:
        one = report_of(outcome)
        report.add(one)
        progress(one)
        yield outcome


def report_of(outcome: Embedded | FailedInput) -> PartReport:
    """Of one input."""
    if isinstance(outcome, FailedInput):
        return PartReport(errors=[(outcome.path, outcome.reason, outcome.segment)])
    return PartReport(
        clips=1,
        rows=outcome.vectors.shape[0] * outcome.vectors.shape[1],
        samples=round((outcome.end_ms - outcome.start_ms) * SAMPLE_RATE / 1000),
    )


def flushed(outcomes: Iterable[Embedded | FailedInput]) -> Iterator[list[Embedded | FailedInput]]:
    """Outcomes in lists that are worth a row group and take bounded memory."""
    some: list[Embedded | FailedInput] = []
    size = 0
    for outcome in outcomes:
        some.append(outcome)
        size += outcome.vectors.nbytes if isinstance(outcome, Embedded) else 0
        if size > STEPS_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
