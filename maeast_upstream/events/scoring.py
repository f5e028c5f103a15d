"""Scores of events as HEAR gives them: the onset F-measure and the segment error rate of sed_eval.

`count_hits` counts the same matches as sed_eval in a small part of its time, for the choice of a smoothing.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from maeast_upstream.events.smoothing import Event
from maeast_upstream.messages import install_extra

COLLAR_MS = 200.0
"""An onset is found if an event of the same label begins at most this far from it. Source: HEAR's
event_onset_200ms_fms."""
SEGMENT_MS = 1000.0
"""Length of the segments in which labels are compared. Source: HEAR's segment_1s_er."""

Found = Mapping[str, Sequence[Event]]
"""The events of recordings by their names."""


@dataclass(frozen=True)
class Counts:
    """Onsets in the reference, found by the detector, and in both."""

    reference: int = 0
    found: int = 0
    hits: int = 0

    @property
    def f_measure(self) -> float:
        """2 hits / (reference + found), 0 where there is no event at all."""
        total = self.reference + self.found
        return 2 * self.hits / total if total else 0.0

    @property
    def precision(self) -> float:
        """Share of the found onsets that are in the reference; 0 where none is found."""
        return self.hits / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of the reference's onsets that are found; 0 where it has none."""
        return self.hits / self.reference if self.reference else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.reference + other.reference, self.found + other.found, self.hits + other.hits)


@dataclass(frozen=True)
class EventScores:
    """The scores of a split, by sed_eval."""

    by_label: dict[str, Counts] = field(default_factory=dict)
    """Onsets with a collar of 200 ms."""
    error_rate: float = 0.0
    """(Substitutions + deletions + insertions) / labels of the reference, in segments of 1 s; 0 is best."""

    @property
    def onsets(self) -> Counts:
        """The onsets of all labels."""
        return sum(self.by_label.values(), Counts())


def refuse_no_sed_eval() -> None:
    """Raise ValueError if sed_eval is not installed; call it before long work."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports pkg_resources, which warns that it will end
            import sed_eval  # noqa: F401
    except ImportError as error:
        raise ValueError(f"scores of events need sed_eval ({error}): {install_extra('events')}") from error


def score_events(reference: Found, found: Found, labels: Sequence[str]) -> EventScores:
    """Score the events of recordings with sed_eval.

    Args:
        reference: The true events of each recording; one without events counts too.
        found: Those of the detector, for the same recordings.
        labels: All labels.

    Raises:
        ValueError: sed_eval is not installed.
    """
    refuse_no_sed_eval()
    import sed_eval

    by_label = {}
    segments = sed_eval.sound_event.SegmentBasedMetrics(list(labels), time_resolution=SEGMENT_MS / 1000)
    for name, events in reference.items():
        if events or found[name]:  # sed_eval needs an event to know a length
            segments.evaluate(_as_dicts(events), _as_dicts(found[name]))
    for label in labels:
        onsets = sed_eval.sound_event.EventBasedMetrics([label], evaluate_offset=False, t_collar=COLLAR_MS / 1000)
        for name, events in reference.items():
            for near in neighbours(_of_label(events, label), _of_label(found[name], label)):
                onsets.evaluate(*map(_as_dicts, near))
        by_label[label] = Counts(*(int(onsets.overall[key]) for key in ("Nref", "Nsys", "Ntp")))
    has_reference = any(reference.values())
    rate = float(segments.overall_error_rate()["error_rate"]) if has_reference else float("inf")
    return EventScores(by_label, rate)


def neighbours(reference: Sequence[Event], found: Sequence[Event]) -> Iterator[tuple[list[Event], list[Event]]]:
    """Cut a recording's events of a label where no onset is within the collar of the next one.

    sed_eval compares all pairs: 7 s for a thousand events. Events that are further apart never match, so that its
    counts of the groups add up to those of the recording.
    """
    group: tuple[list[Event], list[Event]] = ([], [])
    before = float("inf")
    for event, which in sorted([*((e, 0) for e in reference), *((e, 1) for e in found)], key=lambda x: x[0].start_ms):
        if event.start_ms - before > COLLAR_MS + 1:  # sed_eval counts in seconds, which round otherwise
            yield group
            group = ([], [])
        group[which].append(event)
        before = event.start_ms
    yield group


def count_hits(reference: Sequence[float], found: Sequence[float]) -> int:
    """Count the onsets of a label, in ascending ms, that are found, as sed_eval does.

    In the order of time each onset is matched with the first free one within the collar, which gives the most matches,
    because the collar is the same for all.
    """
    hits = i = j = 0
    while i < len(reference) and j < len(found):
        if abs(reference[i] - found[j]) <= COLLAR_MS:
            hits, i, j = hits + 1, i + 1, j + 1
        elif reference[i] < found[j]:
            i += 1
        else:
            j += 1
    return hits


def _of_label(events: Sequence[Event], label: str) -> list[Event]:
    return [event for event in events if event.label == label]


def _as_dicts(events: Sequence[Event]) -> list[dict[str, object]]:
    """Write events as sed_eval reads them, in seconds."""
    return [{"event_label": e.label, "event_onset": e.start_ms / 1000, "event_offset": e.end_ms / 1000} for e in events]
