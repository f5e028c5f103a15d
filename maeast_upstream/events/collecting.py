"""The labelled time steps of recordings, which lie in a temporary file while a detector is fitted."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from maeast_upstream.data.inputs import segment_of
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.display import as_name
from maeast_upstream.encoder import Encoder
from maeast_upstream.events.recordings import Recording
from maeast_upstream.events.smoothing import Event
from maeast_upstream.events.steps import embed_steps, step_spec
from maeast_upstream.extract.pipeline import FailedInput
from maeast_upstream.extract.table import Embedded
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Readout

FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class LabelledSteps:
    """The time steps of a recording, or of a part of one, and its events."""

    name: str
    split: str
    steps: np.ndarray
    """(T, E) float16, in a file that is mapped into memory."""
    times_ms: np.ndarray
    """(T,) ascending centres."""
    events: list[Event]
    duration_ms: float

    def part(self, first: int, end: int, name: str) -> "LabelledSteps":
        """Return a range of the steps with its events; one that sounds at its beginning counts from there."""
        times = self.times_ms[first:end]
        low, high = float(times[0]), float(times[-1])
        events = [event for event in self.events if event.start_ms <= high and event.end_ms > low]
        events = [event._replace(start_ms=max(event.start_ms, low)) if first else event for event in events]
        return dataclasses.replace(self, name=name, steps=self.steps[first:end], times_ms=times, events=events)


@dataclass(frozen=True)
class Collected:
    """What `collect` found."""

    recordings: list[LabelledSteps]
    left_out: list[tuple[Recording, str]]
    """Recordings that cannot be read, with the reason."""
    notes: list[tuple[str, str]]
    """Name of a recording and what was noticed about its audio."""
    cut: int
    """Events that end behind their recording's end, where they were cut."""


class _Gathered:
    """The time steps of recordings, one after the other, as their windows come."""

    def __init__(self, recordings: Sequence[Recording], file: IO[bytes]) -> None:
        self.recordings = recordings
        self.file = file
        self.rows = 0
        """Steps of the recordings that ended."""
        self.times: list[np.ndarray] = []
        """Of the recording that has not."""
        self.end_ms = 0.0
        self.found: list[tuple[Recording, int, np.ndarray, list[Event], float]] = []
        self.failed: dict[int, str] = {}
        self.notes: list[tuple[str, str]] = []
        self.cut = 0

    def add(self, window: Embedded, own: slice) -> None:
        """Write the steps of a window, those that no other window of its recording has."""
        self.notes += [(window.path, note) for note in window.notes]
        steps = np.clip(window.vectors[0, own], -FLOAT16_MAX, FLOAT16_MAX)
        self.file.write(np.ascontiguousarray(steps, np.float16).data)
        self.times.append(window.times_ms[own])
        self.end_ms = window.end_ms

    def add_failed(self, window: FailedInput) -> None:
        """Note a window that cannot be read, and with it its recording."""
        self.notes += [(window.path, note) for note in window.notes]
        self.failed.setdefault(window.segment, window.reason)

    def end_recording(self, number: int) -> None:
        """Keep the steps since the last recording, if all its windows could be read."""
        if number not in self.failed:
            recording = self.recordings[number]
            events = recording.events(self.end_ms)
            self.cut += sum((row.end_ms or 0.0) > self.end_ms + 1.0 for row in recording.rows)
            self.found.append((recording, self.rows, np.concatenate(self.times), events, self.end_ms))
        self.rows += sum(map(len, self.times))
        self.times = []

    def collected(self, width: int) -> Collected:
        """Return the recordings, their steps of ``width`` numbers mapped into memory from the file."""
        self.file.flush()
        shape = self.rows, width
        steps = np.memmap(self.file, np.float16, "r", shape=shape) if self.rows else np.empty(shape, np.float16)
        return Collected(
            [
                LabelledSteps(as_name(each.path), each.split or "train", steps[first : first + len(t)], t, events, ms)
                for each, first, t, events, ms in self.found
            ],
            [(self.recordings[number], reason) for number, reason in sorted(self.failed.items())],
            self.notes,
            self.cut,
        )


@contextmanager
def collected(
    recordings: Sequence[Recording], encoder: Encoder, readout: Readout, workers: int = 1
) -> Iterator[Collected]:
    """Embed the time steps of recordings into a temporary file, which lives as long as this context.

    The file is in the system's folder for such files (TMPDIR names another), and has 276 MB per hour of audio with the
    bundled checkpoint.

    Args:
        recordings: The files and their events.
        encoder: In eval mode.
        readout: See `step_readout`.
        workers: Processes that decode; 0 for a thread.

    Raises:
        ValueError: An event begins behind the end of its recording; or no recording of train can be read.
    """
    with tempfile.TemporaryFile(prefix="maeast-steps-") as file:
        gathered = _Gathered(recordings, file)
        segments = (
            dataclasses.replace(segment_of(as_name(recording.path)), number=number)
            for number, recording in enumerate(recordings)
        )
        bar = progress_bar(total=len(recordings), unit="file", desc="embed", leave=False)
        with DecodePool(workers) as pool, bar:
            for outcome in embed_steps(pool.stream(segments), encoder, readout):
                window = outcome if isinstance(outcome, FailedInput) else outcome[0]
                if isinstance(outcome, FailedInput):
                    gathered.add_failed(outcome)
                else:
                    gathered.add(*outcome)
                if window.is_last:
                    gathered.end_recording(window.segment)
                    bar.update(window.segment + 1 - bar.n)
        yield gathered.collected(step_spec(readout).width(encoder.config))


def refuse_unfit(found: Collected, table: Path) -> None:
    """Raise ValueError if what was read has no event in train, or a split lost a label of train."""
    labels = {event.label for each in found.recordings if each.split == "train" for event in each.events}
    if not labels:
        reason = found.left_out[0][1] if found.left_out else "none has an event"
        raise ValueError(f"{table}: no recording with an event in train can be read; first error: {reason}")
    for each in found.recordings:
        if unseen := sorted({event.label for event in each.events} - labels):
            raise ValueError(f"{table}: no event {unseen[0]!r} is left in train, because its recordings cannot be read")
