"""Chooses a smoothing by the onset F-measure of recordings that a detector was not fitted on."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from maeast_upstream.events.scoring import Counts, count_hits
from maeast_upstream.events.smoothing import Event, Smoothing, median_filter, runs, step_bounds

MEDIANS_MS = (120.0, 200.0, 0.0, 280.0, 440.0)
THRESHOLDS = (0.3, 0.4, 0.2, 0.5, 0.1, 0.6, 0.7, 0.8)
GAPS_MS = (0.0, 80.0, 200.0)
SHORTEST_MS = (0.0, 80.0, 120.0)
"""The settings that are tried; of equally good ones the first counts.

HEAR's kit has a median of 250 ms, a threshold of 0.5 and a shortest event of 125 or 250 ms; drum hits are shorter."""
APART_MS = 10_000.0
"""Silence between two recordings that are gone through as one."""


@dataclass(frozen=True)
class Judged:
    """A recording with the probabilities of its time steps, and what it should give."""

    probabilities: np.ndarray
    """(T, K)."""
    times_ms: np.ndarray
    """(T,) ascending centres."""
    events: Sequence[Event]
    duration_ms: float


class SmoothingSearch:
    """Scores smoothings on recordings that are put one behind the other, so that each is a few operations on arrays."""

    def __init__(self, recordings: Sequence[Judged], labels: Sequence[str], hop_ms: float) -> None:
        """Take the recordings.

        Args:
            recordings: At least one.
            labels: K labels.
            hop_ms: Distance of time steps.
        """
        self._recordings, self._labels, self._hop_ms = recordings, labels, hop_ms
        self._pad = int(max(GAPS_MS) / hop_ms) + 1
        begins, finishes, onsets, shift = [], [], [], 0.0
        for each in recordings:
            bounds = step_bounds(each.times_ms, hop_ms, each.duration_ms)
            pad = np.zeros(self._pad)
            begins += [bounds[0] + shift, pad]
            finishes += [bounds[1] + shift, pad]
            onsets += [(event.label, event.start_ms + shift) for event in each.events]
            shift += each.duration_ms + APART_MS
        self._begins, self._finishes = np.concatenate(begins), np.concatenate(finishes)
        self._onsets = [np.array(sorted(t for name, t in onsets if name == label)) for label in labels]

    def best(self, smoothings: Iterable[Smoothing]) -> tuple[Smoothing, Counts]:
        """Return the smoothing with the highest F-measure, of equals the first one, and its counts."""
        scored = {}
        for median_ms, group in itertools.groupby(smoothings, key=lambda smoothing: smoothing.median_ms):
            filtered = self._filtered(median_ms)
            for smoothing in group:
                scored[smoothing] = self._counts(filtered, smoothing)
        best = max(scored, key=lambda smoothing: scored[smoothing].f_measure)
        return best, scored[best]

    def _filtered(self, median_ms: float) -> np.ndarray:
        width = Smoothing(median_ms=median_ms).width(self._hop_ms)
        pad = np.full((self._pad, len(self._labels)), -1.0)
        return np.concatenate([x for each in self._recordings for x in (median_filter(each.probabilities, width), pad)])

    def _counts(self, filtered: np.ndarray, smoothing: Smoothing) -> Counts:
        total = Counts()
        for column, onsets in zip(filtered.T, self._onsets, strict=True):
            first, last = runs(column >= smoothing.threshold, smoothing.gap_steps(self._hop_ms))
            begins, finishes = self._begins[first], self._finishes[last]
            found = begins[finishes - begins >= smoothing.min_ms]
            total += Counts(len(onsets), len(found), count_hits(onsets.tolist(), found.tolist()))
        return total


def smoothings(hop_ms: float) -> list[Smoothing]:
    """Return all smoothings that are tried; those that are the same at a hop are there once."""
    unique: dict[tuple[int, float, int, int], Smoothing] = {}
    for median_ms, threshold, gap_ms, min_ms in itertools.product(MEDIANS_MS, THRESHOLDS, GAPS_MS, SHORTEST_MS):
        smoothing = Smoothing(median_ms=median_ms, threshold=threshold, gap_ms=gap_ms, min_ms=min_ms)
        steps = int(np.ceil(min_ms / hop_ms - 1e-6))
        unique.setdefault((smoothing.width(hop_ms), threshold, smoothing.gap_steps(hop_ms), steps), smoothing)
    return list(unique.values())


def few_smoothings() -> list[Smoothing]:
    """Return the smoothings that compare strengths of the penalty."""
    return [
        Smoothing(median_ms=median_ms, threshold=threshold, gap_ms=GAPS_MS[1])
        for median_ms, threshold in itertools.product(MEDIANS_MS[:3], THRESHOLDS[:5])
    ]
