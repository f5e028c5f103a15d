"""Manifests: tables that list audio files, for `maeast embed` and for pretraining.

There are two forms. Bytes that are not UTF-8 are kept in both; a byte order mark and empty lines are skipped.

- A table with a header, ``.tsv`` or ``.csv``. The column ``path`` is required. The columns ``start_ms`` and ``end_ms``,
  or ``start`` and ``end`` in seconds, give a segment of the file; an empty value means the file's own beginning or end.
  Names of columns may be in capitals and have blanks around them; other columns are ignored. Relative paths start at
  the manifest's folder. Values are quoted as in CSV.
- fairseq's, ``.tsv`` only: the first line is the root folder, relative to the manifest's folder or absolute; each other
  line is a path below the root, a tab and the number of samples. A third value, as `pretrain` reads it, names the kind
  of audio. Nothing is quoted.
"""

import csv
import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from maeast_upstream.storage.remote import is_remote, open_remote

MANIFEST_SUFFIXES = frozenset({".tsv", ".csv"})
SAMPLES = re.compile(r" *[0-9]{1,18} *")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest."""

    path: str
    """The path or address to open; of `read_fairseq` below the root."""
    number: int
    """The number of rows before this one."""
    start_ms: float | None = None
    """Where a segment of the file begins; None for its beginning."""
    end_ms: float | None = None
    """Where it ends; None for the end of the file."""
    samples: int | None = None
    """The length of the file as fairseq's form declares it."""
    kind: str = ""
    """The kind of audio as fairseq's form declares it (speech, music, ...); "" where it does not."""


def read_manifest(path: str) -> Iterator[Row]:
    """Read a manifest of either form row by row.

    Raises:
        ValueError: There are no rows, no column ``path`` and no root folder; or a row has no path or impossible times.
            The message names the row.
    """
    with _open_text(path) as file:
        first = file.readline().strip("\r\n")
        columns = _columns(path, first)
        if "path" in columns:
            rows = _with_header(path, file, columns)
        else:
            root = _fairseq_root(path, first, "a header with the column path, or (.tsv) a root folder that exists")
            rows = (
                Row(_joined(root, row.path), row.number, samples=row.samples, kind=row.kind)
                for row in _fairseq(path, file)
            )
        row = None
        for row in rows:
            yield row
    if row is None:
        raise ValueError(f"{path}: no rows below the first line")


def read_fairseq(path: str) -> tuple[str, Iterator[Row]]:
    """Read a manifest of fairseq's form without joining its paths to the root.

    Returns:
        The root folder, and the rows one by one; their ``path`` is below the root.

    Raises:
        ValueError: The first line is not a root folder; or, from the rows, one is not a path, a tab and a number.
    """
    with _open_text(path) as file:
        root = _fairseq_root(path, file.readline().strip("\r\n"), "a root folder that exists")

    def rows() -> Iterator[Row]:
        with _open_text(path) as lines:
            lines.readline()
            yield from _fairseq(path, lines)

    return root, rows()


def _open_text(path: str) -> io.TextIOWrapper:
    try:
        raw = open_remote(path) if is_remote(path) else Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _delimiter(path: str) -> str:
    return "\t" if path.lower().endswith(".tsv") else ","


def _columns(path: str, first_line: str) -> list[str]:
    header = next(csv.reader([first_line], delimiter=_delimiter(path)), [])
    return [name.strip().lower() for name in header]


def _with_header(path: str, file: TextIO, columns: list[str]) -> Iterator[Row]:
    for name in ("path", "start_ms", "end_ms", "start", "end"):
        if columns.count(name) > 1:
            raise ValueError(f"{path}: two columns are called {name}; keep one")
    for name in ("start", "end"):
        if name in columns and f"{name}_ms" in columns:
            raise ValueError(f"{path}: both {name} (in seconds) and {name}_ms; keep one")
    folder = _folder(path)
    for number, values in enumerate(_csv_rows(path, file)):
        cells = dict(zip(columns, values, strict=False))
        where = f"{path}: row {number} (counted from 0)"
        if not cells.get("path"):
            raise ValueError(f"{where}: no path")
        start, end = _time_ms(cells, "start", where), _time_ms(cells, "end", where)
        if end is not None and not (start or 0.0) < end:
            raise ValueError(f"{where}: starts at {start or 0:.10g} ms and ends at {end:.10g} ms")
        yield Row(_joined(folder, cells["path"]), number, start, end)


def _csv_rows(path: str, file: TextIO) -> Iterator[list[str]]:
    count = 0
    try:
        # strict: a name that begins with a quotation mark would otherwise hold all rows up to the next mark
        for values in csv.reader(file, delimiter=_delimiter(path), strict=True):
            if values:
                count += 1
                yield values
    except csv.Error as error:
        raise ValueError(
            f"{path}: row {count} (counted from 0): not a table that can be read ({error}); quote a value that begins "
            "with a quotation mark, and double the quotation marks in it"
        ) from error


def _time_ms(cells: dict[str, str], name: str, where: str) -> float | None:
    for column, factor in ((f"{name}_ms", 1.0), (name, 1000.0)):
        if text := cells.get(column, "").strip():
            try:
                value = float(text)
            except ValueError:
                raise ValueError(f"{where}: {column} {text!r} is not a number") from None
            if not 0 <= value < math.inf:
                raise ValueError(f"{where}: {column} is {text}; expected 0 or more")
            return value * factor
    return None


def _fairseq_root(path: str, first_line: str, expected: str) -> str:
    root = _joined(_folder(path), first_line)
    has_root = _delimiter(path) == "\t" and first_line and "\t" not in first_line
    if not has_root or not (is_remote(root) or os.path.isdir(root)):
        raise ValueError(f"{path}: expected {expected} in the first line, got {first_line.strip()[:80]!r}")
    return root


def _fairseq(path: str, lines: TextIO) -> Iterator[Row]:
    for number, line in enumerate(line for line in lines if line.strip()):
        name, *values = line.strip("\r\n").split("\t")
        if not name or not 1 <= len(values) <= 2 or not SAMPLES.fullmatch(values[0]):
            raise ValueError(
                f"{path}: row {number} (counted from 0) below the root folder: expected path, tab, samples, "
                f"got {line.strip()[:80]!r}"
            )
        yield Row(name, number, samples=int(values[0]), kind=values[1] if len(values) == 2 else "")


def _folder(manifest: str) -> str:
    return manifest.rpartition("/")[0] if is_remote(manifest) else os.path.dirname(manifest)


def _joined(folder: str, path: str) -> str:
    if is_remote(path) or os.path.isabs(path) or not folder:
        return path
    return f"{folder}/{path}" if is_remote(folder) else os.path.join(folder, path)
