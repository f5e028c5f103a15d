"""Reads labels.csv: a row for each clip, its path relative to the file's own folder."""

import csv
from collections.abc import Sequence
from pathlib import Path


def read_rows(path: Path, columns: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """The rows of a labels.csv by clip.

    Args:
        path: a UTF-8 CSV with a header; columns that were not asked for are ignored.
        columns: what is wanted beside ``path``, such as label and split; no value may be empty.

    Returns:
        Resolved path of the clip -> its values in the order of ``columns``. Whether the clip
        exists is not looked at.

    Raises:
        ValueError: no such file, not UTF-8 text, a missing column, an empty value, a clip listed
            twice, no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected columns path,{','.join(columns)}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 CSV file ({error})") from error
    wanted = ["path", *columns]
    for column in wanted:
        if column not in header:
            raise ValueError(
                f"{path}: no column {column!r}; expected {','.join(wanted)}, got {','.join(header) or 'nothing'}"
            )
    clips: dict[Path, tuple[str, ...]] = {}
    for number, row in enumerate(rows, start=1):
        values = [(row[column] or "").strip() for column in wanted]
        if not all(values):
            raise ValueError(f"{path}: row {number} has no {wanted[values.index('')]}")
        clip = (path.parent / values[0]).resolve()
        if clip in clips:
            raise ValueError(f"{path}: row {number} lists {values[0]} a second time")
        clips[clip] = tuple(values[1:])
    if not clips:
        raise ValueError(f"{path}: a header without rows")
    return clips
