"""Reads tables of text with a header: manifests, labels and other CSV and TSV files that users hand in.

- Values are separated by commas, semicolons, tabs or bars, whichever the header has; a line ``sep=;`` before it, as
  spreadsheets write, says so too. Values are quoted as in CSV.
- Text is UTF-8, or UTF-16 with a byte order mark. Bytes that are not UTF-8 are kept as surrogates.
- Names of columns may be in capitals and have blanks around them. Rows without any value are skipped.
"""

import csv
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from maeast_upstream.storage.text import MAX_LINE

logger = logging.getLogger(__name__)

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""How values may be separated, and how messages call it."""
OPTIONS = {"path": "--path-column", "label": "--label-column", "split": "--split-column"}
"""Columns whose names a user can give, with the options of commands; in Python, ``columns={"path": NAME}``."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
TIME_LIKE = re.compile(
    r"(start|begin|end|stop|onset|offset)([ _.-]?(time|ms|s|secs?|seconds?|frames?|samples?)){0,3}( ?\(\w+\))?",
    re.IGNORECASE,
)
"""Names of columns that look like times of segments, such as ``Begin Time (s)`` of Raven."""
LENGTH_LIKE = ("duration", "length")
MAX_SHOWN_COLUMNS, MAX_SHOWN_CHARACTERS = 20, 40

ColumnNames = Mapping[str, str]
"""What a table calls the columns path, label and split; those that are missing here have these names."""


@dataclass(frozen=True)
class Header:
    """The columns of a table."""

    columns: tuple[str, ...]
    """Their names, without blanks around them."""
    separator: str
    """One of `SEPARATORS`."""
    line: str
    """The line itself, without its end."""

    def has(self, name: str) -> bool:
        """Whether there is a column of this name, in capitals or not."""
        return name.strip().casefold() in map(str.casefold, self.columns)

    def index(self, name: str) -> int:
        """Return the number of a column, counted from 0.

        Raises:
            ValueError: Two columns have this name, or none; without the name of the file.
        """
        found = [number for number, column in enumerate(self.columns) if column.casefold() == name.strip().casefold()]
        if len(found) > 1:
            raise ValueError(f"two columns are called {name!r}; expected one")
        if not found:
            raise ValueError(f"no column {name!r}")
        return found[0]

    def __str__(self) -> str:
        """Name the columns, as messages do."""
        shown = [repr(name[:MAX_SHOWN_CHARACTERS]) for name in self.columns[:MAX_SHOWN_COLUMNS]]
        more = len(self.columns) - len(shown)
        text = ", ".join(shown) + (f" and {more} more" if more else "") or "nothing"
        if self.line.startswith("PK\x03\x04"):
            return f"{text} (a zip archive or a workbook: save it as CSV)"
        return f"{text} (zero bytes: save it as text in UTF-8)" if "\0" in self.line else text


def option_hint(name: str) -> str:
    """Return the end of a message about a missing column: the option that names another, if there is one."""
    return f"; {OPTIONS[name]} names another column" if name in OPTIONS else ""


def note_ignored_times(path: str, columns: Collection[str], known: Collection[str] = ()) -> None:
    """Log one line if a table has columns that look like times of segments but are not read.

    Args:
        path: The table, as messages call it.
        columns: The names of its columns.
        known: The names of columns that are read as times.
    """
    names = {name.casefold() for name in columns}
    ignored = [name for name in columns if TIME_LIKE.fullmatch(name) and name.casefold() not in known]
    if ignored or (names & {"start", "start_ms"} and not names & {"end", "end_ms"}):
        ignored += [name for name in columns if name.casefold() in LENGTH_LIKE]
    if ignored:
        rule = f"times of segments are read from {', '.join(known)}" if known else "files are read as a whole"
        logger.warning("%s: ignored: %s; %s", path, ", ".join(map(repr, ignored[:MAX_SHOWN_COLUMNS])), rule)


def read_header(lines: Iterator[str], path: str, wanted: str) -> Header:
    """Read the first line that is not empty as the header of a table, or after ``sep=;`` the second.

    Args:
        lines: The lines of the table from its beginning; the rows are left.
        path: The table; ``.tsv`` prefers tabs to commas.
        wanted: A column that the table should have, which decides how values are separated.

    Returns:
        The columns; none for an empty file.
    """
    filled = (text for line in lines if (text := line.strip("\r\n")))
    line = next(filled, "")
    order = sorted(SEPARATORS, key=lambda separator: separator != ("\t" if path.lower().endswith(".tsv") else ","))
    if (given := re.fullmatch(r'"?sep=(.)"?', line, re.IGNORECASE)) and given[1] in SEPARATORS:
        order, line = [given[1]], next(filled, "")
    headers = [Header(tuple(_split(line, separator)), separator, line) for separator in order]
    return next((header for header in headers if header.has(wanted)), max(headers, key=lambda x: len(x.columns)))


def _split(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:  # a name that is longer than the module's limit
        return []


def row_values(lines: Iterator[str], header: Header, path: str, first: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the values of each row; a short row gets empty values.

    Args:
        lines: The lines below the header.
        header: Its columns.
        path: The table, for messages.
        first: The number of the first row.

    Raises:
        ValueError: A row has more values than there are columns, or is not quoted as in CSV; in one line that names
            the row.
    """
    number, width = first, len(header.columns)

    def where() -> str:
        return f"{path}: row {number}{'' if first else ' (counted from 0)'}"

    counted = _CountedLines(lines, where)
    try:
        # strict: a name that begins with a quotation mark would otherwise hold all rows up to the next mark
        for values in csv.reader(counted, delimiter=header.separator, strict=True):
            counted.characters = 0
            if len(values) > width and any(map(str.strip, values[width:])):
                raise ValueError(
                    f"{where()} has {len(values)} values and the header {width} columns, separated by "
                    f"{SEPARATORS[header.separator]}; quote a value that holds {header.separator!r}"
                )
            if any(map(str.strip, values)):
                yield number, (values + [""] * (width - len(values)))[:width]
                number += 1
    except csv.Error as error:
        raise ValueError(
            f"{where()}: not a table that can be read ({error}); quote a value that begins "
            "with a quotation mark, and double the quotation marks in it"
        ) from error


class _CountedLines:
    """Counts the characters of a row, because a quoted value that never ends would make a row of all lines."""

    def __init__(self, lines: Iterator[str], where: Callable[[], str]) -> None:
        self.characters, self._lines, self._where = 0, lines, where

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.characters += len(line)
            if self.characters > 2 * MAX_LINE:
                raise ValueError(f"{self._where()} has more than {2 * MAX_LINE} characters; expected lines of text")
            yield line


def parse_number(text: str, separator: str = ",") -> float:
    """Parse a decimal number; in a table that is separated by semicolons it may have a decimal comma.

    Raises:
        ValueError: It is no number.
    """
    plain = text.strip()
    if separator == ";" and "." not in plain:
        plain = plain.replace(",", ".", 1)
    if not NUMBER.fullmatch(plain):
        comma = "; write a decimal point" if re.fullmatch(r"[+-]?[0-9]*,[0-9]+", plain) else ""
        raise ValueError(f"{text[:MAX_SHOWN_CHARACTERS]!r} is not a number{comma}")
    return float(plain)
