"""Labelled sets of clips: reads label tables and their splits."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.data.labels import NO_NAMES, SPLITS, read_header, read_splits
from maeast_upstream.data.tables import ColumnNames, note_ignored_times
from maeast_upstream.display import as_text


@dataclass(frozen=True)
class LabelledSet:
    """The clips of a labels.csv with their labels and splits."""

    name: str
    """How tables call the set."""
    paths: list[Path]
    """One file per clip."""
    labels: np.ndarray
    """(clips,) strings."""
    splits: np.ndarray
    """(clips,) strings: train, valid or test."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of classes, and of clips in train, valid and test."""
        train, valid, test = (int((self.splits == split).sum()) for split in SPLITS)
        return len(set(self.labels)), train, valid, test

    def digest(self, splits: Collection[str] = SPLITS) -> str:
        """Return 12 hexadecimal digits that depend on the clips, labels and splits, but not on where the files lie.

        Args:
            splits: which splits count.
        """
        rows = []
        for path, label, split in zip(self.paths, self.labels.tolist(), self.splits.tolist(), strict=True):
            if split in splits:
                with path.open("rb") as file:
                    rows.append([hashlib.file_digest(file, "sha256").hexdigest(), label, split])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


def read_sets(paths: Sequence[Path], names: ColumnNames = NO_NAMES) -> list[LabelledSet]:
    """Read several labels.csv; the arguments are those of `read_labels`.

    Raises:
        ValueError: as in `read_labels`; two sets have the same name.
    """
    sets = [read_labels(path, names) for path in paths]
    if twice := [name for name, count in Counter(each.name for each in sets).items() if count > 1]:
        raise ValueError(f"two sets are called {twice[0]!r}; rename a file or its folder")
    return sets


def read_labels(path: Path, names: ColumnNames = NO_NAMES) -> LabelledSet:
    """Read a labels.csv with columns path, label and split, and check that a classifier can be trained on it.

    Args:
        path: A table, see `maeast_upstream.data.tables`.
        names: What it calls these columns, where it is something else.

    Returns:
        The set, named like the file, or like its folder if the file is called labels.csv.

    Raises:
        ValueError: as in `read_splits`; all clips have the same label.
    """
    rows = read_splits(path, names=names)
    note_ignored_times(str(path), sorted(read_header(path, names)))
    labels, splits = (np.array(column) for column in zip(*rows.values(), strict=True))
    if len(set(labels)) < 2:
        raise ValueError(f"{path}: only one class, {str(labels[0])!r}; a probe needs two")
    name = as_text(path.resolve().parent.name if path.stem == "labels" else path.stem)
    return LabelledSet(name, list(rows), labels, splits)
