"""Reads the recordings in SoundFont 2 files (.sf2): chunks ``smpl`` (int16 samples) and ``shdr`` (their headers)."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = struct.Struct("<4sI")
HEADER = struct.Struct("<20sIIIIIBbHH")
"""Name, start, end, loop start, loop end, rate, key, cents, index of the other channel, type."""
MONO, LEFT = 1, 4
MIN_SAMPLES = 2000
MIN_RATE, MAX_RATE = 8_000, 96_000
MAX_CHUNKS = 1000


def read_recordings(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield mono recordings and left channels of more than 2,000 samples; nothing for a file that is no SoundFont.

    Yields:
        ``0123-Name`` with the header's number; the sample rate in Hz; the samples as little-endian int16.
    """
    with path.open("rb") as file:
        chunks = _chunks(file)
        if b"smpl" not in chunks or b"shdr" not in chunks:
            return
        (base, size), (header_offset, header_bytes) = chunks[b"smpl"], chunks[b"shdr"]
        file.seek(header_offset)
        headers = file.read(header_bytes)
        # the last header marks the end
        for number, offset in enumerate(range(0, len(headers) - 2 * HEADER.size + 1, HEADER.size)):
            name, start, end, _, _, rate, _, _, _, channel = HEADER.unpack_from(headers, offset)
            fits = end - start > MIN_SAMPLES and 2 * end <= size and MIN_RATE <= rate <= MAX_RATE
            if channel not in (MONO, LEFT) or not fits:
                continue
            file.seek(base + 2 * start)
            label = re.sub(r"[^A-Za-z0-9]+", "_", name.split(b"\0")[0].decode("latin1")).strip("_")
            yield f"{number:04d}-{label}", rate, file.read(2 * (end - start))


def _chunks(file: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Offset and size of each chunk; the size is limited to the end of the file."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    chunks: dict[bytes, tuple[int, int]] = {}
    if file.read(4) != b"RIFF":
        return chunks
    file.seek(12)
    for _ in range(MAX_CHUNKS):
        header = file.read(CHUNK.size)
        if len(header) < CHUNK.size:
            break
        tag, size = CHUNK.unpack(header)
        if tag == b"LIST":
            file.seek(4, os.SEEK_CUR)
            continue
        chunks[tag] = (file.tell(), min(size, end - file.tell()))
        file.seek(size + size % 2, os.SEEK_CUR)
    return chunks
