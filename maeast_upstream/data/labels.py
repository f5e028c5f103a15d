"""Reads labels.csv: rows about clips, each clip's path relative to the file's own folder."""

import csv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

SPLITS = ("train", "valid", "test")


def read_rows(path: Path, columns: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """The rows of a labels.csv by clip.

    Args:
        path: a UTF-8 CSV with a header; columns that were not asked for are ignored.
        columns: what is wanted beside ``path``, such as label and split; no value may be empty.

    Returns:
        Resolved path of the clip -> its values in the order of ``columns``. Whether the clip
        exists is not looked at.

    Raises:
        ValueError: no such file, not UTF-8 text, a column that is missing or there twice, an empty value, no path, a
            clip listed twice, no rows.
    """
    clips: dict[Path, tuple[str, ...]] = {}
    for number, (name, *values) in enumerate(read_table(path, ["path", *columns]), start=1):
        try:
            clip = (path.parent / name).resolve()
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: {name!r} is no path ({error})") from error
        if clip in clips:
            raise ValueError(f"{path}: row {number} lists {name} a second time")
        clips[clip] = tuple(values)
    return clips


def read_table(path: Path, columns: Sequence[str], optional: Collection[str] = ()) -> list[tuple[str, ...]]:
    """The rows of a CSV, in its order.

    Args:
        path: a UTF-8 CSV with a header; columns that were not asked for are ignored.
        columns: which values are wanted, in this order.
        optional: those of ``columns`` whose values may be empty.

    Raises:
        ValueError: no such file, not UTF-8 text, a column that is missing or there twice, an empty value, no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected columns {','.join(columns)}")
    header, rows = _read(path)
    for column in columns:
        if column not in header:
            raise ValueError(
                f"{path}: no column {column!r}; expected {','.join(columns)}, got {','.join(header) or 'nothing'}"
            )
        if header.count(column) > 1:
            raise ValueError(f"{path}: two columns are called {column!r}; expected one")
    table: list[tuple[str, ...]] = []
    for number, row in enumerate(rows, start=1):
        values = {column: (row[column] or "").strip() for column in columns}
        for column, value in values.items():
            if not value and column not in optional:
                raise ValueError(f"{path}: row {number} has no {column}")
        table.append(tuple(values.values()))
    if not table:
        raise ValueError(f"{path}: a header without rows")
    return table


def read_header(path: Path) -> list[str]:
    """The names of a CSV's columns; ValueError as `read_table`."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return _read(path)[0]


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 CSV file ({error})") from error


def read_splits(path: Path, classify: Callable[[str], str] = str) -> dict[Path, tuple[str, str]]:
    """The classes and splits of a labels.csv with the columns path, label and split.

    Args:
        path: the CSV.
        classify: the class of a label, where several labels make one; may raise ValueError.

    Returns:
        Resolved path of the clip -> (class, split), in the file's order.

    Raises:
        ValueError: as in `read_rows`; an unknown split, an empty one, a clip that is missing, a class that is absent
            from train.
    """
    rows = {clip: (classify(label), split) for clip, (label, split) in read_rows(path, ["label", "split"]).items()}
    for clip, (_, split) in rows.items():
        if split not in SPLITS:
            raise ValueError(f"{path}: unknown split {split!r} of {clip.name}; expected {', '.join(SPLITS)}")
        if not clip.is_file():
            raise ValueError(f"{path}: no such clip: {clip}; paths are relative to {path.parent}")
    for split in SPLITS:
        if not any(split == other for _, other in rows.values()):
            raise ValueError(f"{path}: no clip in split {split}; each of {', '.join(SPLITS)} needs one")
    trained = {label for label, split in rows.values() if split == "train"}
    if unseen := sorted({label for label, _ in rows.values()} - trained):
        raise ValueError(f"{path}: no train clip of class {unseen[0]!r}; each class needs one")
    return rows
