"""A decoded corpus: every clip as 16 kHz int16 in one file, audio.i16, and clips.tsv that says where each lies.

`pretrain.pack` writes it; pretraining and `maeast embed` read it, memory-mapped.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE

AUDIO_NAME, TABLE_NAME = "audio.i16", "clips.tsv"
SAMPLE_BYTES = 2
FULL_SCALE = 32768.0
"""int16 of a sample of 1.0, for writers and readers: what was 16-bit audio at 16 kHz comes out as the same numbers."""


@dataclass(frozen=True)
class Packed:
    """A decoded corpus."""

    audio: np.ndarray
    """All clips one after the other, int16, memory-mapped."""
    offsets: np.ndarray
    """(clips,) int64 first sample of each clip."""
    lengths: np.ndarray
    """(clips,) int64 samples of each clip."""
    kinds: np.ndarray
    """(clips,) what the corpus says each clip is (speech, music, ...), "" if it says nothing."""

    @property
    def hours(self) -> float:
        """Length of all clips together."""
        return float(self.lengths.sum()) / SAMPLE_RATE / 3600


def open_packed(folder: Path) -> Packed:
    """A corpus that `pretrain.pack` wrote.

    Raises:
        ValueError: the folder is not whole.
    """
    lengths, kinds = [], []
    for _, kind, samples in packed_clips(folder):
        lengths.append(samples)
        kinds.append(kind)
    counts = np.array(lengths, dtype=np.int64)
    return Packed(
        audio=np.memmap(folder / AUDIO_NAME, dtype=np.int16, mode="r"),
        offsets=np.concatenate([[0], counts.cumsum()[:-1]]),
        lengths=counts,
        kinds=np.array(kinds),
    )


def packed_clips(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Name, kind and samples of each clip, in their order, read as they are asked for.

    Raises:
        ValueError: no clips, or, after the last one, audio.i16 is not as long as clips.tsv says.
    """
    told = 0
    with (folder / TABLE_NAME).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            try:
                name, kind, samples = row["clip"], row["kind"], int(row["samples"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{folder}: {TABLE_NAME} is not what pretrain.pack writes ({error})") from error
            told += samples * SAMPLE_BYTES
            yield name, kind, samples
    size = (folder / AUDIO_NAME).stat().st_size
    if not told or size != told:
        raise ValueError(f"{folder}: {AUDIO_NAME} has {size} bytes, {TABLE_NAME} says {told}; remove both")


def is_packed(folder: str) -> bool:
    """Whether both files are there."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (AUDIO_NAME, TABLE_NAME))


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 -> float32 in [-1, 1); float32 stays as it is."""
    if samples.dtype == np.float32:
        return samples
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] -> int16; what is louder is clipped."""
    return (samples * np.float32(FULL_SCALE)).round().clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
