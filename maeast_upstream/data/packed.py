"""Packed corpora: all clips decoded to 16 kHz int16 in one file, audio.i16, and their names and lengths in clips.tsv.

`pretrain.pack` writes them; pretraining and `maeast embed` map them into memory.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import FULL_SCALE as FULL_SCALE
from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.data.manifest import SAMPLES
from maeast_upstream.data.tables import read_header, row_values
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.storage.text import file_name, lines_of, open_lines, refuse_endless

AUDIO_NAME, TABLE_NAME = "audio.i16", "clips.tsv"
COLUMNS = ("clip", "kind", "samples")
RECORD_NAME, SOURCE_NAME = "packed.json", "source.txt"
"""What the folder was decoded from; version 0.1 wrote the second, which holds only the path."""
MAX_RECORD_BYTES = 64 << 20
"""A record has about 12 bytes for the checksum of 16 MiB; this one would be of 90 TB."""
SAMPLE_BYTES = 2
BLOCK_SAMPLES = 1 << 23
"""Samples that are converted at once: a day of them is 5.5 GB."""


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
    table = str(folder / TABLE_NAME)
    problem = f"{folder}: {TABLE_NAME} is not what pretrain.pack writes"
    with open_lines(table) as file:
        lines = lines_of(file, table)
        header = read_header(lines, table, "clip")
        if not all(map(header.has, COLUMNS)):
            raise ValueError(f"{problem} (expected {', '.join(COLUMNS)}, got {header})")
        columns = [header.index(name) for name in COLUMNS]
        for _, values in row_values(lines, header, table):
            clip, kind, samples = (values[column] for column in columns)
            if not SAMPLES.fullmatch(samples):
                raise ValueError(f"{problem} ({samples[:40]!r} samples)")
            declared += int(samples) * SAMPLE_BYTES
            yield file_name(from_cell(clip)), from_cell(kind), int(samples)
    size = (folder / AUDIO_NAME).stat().st_size
    if not declared or size != declared:
        raise ValueError(f"{folder}: {AUDIO_NAME} has {size} bytes, {TABLE_NAME} declares {declared}; remove both")


def is_packed(folder: str) -> bool:
    """Whether a folder holds both files of a packed corpus."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (AUDIO_NAME, TABLE_NAME))


def source_of(folder: str | Path) -> str | None:
    """Return the path of the corpus that a packed folder was decoded from; None where the folder does not say."""
    for name in (RECORD_NAME, SOURCE_NAME):
        path = Path(folder) / name
        try:
            refuse_endless(path)
            is_record = name == RECORD_NAME
            relative = str(read_json(path, MAX_RECORD_BYTES)["corpus"]) if is_record else os.fsdecode(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return os.path.normpath(os.path.join(folder, relative))
    return None


def is_copy_of_parent(folder: str) -> bool:
    """Whether a folder holds a packed copy of a folder that it is in, whose audio would be listed twice."""
    source = source_of(folder) if is_packed(folder) else None
    return source is not None and os.path.realpath(folder).startswith(os.path.realpath(source) + os.sep)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Convert int16 samples to float32 in [-1, 1); return float32 samples as they are."""
    if samples.dtype == np.float32:
        return samples
    scaled: np.ndarray = np.multiply(samples, np.float32(1 / FULL_SCALE), dtype=np.float32)  # a power of two: exact
    return scaled


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Convert float32 samples in [-1, 1] to int16; louder ones are clipped."""
    converted = np.empty(len(samples), np.int16)
    for first in range(0, len(samples), BLOCK_SAMPLES):
        block = samples[first : first + BLOCK_SAMPLES] * np.float32(FULL_SCALE)
        converted[first : first + BLOCK_SAMPLES] = block.round().clip(-FULL_SCALE, FULL_SCALE - 1)
    return converted
