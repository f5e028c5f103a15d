"""Many stretches of one file, each begun where the one before ended rather than at the file's beginning."""

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maeast_upstream.audio.backends import PYAV_SUFFIXES, Reader, open_pyav, open_soundfile
from maeast_upstream.audio.reading import check_path, read_audio, read_segment

KEPT_SECONDS = 30
"""A stretch may begin so much before the end of the one before: stretches overlap."""


class SequentialReader:
    """Stretches of one file, as `read_audio` gives them.

    Of a 3-hour MP3 in a thousand pieces `read_audio` would decode an hour and a half, on average, for each.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stack = contextlib.ExitStack()
        self._reader: _Continued | None = None

    def read(self, start_ms: float | None, end_ms: float | None) -> np.ndarray:
        """As `read_audio`; fast if called in the order of the stretches."""
        try:
            samples = self._go_on(start_ms or 0.0, end_ms)
        except Exception:  # whatever it was: `read_audio` tells, or finds the decoder that can
            self.close()
            samples = None
        return read_audio(self.path, start_ms, end_ms) if samples is None else samples

    def close(self) -> None:
        """Close the file."""
        self._reader = None
        self._stack.close()

    def _go_on(self, start: float, end: float | None) -> np.ndarray | None:
        """None where the file can seek."""
        for _ in range(2):
            if self._reader is None:
                check_path(Path(self.path))
                of_pyav = Path(self.path).suffix.lower() in PYAV_SUFFIXES
                opened = self._stack.enter_context((open_pyav if of_pyav else open_soundfile)(self.path, self.path))
                if opened.seeks:
                    self.close()
                    return None
                self._reader = _Continued(opened)
            try:
                return read_segment(self._reader, self.path, start, end)
            except _PassedError:
                self.close()
        return None


class _PassedError(Exception):
    """The stretch begins before what is kept."""


class _Continued:
    """A reader whose `blocks` is called again and again."""

    seeks = False

    def __init__(self, reader: Reader) -> None:
        self.rate, self.seconds = reader.rate, reader.seconds
        self._reader, self._blocks = reader, reader.blocks(0)
        self._kept: deque[np.ndarray] = deque()
        self._begin = self._end = 0
        """Samples of the file before what is kept, and up to its end."""

    @property
    def place(self) -> int:
        """Samples passed so far."""
        return self._reader.place

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """From ``first`` on: what is kept, then what is decoded."""
        if first < self._begin:
            raise _PassedError
        place = self._begin
        for block in list(self._kept):
            if place + len(block) > first:
                yield block[max(0, first - place) :]
            place += len(block)
        for block in self._blocks:
            self._keep(block)
            if place + len(block) > first:
                yield block[max(0, first - place) :]
            place += len(block)

    def _keep(self, block: np.ndarray) -> None:
        self._kept.append(block)
        self._end += len(block)
        while self._end - self._begin - len(self._kept[0]) > KEPT_SECONDS * self.rate:
            self._begin += len(self._kept.popleft())
