"""Reads labels.csv: one row per clip, with paths relative to the folder of the file."""

import csv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

SPLITS = ("train", "valid", "test")


def read_rows(path: Path, columns: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """Read the rows of a labels.csv by clip.

    Args:
        path: A UTF-8 CSV file with a header.
        columns: Names of the columns to read beside ``path``, such as label and split; other columns are ignored.

    Returns:
        Maps the resolved path of each clip, which need not exist, to its values in the order of ``columns``.

    Raises:
        ValueError: The file is missing, not UTF-8 or has no rows; a column is missing or occurs twice; a value is
            empty; a path is invalid; or a clip is listed twice.
    """
    clips: dict[Path, tuple[str, ...]] = {}
    for number, (name, *values) in enumerate(read_table(path, ["path", *columns]), start=1):
        try:
            clip = (path.parent / name).resolve()
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: {name!r} is not a path ({error})") from error
        if clip in clips:
            raise ValueError(f"{path}: row {number} lists {name} a second time")
        clips[clip] = tuple(values)
    return clips


def read_table(path: Path, columns: Sequence[str], optional: Collection[str] = ()) -> list[tuple[str, ...]]:
    """Read the rows of a CSV file in their order.

    Args:
        path: A UTF-8 CSV file with a header.
        columns: Names of the columns to read; other columns are ignored.
        optional: Names of columns whose values may be empty.

    Returns:
        The values of each row in the order of ``columns``.

    Raises:
        ValueError: The file is missing, not UTF-8 or has no rows; a column is missing or occurs twice; or a value is
            empty.
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
        raise ValueError(f"{path}: no rows below the header")
    return table


def read_header(path: Path) -> list[str]:
    """Return the names of the columns of a CSV file.

    Raises:
        ValueError: The file is missing or not UTF-8.
    """
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
    """Read the classes and splits of a labels.csv with the columns path, label and split.

    Args:
        path: The CSV file.
        classify: Converts a label to its class, where several labels form one class; may raise ValueError.

    Returns:
        Maps the resolved path of each clip to (class, split), in the order of the file.

    Raises:
        ValueError: As in `read_rows`; a split is unknown or has no clips; a clip does not exist; or a class has no
            clip in train.
    """
    rows = {clip: (classify(label), split) for clip, (label, split) in read_rows(path, ["label", "split"]).items()}
    for clip, (_, split) in rows.items():
        if split not in SPLITS:
            raise ValueError(f"{path}: unknown split {split!r} of {clip.name}; expected {', '.join(SPLITS)}")
        if not clip.is_file():
            raise ValueError(f"{path}: no such clip: {clip}; paths are relative to {path.parent}")
    for split in SPLITS:
        if not any(split == other for _, other in rows.values()):
            raise ValueError(f"{path}: no clip in split {split}; each of {', '.join(SPLITS)} needs at least one")
    trained = {label for label, split in rows.values() if split == "train"}
    if unseen := sorted({label for label, _ in rows.values()} - trained):
        raise ValueError(f"{path}: no clip of class {unseen[0]!r} in train; each class needs at least one")
    return rows
