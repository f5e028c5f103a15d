"""Reads labelled clips and events: tables with a path, a label and, for parts of long files, times and a split."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maeast_upstream.data.labels import NO_NAMES, column_index, split_of
from maeast_upstream.data.manifest import found_path
from maeast_upstream.data.tables import ColumnNames, read_header, row_values
from maeast_upstream.data.times import TimeColumns
from maeast_upstream.display import as_text
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.storage.text import file_name, lines_of, open_lines


@dataclass(frozen=True, slots=True)
class LabelledSegment:
    """A file, or a part of one, with one label of it."""

    path: str
    """The resolved path, or an address; the file need not exist."""
    start_ms: float | None
    """Where the part begins; None for the beginning of the file."""
    end_ms: float | None
    """Where it ends; None for the end of the file."""
    label: str
    """As the table has it, without blanks around it; never empty."""
    split: str
    """One of `SPLITS`, or in all rows "" if the table has none."""
    number: int
    """The row of the table, counted from 1."""
    table: str = ""
    """The table, as messages call it."""

    @property
    def where(self) -> str:
        """The table and the row, with which a message about the row begins."""
        return f"{self.table}: row {self.number}"


def read_labelled_segments(path: Path, names: ColumnNames = NO_NAMES) -> list[LabelledSegment]:
    """Read a table of labels whose rows are whole files or parts of files.

    The columns ``path`` and ``label`` are required; ``start_ms`` and ``end_ms``, or ``start`` and ``end`` in seconds,
    and ``split`` are optional, see `tables` for the form. Paths are relative to the folder of the table. A file may
    have several rows with other labels or times.

    Args:
        path: A table with a header.
        names: What the table calls path, label and split, where it is something else.

    Returns:
        One item per row, in the order of the table.

    Raises:
        ValueError: The file is missing or no table, or has no rows; a column is missing or occurs twice; a path or
            label is empty; a time is impossible; a split is unknown, or missing in this row but not in all; or a row
            says the same as another. In one line that names the row.
    """
    rows = list(_rows(path, names))
    if not rows:
        raise ValueError(f"{path}: no rows below the header")
    _refuse_repeated(rows)
    if any(row.split for row in rows):
        without = next((row for row in rows if not row.split), None)
        if without:
            raise ValueError(f"{without.where} has no {names.get('split', 'split')}, which other rows have")
    return rows


def has_times(path: Path, names: ColumnNames = NO_NAMES) -> bool:
    """Return whether a table of labels has a row with a start or an end.

    Args:
        path: As in `read_labelled_segments`.
        names: As there.

    Raises:
        ValueError: As there, up to the first such row.
    """
    return any(row.start_ms is not None or row.end_ms is not None for row in _rows(path, names))


def _rows(path: Path, names: ColumnNames) -> Iterator[LabelledSegment]:
    """Yield the rows of a table one by one."""
    called = [names.get(column, column) for column in ("path", "label", "split")]
    if not path.exists():
        raise ValueError(f"{path}: no such file; expected columns {called[0]},{called[1]}")
    resolved = functools.lru_cache(maxsize=1024)(_resolved)  # the events of a file follow one another
    with open_lines(str(path)) as file:
        lines = lines_of(file, str(path))
        header = read_header(lines, str(path), called[0])
        has_split = "split" in names or header.has(called[2])
        columns = [column_index(path, header, name, called[:2]) for name in called[: 3 if has_split else 2]]
        try:
            times = TimeColumns(header)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        for number, values in row_values(lines, header, str(path), first=1):
            where = f"{path}: row {number}"
            name, text, split = [values[column].strip() for column in columns] + [""] * (not has_split)
            if not name:
                raise ValueError(f"{where} has no {called[0]}")
            try:
                clip = resolved(str(path.parent), values[columns[0]])
            except (OSError, RuntimeError, ValueError) as error:  # a zero byte, a loop of links
                raise ValueError(f"{where}: {as_text(name)!r} is not a path ({error})") from error
            start, end = times.segment(values, where)
            label = _label(text, where, called[1])
            yield LabelledSegment(clip, start, end, label, split and split_of(path, split), number, str(path))


def _label(text: str, where: str, called: str) -> str:
    label = from_cell(text.strip())
    shown = label.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if label != shown:
        raise ValueError(f"{where}: {shown} is not in UTF-8; save the table as UTF-8")
    if not label:
        raise ValueError(f"{where} has no {called}")
    return label


def _resolved(folder: str, name: str) -> str:
    """Return the resolved path that a table in ``folder`` calls ``name``; an address stays as it is."""
    found = found_path(folder, file_name(name).removeprefix("file://"))
    return found if is_remote(found) else os.fspath(Path(found).resolve())


def _refuse_repeated(rows: list[LabelledSegment]) -> None:
    """Raise ValueError for a row with the path, times and label of an earlier one."""
    seen: dict[tuple[str, float | None, float | None, str], int] = {}
    for row in rows:
        first = seen.setdefault((row.path, row.start_ms, row.end_ms, row.label), row.number)
        if first != row.number:
            raise ValueError(f"{row.where} says the same as row {first}: {as_text(row.path)}, {row.label!r}")
