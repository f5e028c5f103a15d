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
    filtered = median_filter(probabilities, smoothing.width(hop_ms))
    events = []
    for number, label in enumerate(labels):
        column = filtered[:, number]
        for first, last in runs(column >= smoothing.threshold, int(smoothing.gap_ms / hop_ms)):
            start = max(0.0, float(times_ms[first]) - hop_ms / 2)
            end = min(duration_ms, float(times_ms[last]) + hop_ms / 2)
            if end - start >= smoothing.min_ms and end > start:
                events.append(Event(label, start, end, float(column[first : last + 1].max())))
    return sorted(events, key=lambda event: (event.start_ms, event.label))


def median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Replace each of (T, K) values by the median of ``width`` (odd) steps around it; the ends are mirrored."""
    if width == 1:
        return values
    from scipy.ndimage import median_filter as filtered

    result: np.ndarray = filtered(values, size=(width, 1))
    return result


def runs(active: np.ndarray, gap: int = 0) -> list[tuple[int, int]]:
    """Return the first and last index of each run of True in (T,) bool; runs at most ``gap`` steps apart are one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return []
    is_far = starts[1:] - ends[:-1] > gap
    first, last = starts[np.concatenate([[True], is_far])], ends[np.concatenate([is_far, [True]])] - 1
    return list(zip(first.tolist(), last.tolist(), strict=True))
