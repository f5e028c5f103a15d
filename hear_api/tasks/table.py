"""Reads the CSV of labelled clips or events from which a task is made, and assigns clips to splits."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hear_api.tasks.format import MIN_FOLDS, TRAIN_VALID_TEST, check_label_texts, is_file_name
from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.data.labels import NO_NAMES, SPLIT_NAMES, read_header, read_table
from maeast_upstream.data.tables import ColumnNames, parse_number

VALID_SHARE = 4
"""Without valid clips every fourth train clip becomes one: of 80 % for train and valid that makes HEAR's 60/20/20."""
MAX_NAME_BYTES = 200
"""File systems allow 255 bytes, and the kit's names of a clip's files are up to 20 bytes longer."""


@dataclass
class TaskClip:
    """One recording of a table, with its labels or events."""

    path: Path
    name: str
    """Name of its file in the task, unique over all splits."""
    split: str
    labels: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """Each with label, start and end, in ms."""
    rows: list[int] = field(default_factory=list)
    """Numbers of the table's rows, one per event."""

    @property
    def relative_path(self) -> str:
        """Path of its file in the task's folder."""
        return f"{SAMPLE_RATE}/{self.split}/{self.name}"

    def target(self, task_type: str) -> list[Any]:
        """The entry in SPLIT.json: events for an event task, labels otherwise."""
        return self.events if task_type == "event" else self.labels


def read_clips(table: Path, names: ColumnNames = NO_NAMES) -> tuple[list[TaskClip], str]:
    """Read the clips of a table, and find the type of the task: multiclass, multilabel or event.

    Several rows with the same file, however its path is written, are one clip: with several labels, or with several
    events. A row without a label is a clip of no class, or without events.

    Args:
        table: A table with the columns path, split and label, and for events start_ms and end_ms.
        names: What it calls the first three, where it is something else.

    Raises:
        ValueError: A clip is in two splits, the splits do not fit together, or the kit would change a label.
    """
    event = {"start_ms", "end_ms"} <= read_header(table, names)
    columns = ["path", "split", "label", *(["start_ms", "end_ms"] if event else [])]
    by_path: dict[Path, TaskClip] = {}
    for number, (path, split, label, *times) in enumerate(read_table(table, columns, columns[2:], names), start=1):
        split = SPLIT_NAMES.get(split.casefold(), split)
        source = table.parent / path
        clip = by_path.setdefault(source.resolve(), TaskClip(source, path, split))
        if clip.split != split:
            raise ValueError(f"{table}: row {number} has {path} in {split}, an earlier one in {clip.split}")
        if label in clip.labels and not event:
            raise ValueError(f"{table}: row {number} gives {path} the label {label!r} a second time")
        if label:
            clip.labels.append(label)
        if label and event:
            clip.events.append({"label": label, **read_times(table, number, times)})
            clip.rows.append(number)
    labels = sorted({label for clip in by_path.values() for label in clip.labels})
    if not labels:
        raise ValueError(f"{table}: no row has a label")
    check_label_texts(table, labels)
    clips = list(by_path.values())
    for clip, name in zip(clips, unique_names([clip.name for clip in clips]), strict=True):
        clip.name = name
    assign_splits(table, clips)
    if event:
        return clips, "event"
    return clips, "multiclass" if all(len(clip.labels) == 1 for clip in clips) else "multilabel"


def read_times(table: Path, number: int, times: Sequence[str]) -> dict[str, float]:
    """Parse the start and end of the event in a row, in ms."""
    try:
        start, end = map(parse_number, times)
    except ValueError:
        start, end = 1.0, 0.0
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"{table}: row {number}: expected 0 <= start_ms < end_ms, got {' and '.join(times)!r}")
    return {"start": start, "end": end}


def unique_names(paths: Sequence[str]) -> list[str]:
    """Turn paths into names of WAV files in one folder; a digest tells those apart that are alike or were cut."""
    flat = [re.sub(r"[^\w.+-]", "_", "-".join(Path(path).with_suffix("").parts).lstrip("/-.")) for path in paths]
    alike = defaultdict(list)
    for name in flat:
        alike[name.lower()].append(name)  # some file systems ignore case
    names = []
    for name, path in zip(flat, paths, strict=True):
        short = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        digest = f"-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        names.append(f"{short}{digest if short != name or len(alike[name.lower()]) > 1 else ''}.wav")
    return names


def assign_splits(table: Path, clips: list[TaskClip]) -> None:
    """Check that the splits are train, valid and test, or folds; without valid clips a part of train becomes valid."""
    splits = {clip.split for clip in clips}
    if strange := sorted(split for split in splits if not is_file_name(split)):
        raise ValueError(f"{table}: split {strange[0]!r} cannot be the name of a folder")
    if splits & set(TRAIN_VALID_TEST):
        if unknown := splits - set(TRAIN_VALID_TEST):
            raise ValueError(f"{table}: split {min(unknown)!r} beside {', '.join(TRAIN_VALID_TEST)}")
        if missing := {"train", "test"} - splits:
            raise ValueError(f"{table}: no clip has the split {min(missing)!r}")
        if "valid" not in splits:
            split_off_valid(clips)
    elif len(splits) < MIN_FOLDS:
        raise ValueError(
            f"{table}: expected the splits train, valid and test, or at least {MIN_FOLDS} folds, got {sorted(splits)}"
        )


def split_off_valid(clips: list[TaskClip]) -> None:
    """Move every fourth train clip of each set of labels to valid, in the order of the digests of their names."""
    groups = defaultdict(list)
    for clip in clips:
        if clip.split == "train":
            groups[tuple(sorted(set(clip.labels)))].append(clip)
    large = [group for group in groups.values() if len(group) >= VALID_SHARE]
    small = [clip for group in groups.values() if len(group) < VALID_SHARE for clip in group]
    for group in [*large, small]:
        group.sort(key=lambda clip: hashlib.sha256(clip.name.encode()).digest())
        for clip in group[VALID_SHARE - 1 :: VALID_SHARE]:
            clip.split = "valid"
