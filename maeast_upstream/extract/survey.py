"""Lists the inputs of a run once and counts the work to be done."""

import contextlib
import errno
import functools
import gzip
import hashlib
import itertools
import os
import pickle
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from maeast_upstream.data.audio_length import AudioLength
from maeast_upstream.data.inputs import STDIN, Segment, list_segments
from maeast_upstream.data.relative_names import Root
from maeast_upstream.display import as_name, without_secrets
from maeast_upstream.storage.remote import is_remote

BLOCK_SEGMENTS = 1000
"""Segments that are stored at once."""
MAX_MEMORY_BYTES = 1 << 24
"""Size of the compressed list from which on it is kept on disk rather than in memory."""


class Survey:
    """The segments of all inputs, which are listed once; iterating reads the stored list."""

    segments: int
    """Number of segments."""
    seconds: float
    """Estimated length of their audio, see `AudioLength`."""
    digest: str
    """Digest of the list, which identifies the inputs when a run is continued."""
    relative_to: str | None
    """The folder that names in the table are relative to, as it is recorded."""
    stamps: "array[int]"
    """For each segment a digest of size and time of its file, which shows a change; 0 where nothing is known."""

    def __init__(
        self, inputs: Sequence[str], path_column: str | None = None, relative_to: str | Path | None = None
    ) -> None:
        """List the inputs, see `list_segments`.

        Args:
            inputs: Paths or addresses.
            path_column: What manifests call the column of paths; None for ``path``.
            relative_to: A folder that names in the table are relative to; None for paths as they are.

        Raises:
            ValueError: An input does not exist or is outside the folder ``relative_to``, a manifest is invalid, or
                there is no audio.
        """
        if STDIN in inputs and sys.stdin is None:
            raise ValueError(f"{STDIN}: stdin is closed; expected a list of paths")
        root = None if relative_to is None else Root(relative_to)
        self.relative_to = root.recorded if root else None
        digest = hashlib.sha256()
        self.segments = 0
        length = AudioLength()
        self.stamps = array("Q")
        stamp_of = functools.lru_cache(maxsize=1)(_stamp)  # the segments of a file follow one another
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115  (lives as long as this)
        with _told_where(), gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1) as file:
            listed = list_segments(inputs, path_column=path_column, relative_to=root)
            while block := list(itertools.islice(listed, BLOCK_SEGMENTS)):
                pickle.dump(block, file)
                self.segments += len(block)
                for segment in block:
                    length.add(segment)
                    self.stamps.append(0 if segment.error else stamp_of(segment.file or segment.path, segment.size))
                    digest.update(f"{_identity(segment)}\n".encode("utf-8", "surrogateescape"))
        self.seconds = length.seconds
        if not self.segments:
            raise ValueError(f"no audio in {', '.join(map(without_secrets, inputs))}")
        self.digest = digest.hexdigest()[:16]

    @property
    def state(self) -> str:
        """Digest of the stamps of all segments."""
        return state_of(self.stamps)

    def changed_since(self, time_ns: int) -> str | None:
        """Return the name of a local file that was changed after a time, in ns since 1970; None if there is none."""
        for segment in self:
            with contextlib.suppress(OSError, ValueError):
                if os.stat(segment.file or segment.path).st_mtime_ns > time_ns:  # noqa: PTH116
                    return as_name(segment.path)
        return None

    def __iter__(self) -> Iterator[Segment]:
        self._file.seek(0)
        with gzip.GzipFile(fileobj=self._file, mode="rb") as file:
            for _ in range(0, self.segments, BLOCK_SEGMENTS):
                yield from cast(list[Segment], pickle.load(file))  # written by this object


@contextlib.contextmanager
def _told_where() -> Iterator[None]:
    """A context in which a full disk is an OSError that names the folder of temporary files."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = f"{error.strerror}, where the list of inputs is kept; TMPDIR names another folder"
        raise OSError(error.errno, reason, tempfile.gettempdir()) from error


def state_of(stamps: Sequence[int]) -> str:
    """Return a digest of the stamps of consecutive segments."""
    return hashlib.sha256(array("Q", stamps).tobytes()).hexdigest()[:16]


def _stamp(file: str, size: int | None) -> int:
    """Return a digest of a file's size and time, or of the size that the listing of an address gave."""
    try:
        status = None if is_remote(file) else os.stat(file)  # noqa: PTH116
    except (OSError, ValueError):
        return 0
    known = (size,) if status is None else (status.st_size, status.st_mtime_ns)
    return int.from_bytes(hashlib.sha256(repr(known).encode()).digest()[:8], "little")


def _identity(segment: Segment) -> str:
    """What identifies a segment when a run is continued: all but the secrets of its address, which may be renewed."""
    text = repr(segment)
    return without_secrets(text) if "://" in text else text
