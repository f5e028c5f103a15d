"""Labelled clips: reads a table of labels, and checks that a classifier can be fitted on it."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.data.labelled_segments import LabelledSegment, read_labelled_segments
from maeast_upstream.data.labels import NO_NAMES, SPLITS, name_alike
from maeast_upstream.data.tables import ColumnNames
from maeast_upstream.display import as_text
from maeast_upstream.messages import counted

logger = logging.getLogger(__name__)

SEPARATOR = ";"
"""Between the labels of a clip that has several."""


@dataclass(frozen=True)
class LabelledClip:
    """A file, or a part of one, with its labels."""

    path: str
    """The resolved path, or an address."""
    start_ms: float | None
    """Where the clip begins; None for the beginning of the file."""
    end_ms: float | None
    """Where it ends; None for the end of the file."""
    labels: tuple[str, ...]
    """One, or with multi_label one or several, each once."""
    split: str
    """One of `SPLITS`, or in all clips ""."""
    where: str
    """The table and the row, with which a message about the clip begins."""


def read_clips(path: Path, multi_label: bool, names: ColumnNames = NO_NAMES) -> list[LabelledClip]:
    """Read a table of labelled clips, see `read_labelled_segments`, and check it as `refuse_unfit` does.

    Args:
        path: The table.
        multi_label: Whether a clip has several labels, joined by ``;`` or in several rows.
        names: What the table calls path, label and split, where it is something else.

    Raises:
        ValueError: As in `read_labelled_segments` and `refuse_unfit`; a clip has an empty label, two splits, or without
            ``multi_label`` two labels.
    """
    merged: dict[tuple[str, float | None, float | None], LabelledClip] = {}
    for row in read_labelled_segments(path, names):
        clip = as_clip(row, multi_label)
        key = (row.path, row.start_ms, row.end_ms)
        before = merged.setdefault(key, clip)
        if before is clip:
            continue
        if before.split != clip.split:
            name = as_text(clip.path)
            raise ValueError(f"{clip.where} puts {name} in {clip.split}, and {before.where} in {before.split}")
        if not multi_label:
            raise ValueError(
                f"{clip.where} gives {as_text(clip.path)} the label {clip.labels[0]!r}, and {before.where} "
                f"{before.labels[0]!r}; --multi-label allows both"
            )
        labels = tuple(dict.fromkeys([*before.labels, *clip.labels]))
        merged[key] = LabelledClip(*key, labels, clip.split, before.where)
    clips = list(merged.values())
    if not multi_label and any(SEPARATOR in clip.labels[0] for clip in clips):
        logger.warning("%s: labels with %r in them count as they are; --multi-label splits them", path, SEPARATOR)
    refuse_unfit(clips, str(path))
    name_alike(path, {label for clip in clips for label in clip.labels})
    return clips


def as_clip(row: LabelledSegment, multi_label: bool) -> LabelledClip:
    """Return the clip of a row; ValueError if one of its labels is empty."""
    labels = [row.label]
    if multi_label:
        labels = [label.strip() for label in row.label.split(SEPARATOR)]
        if not all(labels):
            raise ValueError(f"{row.where}: an empty label in {row.label!r}")
    return LabelledClip(row.path, row.start_ms, row.end_ms, tuple(dict.fromkeys(labels)), row.split, row.where)


def refuse_unfit(clips: Sequence[LabelledClip], table: str) -> None:
    """Raise ValueError if a classifier cannot be fitted on clips.

    There must be two labels, each with a clip in train; without clips in valid, with two, for cross-validation.

    Args:
        clips: Those that can be used.
        table: The table, for the message.
    """
    train = [clip for clip in clips if clip.split in ("", "train")]
    if not train:
        raise ValueError(f"{table}: no clip in split train")
    counts = Counter(label for clip in train for label in clip.labels)
    everywhere = {label for clip in clips for label in clip.labels}
    if unseen := sorted(everywhere - counts.keys()):
        splits = sorted({clip.split for clip in clips if unseen[0] in clip.labels}, key=SPLITS.index)
        raise ValueError(
            f"{table}: the label {unseen[0]!r} is in {' and '.join(splits)} only; each needs at least one clip in train"
        )
    if len(everywhere) < 2:
        raise ValueError(f"{table}: only one label, {next(iter(everywhere))!r}; a classifier needs two")
    rare = [label for label in sorted(counts) if counts[label] < 2]
    if rare and not any(clip.split == "valid" for clip in clips):
        more = f" (and {len(rare) - 1} more such labels)" if len(rare) > 1 else ""
        raise ValueError(
            f"{table}: the label {rare[0]!r} has one clip{more}; cross-validation needs two of each label: add one, "
            "leave the label out, or give a column split with clips in valid"
        )


def splits_of(clips: Sequence[LabelledClip]) -> np.ndarray:
    """Return the (clips,) splits; those of a table without splits are in train."""
    return np.array([clip.split or "train" for clip in clips])


def targets_of(clips: Sequence[LabelledClip], labels: Sequence[str]) -> np.ndarray:
    """Return (clips, labels) float64: 1 where the clip has the label, else 0."""
    numbers = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((len(clips), len(labels)))
    for row, clip in enumerate(clips):
        targets[row, [numbers[label] for label in clip.labels]] = 1
    return targets


def describe_counts(clips: Sequence[LabelledClip]) -> str:
    """Describe how many clips there are, of how many labels, and how many in each split."""
    labels = {label for clip in clips for label in clip.labels}
    text = f"{counted(len(clips), 'clip')} of {counted(len(labels), 'label')}"
    splits = Counter(clip.split for clip in clips)
    return f"{text}: {', '.join(f'{split} {splits[split]}' for split in SPLITS)}" if "" not in splits else text
