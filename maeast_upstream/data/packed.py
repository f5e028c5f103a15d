"""Packed corpora: all clips decoded to 16 kHz int16 in one file, audio.i16, and their names and lengths in clips.tsv.

`pretrain.pack` writes them; pretraining and `maeast embed` map them into memory.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.storage.delimited import from_cell

AUDIO_NAME, TABLE_NAME = "audio.i16", "clips.tsv"
SAMPLE_BYTES = 2
FULL_SCALE = 32768.0
"""The int16 value of a sample of 1.0, so that 16-bit audio at 16 kHz keeps its exact values."""


@dataclass(frozen=True)
class Packed:
    """A packed corpus."""

    audio: np.ndarray
    """Samples of all clips one after the other, int16, memory-mapped."""
    offsets: np.ndarray
    """(clips,) int64 position of the first sample of each clip."""
    lengths: np.ndarray
    """(clips,) int64 number of samples of each clip."""
    kinds: np.ndarray
    """(clips,) kind of audio of each clip (speech, music, ...), "" where the corpus does not declare it."""

    @property
    def hours(self) -> float:
        """Total length of all clips in hours."""
        return float(self.lengths.sum()) / SAMPLE_RATE / 3600


def open_packed(folder: Path) -> Packed:
    """Open a corpus that `pretrain.pack` wrote.

    Raises:
        ValueError: The folder is incomplete.
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
    """Yield name, kind and number of samples of each clip in their order.

    Raises:
        ValueError: clips.tsv is invalid; or, after the last clip, audio.i16 does not have the declared length.
    """
    declared = 0
    with (folder / TABLE_NAME).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            try:
                name, kind, samples = from_cell(row["clip"]), from_cell(row["kind"]), int(row["samples"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{folder}: {TABLE_NAME} is not what pretrain.pack writes ({error})") from error
            declared += samples * SAMPLE_BYTES
            yield name, kind, samples
    size = (folder / AUDIO_NAME).stat().st_size
    if not declared or size != declared:
        raise ValueError(f"{folder}: {AUDIO_NAME} has {size} bytes, {TABLE_NAME} declares {declared}; remove both")


def is_packed(folder: str) -> bool:
    """Whether a folder holds both files of a packed corpus."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (AUDIO_NAME, TABLE_NAME))


def to_float(samples: np.ndarray) -> np.ndarray:
    """Convert int16 samples to float32 in [-1, 1); return float32 samples as they are."""
    if samples.dtype == np.float32:
        return samples
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Convert float32 samples in [-1, 1] to int16; louder ones are clipped."""
    return (samples * np.float32(FULL_SCALE)).round().clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
