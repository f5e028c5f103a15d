"""Manifests: tables that list audio files, for `maeast embed` and for pretraining.

There are two forms, and those of `annotations`, ``.txt``, of which the labels are not read. Bytes that are not UTF-8
are kept; a byte order mark and empty lines are skipped, and with a byte order mark the text may be UTF-16.

- A table with a header, ``.tsv`` or ``.csv``, see `tables`. The column ``path`` is required. The columns ``start_ms``
  and ``end_ms``, or ``start`` and ``end`` in seconds, give a segment of the file; an empty value means the file's own
  beginning or end. Other columns are ignored. Relative paths start at the manifest's folder.
- fairseq's, ``.tsv`` only: the first line is the root folder, relative to the manifest's folder or absolute; each other
  line is a path below the root, a tab and the number of samples. A third value, as `pretrain` reads it, names the kind
  of audio. Nothing is quoted.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from maeast_upstream.data.annotations import is_annotations, read_annotations
from maeast_upstream.data.recordings import ANNOTATION_SUFFIX
from maeast_upstream.data.tables import Header, note_ignored_times, option_hint, read_header, row_values
from maeast_upstream.data.times import TIME_COLUMNS, TimeColumns
from maeast_upstream.display import without_secrets
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.storage.text import file_name, lines_of, open_lines

MANIFEST_SUFFIXES = frozenset({".tsv", ".csv", ANNOTATION_SUFFIX})
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


def read_manifest(path: str, path_column: str | None = None, *, note: bool = False) -> Iterator[Row]:
    """Read a manifest of any form row by row.

    Args:
        path: A file or an address.
        path_column: What the table calls the column of paths; None for ``path``.
        note: Whether to log a line about columns that look like times but are not read.

    Raises:
        ValueError: There are no rows, no column of paths and no root folder; or a row has no path or impossible times.
            The message names the row.
    """
    rows = _annotated(path, path_column) if is_annotations(path) else _listed(path, path_column or "path", note)
    row = None
    for row in rows:
        yield row
    if row is None:
        raise ValueError(f"{path}: no rows below the first line")


def _annotated(path: str, path_column: str | None) -> Iterator[Row]:
    names = {} if path_column is None else {"path": path_column}
    for part in read_annotations(path, names, labelled=False):
        if part.start_ms == part.end_ms:
            raise ValueError(
                f"{part.where}: a point at {part.start_ms / 1000:g} s; expected parts with a start and an end"
            )
        yield Row(part.path, part.number, part.start_ms, part.end_ms)


def _listed(path: str, path_column: str, note: bool) -> Iterator[Row]:
    with open_lines(path) as file:
        lines = lines_of(file, path)
        header = read_header(lines, path, path_column)
        if header.has(path_column):
            if note:
                note_ignored_times(without_secrets(path), header.columns, TIME_COLUMNS)
            rows = _with_header(path, lines, header, path_column)
        else:
            known = f"a header with the column {path_column}, or (.tsv) a root folder that exists"
            root = _fairseq_root(path, header.line, known, f"{header}{option_hint('path')}")
            rows = (
                Row(_joined(root, row.path), row.number, samples=row.samples, kind=row.kind)
                for row in _fairseq(path, lines)
            )
        yield from rows


def read_fairseq(path: str) -> tuple[str, Iterator[Row]]:
    """Read a manifest of fairseq's form without joining its paths to the root.

    Returns:
        The root folder, and the rows one by one; their ``path`` is below the root.

    Raises:
        ValueError: The first line is not a root folder; or, from the rows, one is not a path, a tab and a number.
    """
    with open_lines(path) as file:
        first = read_header(lines_of(file, path), path, "").line
        root = _fairseq_root(path, first, "a root folder that exists", repr(first.strip()[:80]))

    def rows() -> Iterator[Row]:
        with open_lines(path) as file:
            lines = lines_of(file, path)
            read_header(lines, path, "")
            yield from _fairseq(path, lines)

    return root, rows()


def _with_header(path: str, lines: Iterator[str], header: Header, path_column: str) -> Iterator[Row]:
    try:
        column, times = header.index(path_column), TimeColumns(header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    folder = _folder(path)
    for number, values in row_values(lines, header, path):
        where = f"{path}: row {number} (counted from 0)"
        if not values[column].strip():
            raise ValueError(f"{where}: no path")
        start, end = times.segment(values, where)
        yield Row(found_path(folder, file_name(values[column])), number, start, end)


def _fairseq_root(path: str, first_line: str, expected: str, got: str) -> str:
    root = _joined(_folder(path), file_name(first_line))
    has_root = path.lower().endswith(".tsv") and first_line and "\t" not in first_line
    if not has_root or not (is_remote(root) or os.path.isdir(root)):
        raise ValueError(f"{path}: expected {expected} in the first line, got {got}")
    return root


def _fairseq(path: str, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(line for line in lines if line.strip()):
        name, *values = line.strip("\r\n").split("\t")
        if not name or not 1 <= len(values) <= 2 or not SAMPLES.fullmatch(values[0]):
            raise ValueError(
                f"{path}: row {number} (counted from 0) below the root folder: expected path, tab, samples, "
                f"got {line.strip()[:80]!r}"
            )
        kind = values[1] if len(values) == 2 else ""
        yield Row(file_name(name), number, samples=int(values[0]), kind=kind)


def found_path(folder: str, name: str) -> str:
    """Return the path of a name in a table.

    Blanks around it, and the ``'`` that our own tables have before a name that begins as a formula, are no part of it
    unless there is such a file.
    """
    plain = from_cell(name.strip())
    path = _joined(folder, name)
    return path if name == plain or os.path.lexists(path) else _joined(folder, plain)


def _folder(manifest: str) -> str:
    return manifest.rpartition("/")[0] if is_remote(manifest) else os.path.dirname(manifest)


def _joined(folder: str, path: str) -> str:
    if is_remote(path) or os.path.isabs(path) or not folder:
        return path
    return f"{folder}/{path}" if is_remote(folder) else os.path.join(folder, path)
