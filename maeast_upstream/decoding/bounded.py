"""Joins the decoded blocks of a file within bounds of memory and length.

An hour of samples is 230 MB, a day 5.5 GB, and a hostile file of some kilobytes may hold either. Recordings of a day
are honest, too, so length alone cannot refuse them: what is longer than `MEMORY_HOURS` goes to a temporary file, block
by block, and is mapped into memory, where the system can drop its pages again. The file has no name from the beginning,
so that nothing remains of it, however its processes end. It lies where TMPDIR says, otherwise in /tmp.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.joining import LARGE_BLOCK_SAMPLES, join_in_memory
from maeast_upstream.audio.reading import AudioError, within_hours

MEMORY_HOURS = 1.0
"""Longer audio goes to a temporary file."""
MIN_FREE_BYTES = 256 << 20
"""Space that is left for other programs where the temporary file lies."""
SAMPLES_PER_HOUR = 3600 * SAMPLE_RATE


class BoundedJoin:
    """Joins blocks of a file's samples, as `join_in_memory`.

    Args:
        name: Name of the audio for messages.
        max_hours: Limit of its length.
    """

    def __init__(self, name: str, max_hours: float) -> None:
        self.file: IO[bytes] | None = None
        """The temporary file that `joined` maps, if it is not in memory."""
        self.joined: np.ndarray | None = None
        self.max_hours = max_hours
        self.name = name

    def __call__(self, blocks: Iterator[np.ndarray]) -> np.ndarray:
        """Join blocks of float32 samples: (S,).

        Raises:
            TooLongError: There are more samples than the limit.
            AudioError: There is no space for the temporary file.
        """
        self.close()
        counted, limit = within_hours(blocks, self.max_hours, self.name), round(MEMORY_HOURS * SAMPLES_PER_HOUR)
        head = join_in_memory(_up_to(limit, counted))
        self.joined = head if len(head) <= limit else self._join_in_file(itertools.chain(_cut_up(head), counted))
        return self.joined

    def close(self) -> None:
        """Let the temporary file go; what maps it keeps its content."""
        if self.file:
            self.file.close()
        self.file = self.joined = None

    def _join_in_file(self, blocks: Iterator[np.ndarray]) -> np.ndarray:
        place = "the folder for temporary files"
        try:
            place = tempfile.gettempdir()
            self.file, unchecked = tempfile.TemporaryFile(), 0  # noqa: SIM115  # `close` closes it
            for block in blocks:
                unchecked -= len(block)
                if unchecked < 0:
                    _check_space(place)
                    unchecked = LARGE_BLOCK_SAMPLES
                self.file.write(np.ascontiguousarray(block, np.float32).data)
            self.file.flush()
            return map_samples(self.file)
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            reason = error.strerror or error
            remedy = "set TMPDIR to a folder with 230 MB for each hour, or cut the file into segments"
            raise AudioError(f"{self.name}: no space for its samples in {place} ({reason}); {remedy}") from error


def map_samples(file: IO[bytes]) -> np.ndarray:
    """Map a file of float32 samples into memory: (S,), writable, which its file sees."""
    return np.asarray(np.memmap(file, np.float32, "r+"))


def _up_to(limit: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks until they have more samples than the limit."""
    samples = 0
    while samples <= limit and (block := next(blocks, None)) is not None:
        samples += len(block)
        yield block


def _cut_up(samples: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(samples), LARGE_BLOCK_SAMPLES):
        yield samples[begin : begin + LARGE_BLOCK_SAMPLES]


def _check_space(place: str) -> None:
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES + 4 * LARGE_BLOCK_SAMPLES:
        raise OSError(f"{free / 1e6:.0f} MB are free")
