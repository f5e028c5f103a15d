"""Lists the inputs of a run once and counts the work to be done."""

import gzip
import hashlib
import itertools
import pickle
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, cast

from maeast_upstream.data.inputs import STDIN, Segment, cost, list_segments
from maeast_upstream.display import without_secrets

BLOCK_SEGMENTS = 1000
"""Segments that are stored at once."""
MAX_MEMORY_BYTES = 1 << 24
"""Size of the compressed list from which on it is kept on disk rather than in memory."""


class Survey:
    """The segments of all inputs, which are listed once; iterating reads the stored list."""

    segments: int
    """Number of segments."""
    bytes: int
    """Estimated size of their audio, see `inputs.cost`."""
    digest: str
    """Digest of the list, which identifies the inputs when a run is continued."""

    def __init__(self, inputs: Sequence[str], path_column: str | None = None) -> None:
        """List the inputs, see `list_segments`.

        Args:
            inputs: Paths or addresses.
            path_column: What manifests call the column of paths; None for ``path``.

        Raises:
            ValueError: An input does not exist, a manifest is invalid, or there is no audio.
        """
        if STDIN in inputs and sys.stdin is None:
            raise ValueError(f"{STDIN}: stdin is closed; expected a list of paths")
        digest = hashlib.sha256()
        self.segments = self.bytes = 0
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115  (lives as long as this)
        with gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1) as file:
            listed = list_segments(inputs, path_column=path_column)
            while block := list(itertools.islice(listed, BLOCK_SEGMENTS)):
                pickle.dump(block, file)
                self.segments += len(block)
                self.bytes += sum(map(cost, block))
                for segment in block:
                    digest.update(f"{_identity(segment)}\n".encode("utf-8", "surrogateescape"))
        if not self.segments:
            raise ValueError(f"no audio in {', '.join(map(without_secrets, inputs))}")
        self.digest = digest.hexdigest()[:16]

    def __iter__(self) -> Iterator[Segment]:
        self._file.seek(0)
        with gzip.GzipFile(fileobj=self._file, mode="rb") as file:
            for _ in range(0, self.segments, BLOCK_SEGMENTS):
                yield from cast(list[Segment], pickle.load(file))  # written by this object


def _identity(segment: Segment) -> str:
    """What identifies a segment when a run is continued: all but the secrets of its address, which may be renewed."""
    text = repr(segment)
    return without_secrets(text) if "://" in text else text
