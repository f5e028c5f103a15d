"""Reads what ``maeast predict`` wrote, and joins it to the rows of a table of embeddings."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.data.labels import read_table
from maeast_upstream.messages import shortened
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.storage.text import refuse_endless

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("path", "segment", "start_ms", "end_ms", "label", "probability", "margin")
NUMBERS = {"segment": 0.0, "start_ms": 0.0, "end_ms": math.nan, "probability": math.nan, "margin": math.nan}
"""Columns of numbers, and what an empty value means."""
CSV_SUFFIXES = (".csv", ".tsv")
SAME_MS = 1.0
"""Ends of segments that differ by at most this are equal: one may come from a header, the other from the samples."""

Key = tuple[str, float, float]
"""Path, number of the segment, and its start in milliseconds, which together name a row."""
Row = tuple[str, float, float, float, str, float, float]
"""The values of `COLUMNS`."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predicted class of each row of a table."""

    labels: list[str | None]
    """The best label; None without a prediction."""
    probability: np.ndarray
    """(rows,) float64, from 0 to 1; NaN without a prediction."""
    margin: np.ndarray
    """(rows,) float64, the distance to the second-best probability, small where uncertain; NaN without a prediction."""
    others: int
    """Rows of predictions that belong to no row of the table."""

    @property
    def missing(self) -> int:
        """How many rows have no prediction."""
        return sum(label is None for label in self.labels)


def predictions_of(table: Embeddings, file: Path) -> Predictions:
    """Return the best prediction of each row of a table.

    Args:
        table: Rows of embeddings.
        file: What ``maeast predict`` wrote: a parquet file, a folder of parts, or a CSV.

    Raises:
        ValueError: The file is missing or no such table, a number is out of its range, or no row belongs to the table.
    """
    rows = {key: row for paths in (table.files, table.paths) for row, key in enumerate(_keys(table, paths))}
    labels: list[str | None] = [None] * len(table.paths)
    probability, margin = np.full((2, len(labels)), np.nan)
    read = others = 0
    for path, segment, start_ms, end_ms, label, share, distance in _read(file):
        read += 1
        row = rows.get((absolute_path(path), segment, round(start_ms, 3)))
        if row is None or abs(end_ms - table.end_ms[row]) > SAME_MS:  # an unknown end, NaN, is equal to any
            others += 1
            continue
        if not 0 <= share <= 1:
            raise ValueError(f"{file}: a probability of {share:g} for {path}; expected 0 to 1")
        if labels[row] is None or share > probability[row]:
            labels[row], probability[row], margin[row] = label, share, distance
    if read == others:
        raise ValueError(
            f"{file}: none of its {read:,} rows is a row of the table; expected what maeast predict wrote for the same "
            "files and windows, with the same paths"
        )
    return Predictions(labels=labels, probability=probability, margin=margin, others=others)


def _keys(table: Embeddings, paths: Sequence[str]) -> Iterator[Key]:
    for path, segment, start_ms in zip(paths, table.segments.tolist(), table.start_ms.tolist(), strict=True):
        yield absolute_path(path), segment, round(start_ms, 3)


def absolute_path(path: str) -> str:
    """Return a path from the root, where a relative one starts at the working folder; an address stays as it is."""
    return path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100  # Path.resolve reads the disk


def _read(file: Path) -> Iterator[Row]:
    """Yield the rows of a table of predictions."""
    if file.suffix.lower() in CSV_SUFFIXES:
        optional = [column for column in COLUMNS if column in NUMBERS]
        for number, values in enumerate(read_table(file, COLUMNS, optional), start=1):
            yield _row(file, number, dict(zip(COLUMNS, values, strict=True)))
        return
    if not file.exists():
        raise ValueError(f"{file}: no such file or folder; expected a table that maeast predict wrote")
    parts = [file]
    if file.is_dir():
        parts = sorted(part for part in file.rglob("*.parquet") if not part.name.startswith("."))
        if not parts:
            raise ValueError(f"{file}: not a table of predictions (a folder without .parquet files)")
    for part in parts:
        refuse_endless(part)
        yield from _read_part(part)


def _row(file: Path, number: int, cells: dict[str, str]) -> Row:
    try:
        numbers = {name: float(cells[name]) if cells[name] else empty for name, empty in NUMBERS.items()}
    except ValueError as error:
        raise ValueError(f"{file}: row {number}: {shortened(error)}; expected a number") from error
    return (
        from_cell(cells["path"]),
        numbers["segment"],
        numbers["start_ms"],
        numbers["end_ms"],
        from_cell(cells["label"]),
        numbers["probability"],
        numbers["margin"],
    )


def _read_part(part: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            names = file.schema_arrow.names
            if missing := [column for column in COLUMNS if column not in names]:
                raise ValueError(
                    f"{part}: no column {missing[0]}; expected {', '.join(COLUMNS)}, as maeast predict writes them"
                )
            for batch in file.iter_batches(columns=list(COLUMNS)):
                yield from _batch_rows(part, batch)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{part}: not a table of predictions ({shortened(error)})") from error


def _batch_rows(part: Path, batch: "pa.RecordBatch") -> Iterator[Row]:
    import pyarrow as pa

    columns = []
    for name in COLUMNS:
        column = batch[name]
        if name not in NUMBERS:
            column = column.cast(pa.string())
            if column.null_count:
                raise ValueError(f"{part}: a row without a {name}")
            columns.append(column.to_pylist())
            continue
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ValueError(f"{part}: {name} holds no numbers, but {column.type}")
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        columns.append(np.where(np.isnan(values), NUMBERS[name], values).tolist())
    yield from zip(*columns, strict=True)
