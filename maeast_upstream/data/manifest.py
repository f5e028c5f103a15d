"""Tables that say what to read: a TSV or CSV with a column path, or fairseq's, which begins with a root folder."""

import csv
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maeast_upstream.storage.remote import is_remote, open_remote

MANIFEST_SUFFIXES = frozenset({".tsv", ".csv"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest."""

    path: str
    """As it is to be opened."""
    number: int
    """Rows before it."""
    start_ms: float | None = None
    end_ms: float | None = None


def read_manifest(path: str) -> Iterator[Row]:
    """Rows as they are asked for.

    With a header: the column ``path``, and where stretches of files are wanted ``start_ms`` and ``end_ms``, or
    ``start`` and ``end`` in seconds, in capitals or not; an empty value means the file's own beginning or end; other
    columns are ignored.
    Without one, in a .tsv: fairseq's, a line with the root folder, then lines of path and samples. Paths are relative
    to the root, and that to the manifest's folder. Bytes that are not UTF-8 are kept.

    Raises:
        ValueError: no rows, no such column, a row without a path or with impossible times; names the line.
    """
    with _open_text(path) as file:
        first = file.readline()
        tab = "\t" if path.lower().endswith(".tsv") else ","
        head = next(csv.reader([first.strip("\r\n")], delimiter=tab), [])
        columns = [name.strip().lower() for name in head]
        if "path" in columns:
            # strict: a name that begins with a quotation mark would otherwise hold all rows up to the next mark
            rows = _with_header(path, csv.reader(file, delimiter=tab, strict=True), columns)
        elif tab == "\t" and len(head) == 1 and head[0]:
            rows = _fairseq(path, file, head[0])
        else:
            raise ValueError(f"{path}: expected a header with the column path, got {first.strip()[:80]!r}")
        count = 0
        try:
            for row in rows:
                count += 1
                yield row
        except csv.Error as error:
            raise ValueError(
                f"{path}: row {count} (counted from 0): not a table that can be read ({error}); "
                "a value that begins with quotation marks is put in quotation marks and its own are doubled"
            ) from error
    if not count:
        raise ValueError(f"{path}: a header without rows")


def _open_text(path: str) -> io.TextIOWrapper:
    try:
        raw = open_remote(path) if is_remote(path) else Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _with_header(manifest: str, rows: Iterator[list[str]], columns: list[str]) -> Iterator[Row]:
    for name in ("path", "start_ms", "end_ms", "start", "end"):
        if columns.count(name) > 1:
            raise ValueError(f"{manifest}: the column {name} stands there twice")
    for name in ("start", "end"):
        if name in columns and f"{name}_ms" in columns:
            raise ValueError(f"{manifest}: both {name} (in s) and {name}_ms; keep one")
    base = _folder(manifest)
    for number, values in enumerate(row for row in rows if row):
        cells = dict(zip(columns, values, strict=False))
        where = f"{manifest}: row {number} (counted from 0)"
        if not cells.get("path"):
            raise ValueError(f"{where}: no path")
        start, end = _time(cells, "start", where), _time(cells, "end", where)
        if end is not None and not (start or 0.0) < end:
            raise ValueError(f"{where}: starts at {start or 0:.10g} ms and ends at {end:.10g} ms")
        yield Row(_joined(base, cells["path"]), number, start, end)


def _time(cells: dict[str, str], name: str, where: str) -> float | None:
    """In ms, from the column in ms or the one in seconds."""
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


def _fairseq(manifest: str, lines: Iterator[str], root: str) -> Iterator[Row]:
    base = _joined(_folder(manifest), root)
    for number, line in enumerate(line for line in lines if line.strip("\r\n")):
        path, _, samples = line.strip("\r\n").partition("\t")
        if not path or not samples.isdigit():
            raise ValueError(
                f"{manifest}: row {number} (counted from 0) after the root folder {root!r}: "
                f"expected path, tab, samples, got {line.strip()[:80]!r}"
            )
        yield Row(_joined(base, path), number)


def _folder(manifest: str) -> str:
    return manifest.rpartition("/")[0] if is_remote(manifest) else os.path.dirname(manifest)


def _joined(base: str, path: str) -> str:
    if is_remote(path) or os.path.isabs(path) or not base:
        return path
    return f"{base}/{path}" if is_remote(base) else os.path.join(base, path)
