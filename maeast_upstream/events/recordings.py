"""Recordings with their events, from the rows of a table, and the labels of their time steps."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maeast_upstream.data.labelled_segments import LabelledSegment, read_labelled_segments
from maeast_upstream.data.labels import NO_NAMES, name_alike, refuse_missing
from maeast_upstream.data.tables import ColumnNames
from maeast_upstream.display import as_text
from maeast_upstream.events.smoothing import Event
from maeast_upstream.messages import counted

logger = logging.getLogger(__name__)


@dataclass
class Recording:
    """A file with its events."""

    path: str
    split: str
    """train, valid or test; "" in a table without splits."""
    rows: list[LabelledSegment] = field(default_factory=list)
    """The rows of its events."""

    def overlaps(self) -> list[LabelledSegment]:
        """Return the rows whose event begins before an earlier one of the same label has ended."""
        ends: dict[str, float] = {}
        found = []
        for row in sorted(self.rows, key=lambda row: row.start_ms or 0.0):
            if (row.start_ms or 0.0) < ends.get(row.label, 0.0):
                found.append(row)
            ends[row.label] = max(ends.get(row.label, 0.0), row.end_ms or 0.0)
        return found

    def events(self, duration_ms: float) -> list[Event]:
        """Return the events, cut at the recording's end; those of a label that overlap are one.

        Raises:
            ValueError: An event begins behind the end; the message names its row.
        """
        by_label: dict[str, list[Event]] = defaultdict(list)
        for row in sorted(self.rows, key=lambda row: row.start_ms or 0.0):
            start, end = row.start_ms or 0.0, min(duration_ms, row.end_ms or duration_ms)
            if start >= duration_ms:
                raise ValueError(
                    f"{row.where}: an event begins at {start:.10g} ms, but {as_text(self.path)} ends at "
                    f"{duration_ms:.10g} ms"
                )
            same = by_label[row.label]
            if same and start < same[-1].end_ms:
                same[-1] = same[-1]._replace(end_ms=max(end, same[-1].end_ms))
            else:
                same.append(Event(row.label, start, end))
        return sorted((e for same in by_label.values() for e in same), key=lambda e: (e.start_ms, e.label))


def read_recordings(table: Path, names: ColumnNames = NO_NAMES) -> list[Recording]:
    """Read the recordings of a table with the columns path, label, start_ms, end_ms and split.

    A row without a label and times is a recording without events, which is background.

    Args:
        table: The table; other forms are those of `read_labelled_segments`.
        names: What it calls path, label and split, where it is something else.

    Returns:
        The recordings in the order of the table.

    Raises:
        ValueError: As in `read_labelled_segments`; a file does not exist or is in two splits; a split has a label that
            train has not, or train or valid has no event.
    """
    recordings: dict[str, Recording] = {}
    for row in read_labelled_segments(table, names, background=True):
        recording = recordings.setdefault(row.path, Recording(row.path, row.split))
        if recording.split != row.split:
            raise ValueError(f"{row.where} has {as_text(row.path)} in {row.split}, an earlier one in {recording.split}")
        if row.label and (row.start_ms is None or row.end_ms is None):
            raise ValueError(f"{row.where} has no {'start_ms' if row.start_ms is None else 'end_ms'}; events need both")
        if row.label and row.start_ms == row.end_ms:
            raise ValueError(f"{row.where}: an event of no length, at {row.start_ms:.10g} ms; give its end")
        if row.label:
            recording.rows.append(row)
    refuse_missing(table, [Path(path) for path in recordings])
    _refuse_untrained(table, recordings.values())
    name_alike(table, {row.label for recording in recordings.values() for row in recording.rows})
    _name_overlaps(table, [row for recording in recordings.values() for row in recording.overlaps()])
    return list(recordings.values())


def _name_overlaps(table: Path, rows: Sequence[LabelledSegment]) -> None:
    if rows:
        logger.warning(
            "%s: %s overlap an earlier one of the same label, and count as one with it; the first: row %d, %r",
            table, counted(len(rows), "event"), rows[0].number, rows[0].label,
        )  # fmt: skip


def _refuse_untrained(table: Path, recordings: Collection[Recording]) -> None:
    by_split: dict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        by_split["train" if recording.split in ("", "train") else recording.split] |= {r.label for r in recording.rows}
    if not by_split["train"]:
        raise ValueError(f"{table}: no event in train; rows need a label, start_ms and end_ms")
    if "valid" in by_split and not by_split["valid"]:
        raise ValueError(f"{table}: no event in valid, which chooses the smoothing; leave valid out to cross-validate")
    for split, labels in by_split.items():
        if unseen := sorted(labels - by_split["train"]):
            raise ValueError(f"{table}: no event {unseen[0]!r} in train, only in {split}; each label needs one there")


def step_targets(events: Sequence[Event], times_ms: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Return which labels sound in each time step: (T, K) bool.

    A step belongs to an event that its centre lies in; an event without such a step gets the one nearest to its middle.

    Args:
        events: The events of a recording.
        times_ms: (T,) ascending centres.
        labels: K labels, all of the events' among them.
    """
    targets = np.zeros((len(times_ms), len(labels)), bool)
    columns = {label: column for column, label in enumerate(labels)}
    for event in events:
        first, end = np.searchsorted(times_ms, [event.start_ms, event.end_ms])
        if first == end:
            first = int(np.abs(times_ms - (event.start_ms + event.end_ms) / 2).argmin())
            end = first + 1
        targets[first:end, columns[event.label]] = True
    return targets
