"""Reads text that users hand in: tables, lists of paths, YAML; `json_file` reads JSON.

A byte order mark is dropped, and with one UTF-16 and UTF-32 are read as well as UTF-8. Memory is bounded: a file may
have no end (a device, a pipe), and a line may have none.
"""

import codecs
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from maeast_upstream.storage.remote import is_remote, open_remote

MAX_TEXT_BYTES = 1 << 26
"""Largest file that `read_text` reads: far more than any settings, and little memory."""
MAX_LINE = 1 << 22
"""Longest line, in characters: a row of a table with 200,000 numbers."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def encoding_of(head: bytes) -> str:
    """Return the encoding that the first four bytes of a text declare; without a byte order mark UTF-8."""
    return next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file.

    Args:
        path: A file in UTF-8, or with a byte order mark in UTF-16 or UTF-32.
        max_bytes: The largest size that is read.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: It is a pipe or a device, is larger, or has another encoding; in one line.
    """
    refuse_endless(path)
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path}: more than {max_bytes} bytes; expected a smaller text file")
    try:
        return data.decode(encoding_of(data[:4]))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from error


def read_yaml(path: Path, loader: Any = None) -> Any:
    """Read a YAML file, see `read_text`.

    Args:
        path: The file.
        loader: A subclass of ``yaml.SafeLoader``; None for that itself, which makes plain data.

    Raises:
        ValueError: It cannot be read or is not YAML; in one line.
    """
    import yaml

    try:
        return yaml.load(read_text(path), loader or yaml.SafeLoader)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as YAML ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-01
        reason = " ".join(str(error).removeprefix(f"{path}: ").split())
        raise ValueError(f"{path}: not YAML ({reason[:300]})") from error


def refuse_endless(path: Path) -> None:
    """Raise ValueError for a pipe or a device, which may never begin or never end; OSError if there is no file."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a folder is an OSError that says so
        raise ValueError(f"{path}: a pipe or device; expected a file")


def open_lines(path: str) -> io.TextIOWrapper:
    """Open a text file or address for `lines_of`; bytes that are not UTF-8 become surrogates.

    Raises:
        ValueError: It does not exist, cannot be read, or is a pipe or a device.
    """
    try:
        if not is_remote(path):
            refuse_endless(Path(path))
        raw = open_remote(path) if is_remote(path) else Path(path).open("rb")  # noqa: SIM115
        return as_lines(raw)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


def as_lines(raw: BinaryIO, newline: str = "") -> io.TextIOWrapper:
    r"""Return a binary file, of which nothing has been read, as text in the encoding that it declares.

    Args:
        raw: The file, which need not be seekable.
        newline: How lines end: "" for ``\n``, ``\r\n`` or ``\r``. Ends are not changed.
    """
    # remote files may be streams, which cannot go back to their beginning
    buffered: Any = raw if hasattr(raw, "peek") else io.BufferedReader(raw)
    encoding = encoding_of(buffered.peek(4)[:4])
    return io.TextIOWrapper(buffered, encoding=encoding, errors="surrogateescape", newline=newline)


def lines_of(file: io.TextIOWrapper, name: str) -> Iterator[str]:
    """Yield the lines of a text with their line ends.

    Args:
        file: As `open_lines` returns it.
        name: What messages call it.

    Raises:
        ValueError: A line is longer than `MAX_LINE`, or not in the encoding that the file declares.
    """
    number = 0
    try:
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and line[-1] not in "\r\n":
                raise ValueError(f"{name}: line {number} has more than {MAX_LINE} characters; expected lines of text")
            yield line
    except UnicodeError as error:
        raise ValueError(
            f"{name}: line {number + 1} is not in {file.encoding}, which its first bytes declare; save it as UTF-8"
        ) from error


def file_name(text: str) -> str:
    """Return the path that a text names: the same text, unless the names of files here are not in UTF-8."""
    return text if text.isascii() else os.fsdecode(text.encode("utf-8", "surrogateescape"))
