"""What the decoders have in common: the form of an opened file, its notes and errors."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

RAW_FORMATS = {".g722": "g722", ".gsm": "gsm"}
"""Telephone codecs without a header, which only the suffix of the file identifies."""
PYAV_SUFFIXES = RAW_FORMATS.keys() | {
    *(".m4a", ".m4b", ".mp4", ".m4v", ".m4r", ".mov", ".3gp", ".3g2", ".mkv", ".mka", ".webm", ".weba"),
    *(".avi", ".flv", ".f4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob"),
    *(".aac", ".wma", ".asf", ".wmv", ".amr", ".ac3", ".eac3", ".wv", ".ape", ".tta"),
}
"""Suffixes of containers that libsndfile does not read."""
MAX_CHANNELS = 1024
BLOCK_FRAMES = 1 << 16
"""Frames of a block. Reading by blocks keeps a header from asking for more memory than the file has audio."""
MAX_GAP_SECONDS = 3600.0
"""Silence that is put in place of what a file lacks, at most, because broken time stamps may name any time."""

Source = Path | str | BinaryIO


class AudioError(ValueError):
    """An input cannot be used; the message has its name and the reason."""


class UnknownFormatError(AudioError):
    """The decoders do not know the format."""


class Note(NamedTuple):
    """What was noticed about a part of a file."""

    text: str
    """One line without the name of the file."""
    start: float = 0.0
    """Where the part begins, in seconds of the decoded samples."""
    stop: float = float("inf")
    """Where it ends."""


class Reader(Protocol):
    """An opened audio file."""

    rate: int
    """Sample rate in Hz."""
    seeks: bool
    """Whether it can go to a sample without decoding those before it."""
    seconds: float
    """Length that the header declares, exact or nearly; 0 where it declares none."""

    @property
    def notes(self) -> list[Note]:
        """What was noticed so far."""

    @property
    def position(self) -> int:
        """Number of samples decoded so far."""

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Yield mono float32 samples from ``first`` on; may be called once.

        What cannot be read is left out or silent, with a note.

        Raises:
            AudioError: The audio is longer than the limit.
        """


def mono(block: np.ndarray) -> np.ndarray:
    """Average the channels of (n, channels) samples to (n,).

    The columns are summed one by one, because numpy's mean over a short axis is 10 times slower.
    """
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0]
    total = block[:, 0].copy()
    with np.errstate(over="ignore", invalid="ignore"):  # what is no audio is refused later, without a warning
        for channel in range(1, channels):
            total += block[:, channel]
    total /= channels
    return total


def silence(samples: int) -> Iterator[np.ndarray]:
    """Yield blocks of ``samples`` zeros in all."""
    for first in range(0, samples, BLOCK_FRAMES):
        yield np.zeros(min(BLOCK_FRAMES, samples - first), np.float32)
