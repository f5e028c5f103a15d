"""Looks for what FFmpeg does not say of MP4 and AVI files: that another file follows, or that the end is missing."""

import os
from typing import BinaryIO

MAX_BOXES = 100_000
"""Boxes that are looked at; a recording of a day in pieces of one second has twice as many."""


def mp4_files(file: BinaryIO) -> list[int]:
    """Return where the MP4 files begin of which a file consists: 0, and others if some were joined.

    Each begins with a box ``ftyp`` and describes its sound in a box ``moov`` (ISO/IEC 14496-12, sections 4.2 and 4.3).
    """
    starts, at, described = [0], 0, False
    size = file.seek(0, os.SEEK_END)
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8 or at + length > size:  # 0: the last box reaches to the end
            break
        if name == b"ftyp" and described:
            starts.append(at)
        described = name == b"moov" or (described and name != b"ftyp")
        at += length
    return starts


def missing_of_avi(file: BinaryIO) -> str:
    """Say how much an AVI file lacks by the length in its first header; "" if nothing or if that was never written."""
    file.seek(4)
    declared = int.from_bytes(file.read(4), "little") + 8
    size = file.seek(0, os.SEEK_END)
    return f"cut short: {declared} bytes declared, {size} found" if size + 1 < declared < 0x7FFF_0000 else ""
