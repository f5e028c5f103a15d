"""Finds the events of many recordings of any length, window by window."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maeast_upstream.audio.reading import AudioError, AudioWarning
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.events.detector import EventDetector
from maeast_upstream.events.smoothing import Event
from maeast_upstream.events.steps import OwnSteps, step_spec
from maeast_upstream.extract.table import Embedded
from maeast_upstream.fingerprint import fingerprint, load_same

if TYPE_CHECKING:  # imported when it is needed, so that a finished output loads no torch
    from maeast_upstream.encoder import Encoder


class RecordingEvents(NamedTuple):
    """The events of a recording."""

    path: str
    segment: int
    events: list[Event]


class WindowReader:
    """Collects the probabilities of a recording's windows, and finds its events when the last one has come.

    In a window that could not be embedded nothing is found; where it is the last one, nothing in the whole recording.
    """

    def __init__(self, detector: EventDetector) -> None:
        """Begin with the first window of a recording."""
        self._detector = detector
        self._begin(("", 0))

    def _begin(self, recording: tuple[str, int]) -> None:
        self._recording, self._own = recording, OwnSteps(self._detector.hop_ms)
        self._times: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []
        self._start_ms = -np.inf

    def add(self, window: Embedded) -> RecordingEvents | None:
        """Take the next window; returns the events if it is the recording's last one."""
        recording = (window.path, window.segment)
        if recording != self._recording or window.start_ms <= self._start_ms:
            self._begin(recording)
        self._start_ms = window.start_ms
        own = self._own.slice_of(window)
        times, probabilities = window.times_ms[own], self._detector.probabilities(window.vectors[0])[own]
        if self._times and len(times):
            self._add_missing(float(self._times[-1][-1]), float(times[0]))
        self._times.append(times)
        self._probabilities.append(probabilities)
        if not window.is_last:
            return None
        events = self._detector.events(np.concatenate(self._probabilities), np.concatenate(self._times), window.end_ms)
        self._begin(("", 0))
        return RecordingEvents(*recording, events)

    def _add_missing(self, before_ms: float, after_ms: float) -> None:
        """Add time steps without events, where the window between two others could not be embedded."""
        hop_ms = self._detector.hop_ms
        missing = np.arange(before_ms + hop_ms, after_ms - hop_ms / 2, hop_ms)
        if len(missing) > 1:
            self._times.append(missing)
            self._probabilities.append(np.zeros((len(missing), len(self._detector.labels)), np.float32))


def detect(
    detector: EventDetector,
    inputs: str | Path | Iterable[str | Path],
    encoder: "Encoder | None",
    workers: int,
    max_hours: float,
    on_error: Callable[[str, str], None] | None,
    on_warning: Callable[[str, str], None] | None,
) -> Iterator[dict[str, Any]]:
    """Find the events of many files; the arguments, rows and errors are those of `EventDetector.predict`."""
    from maeast_upstream.extract.pipeline import FailedInput, embed_decoded

    encoder = encoder or load_same(detector.checkpoint, detector.fingerprint)
    if fingerprint(encoder) != detector.fingerprint:
        raise ValueError("not the encoder that the detector was fitted with (other weights or settings)")
    reader = WindowReader(detector)
    with DecodePool(workers, max_hours=max_hours) as pool:
        for outcome in embed_decoded(pool.stream(list_segments(inputs)), encoder, step_spec(detector.readout)):
            for note in outcome.notes:
                if on_warning is None:
                    warnings.warn(f"{outcome.path}: {note}", AudioWarning, stacklevel=2)
                else:
                    on_warning(outcome.path, note)
            if isinstance(outcome, FailedInput):
                if on_error is None:
                    raise AudioError(outcome.reason)
                on_error(outcome.path, outcome.reason)
            elif found := reader.add(outcome):
                yield from as_rows(found)


def as_rows(found: RecordingEvents) -> Iterator[dict[str, Any]]:
    """Yield a recording's events as dictionaries."""
    for event in found.events:
        yield {
            "path": found.path,
            "segment": found.segment,
            "start_ms": event.start_ms,
            "end_ms": event.end_ms,
            "label": event.label,
            "probability": event.probability,
        }
