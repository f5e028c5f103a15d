"""From the probabilities of time steps to events: median filter, threshold, gaps, shortest duration.

The steps of heareval's `create_events_from_prediction`, and gaps that are filled. Source: HEAR, arXiv 2203.03022,
section 3.2 and the kit's task_predictions.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maeast_upstream.checks import check_numbers

LONGEST_MS = 3_600_000.0
"""Limit of the times of a `Smoothing`."""


class Event(NamedTuple):
    """A sound with its label, onset and offset."""

    label: str
    start_ms: float
    end_ms: float
    probability: float = 1.0
    """The highest filtered probability of its time steps; 1 for a reference."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How the probabilities of a label become its events."""

    threshold: float = 0.5
    """A time step belongs to an event if its filtered probability is at least this."""
    median_ms: float = 0.0
    """Width of the median filter over time, rounded to an odd number of time steps; 0 for no filter."""
    gap_ms: float = 0.0
    """Events of a label that are no further from each other than this are one."""
    min_ms: float = 0.0
    """Shorter events are left out, after gaps are filled."""

    def __post_init__(self) -> None:
        times = (0.0, LONGEST_MS)
        check_numbers(self, threshold=(0.0, 1.0), median_ms=times, gap_ms=times, min_ms=times)

    def width(self, hop_ms: float) -> int:
        """Return the time steps of the median filter, an odd number."""
        return 2 * round((self.median_ms / hop_ms - 1) / 2) + 1 if self.median_ms > hop_ms else 1

    def gap_steps(self, hop_ms: float) -> int:
        """Return the time steps that a gap has at most."""
        return int(self.gap_ms / hop_ms + 1e-6)


def find_events(
    probabilities: np.ndarray,
    times_ms: np.ndarray,
    hop_ms: float,
    labels: tuple[str, ...],
    smoothing: Smoothing,
    duration_ms: float = np.inf,
) -> list[Event]:
    """Find the events of a recording.

    Args:
        probabilities: (T, K) of each time step and label.
        times_ms: (T,) ascending centres of the time steps.
        hop_ms: their distance; a step lasts from half a hop before its centre to half a hop behind it.
        labels: K names.
        smoothing: the settings.
        duration_ms: end of the recording, where its last event ends at the latest.

    Returns:
        The events by onset, then by label.
    """
    if not len(times_ms):
        return []
    begins, finishes = step_bounds(times_ms, hop_ms, duration_ms)
    filtered = median_filter(probabilities, smoothing.width(hop_ms))
    events = []
    for number, label in enumerate(labels):
        column = filtered[:, number]
        first, last = runs(column >= smoothing.threshold, smoothing.gap_steps(hop_ms))
        for start, end in zip(first.tolist(), last.tolist(), strict=True):
            if finishes[end] - begins[start] >= smoothing.min_ms:
                best = float(column[start : end + 1].max())
                events.append(Event(label, float(begins[start]), float(finishes[end]), best))
    return sorted(events, key=lambda event: (event.start_ms, event.label))


def step_bounds(times_ms: np.ndarray, hop_ms: float, duration_ms: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Return where (T,) time steps begin and end, half a hop from their centres; none lies outside the recording."""
    return np.maximum(times_ms - hop_ms / 2, 0.0), np.minimum(times_ms + hop_ms / 2, duration_ms)


def median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Replace each of (T, K) values by the median of ``width`` (odd) steps around it; the ends are mirrored.

    NumPy alone does it, so that predictions need no extra.
    """
    if width == 1:
        return values
    padded = np.pad(values, ((width // 2, width // 2), (0, 0)), mode="symmetric")
    result: np.ndarray = np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=0), axis=-1)
    return result


def runs(active: np.ndarray, gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last index of each run of True in (T,) bool; up to ``gap`` False are bridged."""
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    is_far = starts[1:] - ends[:-1] > gap
    kept = np.concatenate([[True], is_far])[: len(starts)], np.concatenate([is_far, [True]])[: len(starts)]
    return starts[kept[0]], ends[kept[1]] - 1
