"""Tables as text, CSV or TSV, in which a spreadsheet finds no formula among names that came from outside."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from maeast_upstream.storage.atomic import replacing

FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Beginnings that a spreadsheet runs as a formula, in their full-width forms, too: OWASP, "CSV Injection"; or those
that `as_cell` has marked."""
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def lines(rows: Iterable[Iterable[object]], delimiter: str = ",") -> Iterator[str]:
    r"""Format rows as CSV, one by one, each with "\n" at its end.

    A value with a line break or the delimiter in it is quoted; text that begins as a formula is marked, see `as_cell`.
    """
    for row in rows:
        text = io.StringIO(newline="")  # rows end with "\r\n" there, because a writer that ends them with "\n" alone
        csv.writer(text, delimiter=delimiter).writerow(map(as_cell, row))  # does not quote "\r"
        yield text.getvalue().removesuffix("\r\n") + "\n"


def write_csv(path: Path, rows: Iterable[Iterable[object]], delimiter: str = ",") -> None:
    """Write rows as a file that appears whole, see `lines`; what is not UTF-8 in names is written as a mark."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(lines(rows, delimiter))


def as_cell(value: object) -> object:
    """Put ``'`` before text that begins as a formula, which a spreadsheet then shows as text; numbers stay."""
    is_formula = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def from_cell(text: str) -> str:
    """Return the text that `as_cell` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
