"""A part of a file as a file."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from maeast_upstream.audio.backends import Source


def window(file: BinaryIO, start: int = 0, stop: int | None = None, prefix: bytes = b"") -> BinaryIO:
    """Return bytes ``start`` to ``stop`` of a file, after ``prefix``, as a file; reading moves the file's position."""
    return io.BufferedReader(_Window(file, start, stop, prefix))


class _Window(io.RawIOBase):
    """See `window`."""

    def __init__(self, file: BinaryIO, start: int, stop: int | None, prefix: bytes) -> None:
        size = file.seek(0, os.SEEK_END)
        self._file, self._start, self._prefix = file, start, prefix
        self._length = len(prefix) + max(0, min(size, size if stop is None else stop) - start)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the window."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position of the window, see `io.IOBase.seek`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError(22, "a position before the beginning of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to ``len(buffer)`` bytes."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._length - self._at))
        if self._at < len(self._prefix):
            part = self._prefix[self._at : self._at + wanted]
        else:
            self._file.seek(self._start + self._at - len(self._prefix))
            part = self._file.read(wanted)
        view[: len(part)] = part
        self._at += len(part)
        return len(part)


@contextlib.contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """Open a path; leave a file open."""
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            yield file
    else:
        yield source
