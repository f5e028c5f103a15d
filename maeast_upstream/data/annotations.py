r"""Reads the files that annotation programs write: Raven's selection tables and Audacity's label tracks, both ``.txt``.

- A selection table of Raven or BirdNET-Analyzer has a header and tabs between values, which are not quoted:
  ``Begin Time (s)``, ``End Time (s)``, and perhaps ``Begin Path`` or ``Begin File``, ``File Offset (s)`` and columns of
  annotations. With ``File Offset (s)`` a part begins there in its file; ``Begin Time (s)`` counts from the first file
  that was open in Raven. A selection has a row for each view of it, such as Waveform and Spectrogram.
- A label track of Audacity has no header: start, tab, end, tab, label, in seconds. A point has the same start and end;
  Audacity 1.2 wrote only its start. A line that begins with a backslash holds the frequencies of the label above it.

The recording is the file that ``Begin Path`` or ``Begin File`` names, or, where the path is one of another machine, the
file of that name beside the table. Without such a column it is the audio file beside the table with the table's name:
``a.wav`` for ``a.txt``, ``a.wav.txt``, ``a.Table.1.selections.txt`` and ``a.BirdNET.selection.table.txt``. The files
that `extract.annotation_files` writes are listed with their recordings in a table beside them, `recordings.INDEX_NAME`.

Source: Raven Pro User's Manual, "Selection tables"; Audacity Manual, "Importing and Exporting Labels".
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from maeast_upstream.data.recordings import ANNOTATION_SUFFIX, PATHS, Recordings, from_field
from maeast_upstream.data.tables import NUMBER, ColumnNames, Header, option_hint
from maeast_upstream.data.times import time_ms
from maeast_upstream.display import as_text
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.storage.text import file_name, lines_of, open_lines

START, END, OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
LABELS = ("Species", "Annotation", "Label", "Common Name")
"""What a selection table may call the column of labels: the first three in Raven by habit, the last in BirdNET."""
CODE, NO_CALL = "Species Code", "nocall"
"""The row that BirdNET writes where it found nothing; it marks no part."""
EXPECTED = (
    "expected a selection table of Raven (a header with Begin Time (s) and End Time (s), tabs between values) or a "
    "label track of Audacity (start, tab, end, tab, label)"
)


@dataclass(frozen=True, slots=True)
class Annotation:
    """A part of a recording that a person or a program has marked."""

    path: str
    """The recording, which exists unless it is an address."""
    number: int
    """The number of rows before this one in its table."""
    start_ms: float
    end_ms: float
    """Where it ends; the start for a point."""
    label: str
    """May be empty."""
    split: str
    """What the table has in a column of splits; "" without one."""
    where: str
    """The file and its line, for messages."""


def is_annotations(path: str) -> bool:
    """Whether a file of this name is read as a selection table or a label track."""
    return path.lower().endswith(ANNOTATION_SUFFIX)


def form_of(path: str) -> str:
    """Return ``raven`` or ``audacity``, or "" for another text.

    Raises:
        ValueError: It cannot be read as text.
    """
    with open_lines(path) as file:
        return _form(next(_filled(lines_of(file, path)), (0, ""))[1])


def read_annotations(
    path: str, names: ColumnNames, labelled: bool, recordings: Recordings | None = None
) -> Iterator[Annotation]:
    """Read a selection table or a label track row by row.

    Rows that mark the same part count once, with the same label where labels are read.

    Args:
        path: A file of this machine.
        names: What the table calls path, label and split, where it is something else; see `LABELS` and `PATHS`.
        labelled: Whether labels are read: then each row needs one.
        recordings: The recordings beside tables; give the same object for several tables.

    Raises:
        ValueError: It is neither, a column or a recording is missing, several columns or recordings could be meant, or
            times are impossible; in one line that names the line.
    """
    if is_remote(path):
        raise ValueError(f"{path}: an annotation file must be a file of this machine; download it")
    recordings = recordings or Recordings()
    seen: set[tuple[str, float, float, str]] = set()
    with open_lines(path) as file:
        lines = _filled(lines_of(file, path))
        first = next(lines, (0, ""))
        form = _form(first[1])
        if not form:
            raise ValueError(f"{path}: {EXPECTED}, got {first[1][:60]!r}" if first[0] else f"{path}: an empty file")
        if form == "raven":
            rows = _Raven(path, first[1], names, labelled, recordings).rows(lines)
        else:
            rows = _audacity(path, chain([first], lines), recordings.beside(path))
        for row in rows:
            key = (row.path, row.start_ms, row.end_ms, row.label if labelled else "")
            if labelled and not row.label:
                raise ValueError(f"{row.where}: no label")
            if key not in seen:
                seen.add(key)
                yield row


def _form(line: str) -> str:
    if START.casefold() in [name.strip().casefold() for name in line.split("\t")]:
        return "raven"
    start, tab, _ = line.partition("\t")
    return "audacity" if tab and NUMBER.fullmatch(start.strip().replace(",", ".")) else ""


def _filled(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines with something in them, without their ends, and their numbers, counted from 1."""
    for number, line in enumerate(lines, start=1):
        if (text := line.strip("\r\n")) and text.strip():
            yield number, text


def _audacity(path: str, lines: Iterator[tuple[int, str]], recording: str) -> Iterator[Annotation]:
    count = 0
    for number, line in lines:
        where = f"{path}: line {number}"
        start, *values = line.split("\t")
        if start.startswith("\\"):
            if not count:
                raise ValueError(f"{where}: frequencies, which begin with a backslash, without a label above them")
            continue
        start_ms = end_ms = time_ms(start, 1000.0, f"{where}: start", ";")
        if values and NUMBER.fullmatch(values[0].strip().replace(",", ".")):
            end_ms = time_ms(values.pop(0), 1000.0, f"{where}: end", ";")
        refuse_backwards(start_ms, end_ms, where)
        yield Annotation(recording, count, start_ms, end_ms, _text(values[0] if values else "", where), "", where)
        count += 1


class _Raven:
    """The columns of a selection table."""

    def __init__(self, path: str, line: str, names: ColumnNames, labelled: bool, recordings: Recordings) -> None:
        self._path, self._recordings = path, recordings
        self._header = Header(tuple(name.strip() for name in line.split("\t")), "\t", line)
        self._start, self._end = self._column(START), self._column(END)
        self._offset = self._column(OFFSET) if self._header.has(OFFSET) else None
        self._code = self._column(CODE) if self._header.has(CODE) else None
        known = [names["path"]] if "path" in names else [name for name in PATHS if self._header.has(name)]
        self._file = self._column(known[0], "path") if known else None
        self._label = self._column(names.get("label") or self._label_column(), "label") if labelled else None
        has_split = "split" in names or self._header.has("split")
        self._split = self._column(names.get("split", "split"), "split") if labelled and has_split else None

    def _column(self, name: str, option: str = "") -> int:
        try:
            return self._header.index(name)
        except ValueError as error:
            hint = "" if self._header.has(name) else f", got {self._header}{option_hint(option)}"
            raise ValueError(f"{self._path}: {error}{hint}") from error

    def _label_column(self) -> str:
        found = [name for name in LABELS if self._header.has(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{self._path}: labels in {' and '.join(map(repr, found))}; --label-column names one")
        expected = f"expected a column of labels, such as {', '.join(LABELS)}"
        raise ValueError(f"{self._path}: {expected}, got {self._header}{option_hint('label')}")

    def rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[Annotation]:
        """Yield the rows below the header."""
        width, names = len(self._header.columns), set[str]()
        beside = "" if self._file is not None else self._recordings.beside(self._path)
        for count, (number, line) in enumerate(lines):
            where = f"{self._path}: line {number}"
            values = [value.strip() for value in line.split("\t")]
            if any(values[width:]):
                raise ValueError(f"{where} has {len(values)} values and the header {width} columns, separated by tabs")
            values += [""] * (width - len(values))
            if self._code is not None and values[self._code] == NO_CALL:
                continue
            start, end = (self._time(values, index, where) for index in (self._start, self._end))
            refuse_backwards(start, end, where)
            if self._offset is not None and values[self._offset]:
                offset = self._time(values, self._offset, where)
                start, end = offset, end if offset == start else round(offset + end - start, 6)
            recording = beside or self._recording(values, where)
            names.add(recording)
            if len(names) > 1 and self._offset is None:
                raise ValueError(
                    f"{where}: a second recording, {as_text(recording)}; times in it need the column {OFFSET}"
                )
            label, split = (_text(values[i], where) if i is not None else "" for i in (self._label, self._split))
            yield Annotation(recording, count, start, end, label, split, where)

    def _time(self, values: Sequence[str], index: int, where: str) -> float:
        return time_ms(values[index], 1000.0, f"{where}: {self._header.columns[index]}", ";")

    def _recording(self, values: Sequence[str], where: str) -> str:
        index = self._file or 0
        name = file_name(values[index])
        if not name:
            raise ValueError(f"{where}: no {self._header.columns[index]}")
        return self._recordings.named(os.path.dirname(self._path), name, where)


def refuse_backwards(start_ms: float, end_ms: float, where: str) -> None:
    """Raise ValueError for a part that ends before it starts."""
    if end_ms < start_ms:
        raise ValueError(f"{where}: starts at {start_ms:.10g} ms and ends at {end_ms:.10g} ms")


def _text(value: str, where: str) -> str:
    """Return a label or a split without its marks; raise ValueError if it is not UTF-8."""
    shown = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if value != shown:
        raise ValueError(f"{where}: {shown[:80]} is not in UTF-8; save the file as UTF-8")
    return from_field(value.strip())
