"""Reads labelled clips and events: tables with a path, a label and, for parts of long files, times and a split.

Selection tables of Raven and label tracks of Audacity are such tables, too, and a folder of them; see `annotations`.
"""

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maeast_upstream.data.annotations import form_of, is_annotations, read_annotations
from maeast_upstream.data.labels import NO_NAMES, column_index, split_of
from maeast_upstream.data.manifest import found_path
from maeast_upstream.data.recordings import Recordings
from maeast_upstream.data.tables import ColumnNames, read_header, row_values
from maeast_upstream.data.times import TimeColumns
from maeast_upstream.display import as_text
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.storage.text import file_name, lines_of, open_lines
from maeast_upstream.storage.walking import walk

logger = logging.getLogger(__name__)

MAX_SHOWN_FILES = 3


@dataclass(frozen=True, slots=True)
class LabelledSegment:
    """A file, or a part of one, with one label of it."""

    path: str
    """The resolved path, or an address; the file need not exist."""
    start_ms: float | None
    """Where the part begins; None for the beginning of the file."""
    end_ms: float | None
    """Where it ends; None for the end of the file, and the start for a point, as label tracks have them."""
    label: str
    """As the table has it, without blanks around it; "" for a file without events, where such rows may be."""
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


def read_labelled_segments(
    path: Path, names: ColumnNames = NO_NAMES, background: bool = False
) -> list[LabelledSegment]:
    """Read a table of labels whose rows are whole files or parts of files.

    The columns ``path`` and ``label`` are required; ``start_ms`` and ``end_ms``, or ``start`` and ``end`` in seconds,
    and ``split`` are optional, see `tables` for the form. Paths are relative to the folder of the table. A file may
    have several rows with other labels or times.

    Args:
        path: A table with a header.
        names: What the table calls path, label and split, where it is something else.
        background: Whether a row without times may have no label: a file in which there is nothing.

    Returns:
        One item per row, in the order of the table.

    Raises:
        ValueError: The file is missing or no table, or has no rows; a column is missing or occurs twice; a path or
            label is empty; a time is impossible; a split is unknown, or missing in this row but not in all; or a row
            says the same as another; or as in `read_annotations`. In one line that names the row.
    """
    is_annotated = path.is_dir() or is_annotations(str(path))
    rows = list(_annotated(path, names) if is_annotated else _rows(path, names, background))
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
    if path.is_dir() or is_annotations(str(path)):
        return True
    return any(row.start_ms is not None or row.end_ms is not None for row in _rows(path, names))


def _annotated(path: Path, names: ColumnNames) -> Iterator[LabelledSegment]:
    """Yield the rows of a selection table or a label track, or of those in a folder."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    recordings = Recordings()
    resolved = functools.lru_cache(maxsize=1024)(_resolved)
    for table in _tables_in(path) if path.is_dir() else [str(path)]:
        for row in read_annotations(table, names, labelled=True, recordings=recordings):
            split = row.split and split_of(Path(table), row.split)
            clip = resolved("", row.path)
            yield LabelledSegment(clip, row.start_ms, row.end_ms, row.label, split, row.number + 1, table)


def _tables_in(folder: Path) -> list[str]:
    """Return the selection tables and label tracks in a folder at any depth, and log which texts are neither."""
    texts = [entry.path for entry in walk(str(folder), set()) if entry.kind == "file" and is_annotations(entry.path)]
    tables = [path for path in texts if form_of(path)]
    if not tables:
        raise ValueError(f"{folder}: a folder without selection tables of Raven or label tracks of Audacity (.txt)")
    if others := sorted(set(texts) - set(tables)):
        more = f" and {len(others) - MAX_SHOWN_FILES} more" if len(others) > MAX_SHOWN_FILES else ""
        logger.warning("%s: left out, neither selection tables nor label tracks: %s%s",
                       folder, ", ".join(map(as_text, others[:MAX_SHOWN_FILES])), more)  # fmt: skip
    return tables


def _rows(path: Path, names: ColumnNames, background: bool = True) -> Iterator[LabelledSegment]:
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
            is_background = background and not text and start is None and end is None
            label = "" if is_background else _label(text, where, called[1])
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
    seen: dict[tuple[str, float | None, float | None, str], LabelledSegment] = {}
    for row in rows:
        first = seen.setdefault((row.path, row.start_ms, row.end_ms, row.label), row)
        if first is not row:
            other = f"row {first.number}" if first.table == row.table else first.where
            raise ValueError(f"{row.where} says the same as {other}: {as_text(row.path)}, {row.label!r}")
