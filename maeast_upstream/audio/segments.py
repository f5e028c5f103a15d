"""Reads many segments of one file without decoding it from its beginning for each."""

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maeast_upstream.audio.backends import Note, Reader
from maeast_upstream.audio.files import check_path
from maeast_upstream.audio.joining import Join, join_in_memory
from maeast_upstream.audio.opening import open_audio
from maeast_upstream.audio.reading import DecodedAudio, decode_audio, read_opened

KEPT_SECONDS = 30
"""Decoded audio that is kept, so that a segment may begin before the end of the previous one."""


class SequentialReader:
    """Reads segments of one file, with the same result as `decode_audio`.

    For a 3-hour MP3 with a thousand segments, `decode_audio` would decode one and a half hours on average for each.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stack = contextlib.ExitStack()
        self._reader: _KeepingReader | None = None

    def read(self, start_ms: float | None, end_ms: float | None, join: Join = join_in_memory) -> DecodedAudio:
        """Read a segment, as `decode_audio`; fast if the segments come in their order."""
        try:
            decoded = self._continue(start_ms or 0.0, end_ms, join)
        except Exception:  # `decode_audio` raises the reason, or finds another decoder
            self.close()
            decoded = None
        return decoded or decode_audio(self.path, start_ms, end_ms, join)

    def close(self) -> None:
        """Close the file."""
        self._reader = None
        self._stack.close()

    def _continue(self, start: float, end: float | None, join: Join) -> DecodedAudio | None:
        """Read a segment from where the previous one ended; None where the file can seek."""
        for _ in range(2):
            if self._reader is None:
                check_path(Path(self.path))
                opened = self._stack.enter_context(open_audio(self.path, self.path))
                if opened.seeks:
                    self.close()
                    return None
                self._reader = _KeepingReader(opened)
            try:
                return read_opened(self._reader, self.path, start, end, join)
            except _TooEarlyError:
                self.close()
        return None


class _TooEarlyError(Exception):
    """The segment begins before the blocks that are kept."""


class _KeepingReader:
    """A reader that keeps the last blocks, so that `blocks` may be called for one segment after the other."""

    seeks = False

    def __init__(self, reader: Reader) -> None:
        self.rate, self.seconds = reader.rate, 0.0
        self._reader, self._blocks = reader, reader.blocks(0)
        self._kept: deque[np.ndarray] = deque()
        self._begin = self._end = 0
        """Positions in the file where the kept blocks begin and end, in samples."""

    @property
    def position(self) -> int:
        """Number of samples decoded so far."""
        return self._reader.position

    @property
    def notes(self) -> list[Note]:
        """What was noticed so far."""
        return self._reader.notes

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Yield samples from ``first`` on: the kept blocks, then newly decoded ones."""
        if first < self._begin:
            raise _TooEarlyError
        position = self._begin
        for block in list(self._kept):
            if position + len(block) > first:
                yield block[max(0, first - position) :]
            position += len(block)
        for block in self._blocks:
            self._keep(block)
            if position + len(block) > first:
                yield block[max(0, first - position) :]
            position += len(block)

    def _keep(self, block: np.ndarray) -> None:
        self._kept.append(block)
        self._end += len(block)
        while self._end - self._begin - len(self._kept[0]) > KEPT_SECONDS * self.rate:
            self._begin += len(self._kept.popleft())
