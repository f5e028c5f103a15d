"""Compares the length in the headers of uncompressed files with their content: WAV, RF64, W64, AIFF, AU and CAF.

A recorder that lost its power never writes the length, 32 bits of it go round at 4 GiB, and files get joined. Where
the header is wrong, libsndfile gets the file with another header.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

from maeast_upstream.audio.window import window

MAX_MISSING_BYTES = 64
"""A header may declare this much more than the file holds, because of padding."""
MAX_TAIL_BYTES = 4096
"""Fewer bytes after the samples, which no chunk describes, are not read as samples."""
UNKNOWN_BYTES = 0x7FFF_0000
"""From here on, a length of 32 bits is a placeholder of a program that did not know it, such as one in a pipe."""
UNKNOWN_LONG = 1 << 62
"""From here on, a length of 64 bits is a placeholder."""
MAX_CHUNKS = 1000
USUAL_HEADER_BYTES = 4096
MAX_HEADER_BYTES = 1 << 24
TAIL_CHUNK = re.compile(rb"LIST|[Ii][Dd]3 |bext|iXML|_PMX|cue |smpl|fact|PEAK|JUNK|acid|inst|MARK|INST|COMT|info|uuid")
"""Chunks that programs write after the samples."""
PRINTABLE = re.compile(rb"[ -~]{4}")
TAIL_SEARCH_BYTES = 1 << 16
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
"""Beginnings of tags that players write behind any file."""


class Family(NamedTuple):
    """A container of chunks: each has a name, a length, and content."""

    first: int
    """Position of the first chunk."""
    size: str
    """Format of a chunk's length, for `struct`."""
    name_bytes: int = 4
    inclusive: int = 0
    """How much more a length counts than the content."""
    align: int = 2
    """Chunks begin at multiples of so many bytes."""
    samples: bytes = b"data"
    """How the name of the chunk of samples begins."""
    before_samples: int = 0
    """Bytes of that chunk before the samples."""


WAV = Family(12, "<I")
FAMILIES = {
    **dict.fromkeys((b"RIFF", b"RF64", b"BW64"), WAV),
    b"RIFX": Family(12, ">I"),
    b"riff": Family(40, "<Q", name_bytes=16, inclusive=24, align=8),
    b"FORM": Family(12, ">I", samples=b"SSND", before_samples=8),
    b"caff": Family(8, ">Q", align=1, before_samples=4),
}
"""Containers by their first four bytes."""
AU_MAGIC = b".snd"


@dataclass
class Part:
    """A file, or one of several that were joined."""

    file: BinaryIO
    note: str = ""
    """What is wrong with its header; "" if nothing."""
    right: float = 1.0
    """Share of its samples for which the header is right."""


@dataclass
class _Samples:
    """Where the samples of a file are, by its header."""

    start: int
    declared: int | None
    """Bytes of them; None if the header has a placeholder."""
    family: Family | None
    """None for AU, which has no chunks."""
    magic: bytes
    ds64: tuple[int, int] | None = None
    """Start and stop of the chunk of long lengths in RF64."""


def parts(file: BinaryIO) -> list[Part] | None:
    """Return the files of which a file consists, with headers that are right; None if the header is right.

    It is None, too, where the decoder itself finds the end of the samples, or where the format is another.
    """
    file.seek(0)
    first = _samples(io.BytesIO(file.read(USUAL_HEADER_BYTES)))
    total = file.seek(0, 2)
    if first is not None and first.declared is not None and 0 <= total - first.start - first.declared <= 1:
        return None  # the usual case, soon
    found: list[Part] = []
    base = 0
    while base < total and len(found) < MAX_CHUNKS:
        part = window(file, base) if base else file
        samples = header = _samples(part)
        if header is None or header.start > MAX_HEADER_BYTES:
            break
        stop = 0
        while samples is not None and len(found) < MAX_CHUNKS:
            stop = _stop(part, samples, total - base)
            found.append(_part(file, base, header, samples, stop))
            stop, samples = _following(part, samples, stop)
        base += stop
    honest = len(found) <= 1 and all(part.file is file and not part.note for part in found)
    return None if honest else found


def _following(file: BinaryIO, samples: _Samples, stop: int) -> tuple[int, _Samples | None]:
    """Return where a file that was joined to this one begins, or its end, and the next samples of this file."""
    family, total = samples.family, file.seek(0, 2)
    for start in (stop, stop + 1):
        file.seek(start)
        if file.read(4) == samples.magic:
            return start, None
    if family is None:
        return total, None
    for name, at, size in _chunks(file, family, stop + -stop % family.align):
        if name[:4] == samples.magic:
            return at - len(name) - struct.calcsize(family.size), None
        if name.startswith(family.samples) and size > family.before_samples:
            declared = None if size >= _least_placeholder(family, None) else size - family.before_samples
            return at, replace(samples, start=at + family.before_samples, declared=declared)
        if not PRINTABLE.match(name):
            break
    return total, None


def _part(file: BinaryIO, base: int, header: _Samples, samples: _Samples, stop: int) -> Part:
    """Return samples of the file that begins at byte ``base``, behind ``header``, which the first of them have."""
    found, declared = stop - samples.start, samples.declared
    note, right = "", 1.0
    if declared is not None and declared - found > MAX_MISSING_BYTES:
        note = f"cut short: {declared} bytes of samples declared, {found} found"
    elif declared is not None and found > declared:
        note, right = f"{declared} bytes of samples declared, {found} found; all were read", declared / found
    # libsndfile finds the end of the file itself behind placeholders in the other formats
    lost = samples.magic in (b"RF64", b"BW64", b"caff", b"riff", AU_MAGIC) or found > 0xFFFF_FFFF
    wrong = found > (declared or 0) if declared is None or not lost else found != declared
    whole = window(file, base) if base else file
    following, more = _following(whole, samples, stop)
    joined = base > 0 or samples is not header or more is not None or following < whole.seek(0, 2)
    if not joined and not (wrong and (declared is not None or lost)) and samples.magic != b"BW64":
        return Part(file, note)
    prefix = _header(whole, header, found)
    return Part(window(file, base + samples.start, base + stop, prefix), note, right)


def _least_placeholder(family: Family, ds64: object) -> int:
    return UNKNOWN_BYTES if family.size.endswith("I") and not ds64 else UNKNOWN_LONG


def _samples(file: BinaryIO) -> _Samples | None:
    """Find the samples by the chunks before them."""
    file.seek(0)
    magic = file.read(4)
    if magic == AU_MAGIC:
        start, size = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        return _Samples(start, None if size >= UNKNOWN_BYTES else size, None, magic) if start >= 24 else None
    family = FAMILIES.get(magic)
    if family is None:
        return None
    ds64: tuple[int, int, int] | None = None
    for name, at, size in _chunks(file, family, family.first):
        if name == b"ds64" and magic != b"RIFF":
            file.seek(at + 8)
            ds64 = (at - 8, at + size, int.from_bytes(file.read(8), "little"))
        if name.startswith(family.samples):
            if ds64 and size in (0, 0xFFFF_FFFF):
                size = ds64[2]
            unknown = size >= _least_placeholder(family, ds64)
            start = at + family.before_samples
            declared = None if unknown else max(0, size - family.before_samples)
            return _Samples(start, declared, family, magic, ds64[:2] if ds64 else None)
    return None


def _chunks(file: BinaryIO, family: Family, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the content of each chunk from byte ``at`` on."""
    size_bytes = struct.calcsize(family.size)
    for _ in range(MAX_CHUNKS):
        try:
            file.seek(at)
            header = file.read(family.name_bytes + size_bytes)
        except (OSError, OverflowError, ValueError):  # no file is that large
            return
        if len(header) < family.name_bytes + size_bytes:
            return
        (size,) = struct.unpack(family.size, header[family.name_bytes :])
        size = max(0, size - family.inclusive)
        at += len(header)
        yield header[: family.name_bytes], at, size
        at += size + -size % family.align


def _stop(file: BinaryIO, samples: _Samples, total: int) -> int:
    """Return where the samples end."""
    start, declared, family = samples.start, samples.declared, samples.family
    if declared is None or start + declared >= total:
        return total
    if declared and (_is_tail(file, family, start + declared, total) or _is_joined(file, samples, start + declared)):
        return start + declared
    if family is not None and family.size.endswith("I"):
        for stop in range(start + declared + (1 << 32), total + 1, 1 << 32):  # the length went round
            if _is_tail(file, family, stop, total):
                return stop
    if declared and _is_padding(file, start + declared, total, declared):
        return start + declared
    return total if family is None else _tail(file, family, start, total)


def _is_tail(file: BinaryIO, family: Family | None, at: int, total: int) -> bool:
    """Tell whether only chunks follow, by the first of them, or nothing."""
    if total - at <= 1:
        return True
    if family is None:
        return False
    at += -at % family.align if family.align == 2 else 0
    name, start, size = next(_chunks(file, family, at), (b"", 0, 0))
    return PRINTABLE.match(name) is not None and start + size <= total + 1


def _is_joined(file: BinaryIO, samples: _Samples, at: int) -> bool:
    return any(file.seek(start) and file.read(4) == samples.magic for start in (at, at + 1))


def _is_padding(file: BinaryIO, at: int, total: int, declared: int) -> bool:
    """Tell whether few bytes, a tag or zeros follow."""
    file.seek(at)
    if total - at < min(MAX_TAIL_BYTES, declared // 4) or file.read(16).startswith(TAGS):
        return True
    file.seek(at)
    while part := file.read(1 << 20):
        if part.strip(b"\0"):
            return False
    return True


def _tail(file: BinaryIO, family: Family, start: int, total: int) -> int:
    """Return where chunks that reach to the end of the file begin; the end if there are none."""
    first = max(start, total - TAIL_SEARCH_BYTES)
    file.seek(first)
    for found in TAIL_CHUNK.finditer(file.read(TAIL_SEARCH_BYTES)):
        end = 0
        for name, at, size in _chunks(file, family, first + found.start()):
            if not PRINTABLE.match(name):
                break
            end = at + size
        if total <= end <= total + 1:
            return first + found.start()
    return total


def _header(file: BinaryIO, samples: _Samples, found: int) -> bytes:
    """Return the bytes before the samples with the length of those that were found."""
    file.seek(0)
    header = file.read(min(samples.start, MAX_HEADER_BYTES))
    if samples.family is None:
        return header[:8] + struct.pack(">I", min(found, 0xFFFF_FFFF)) + header[12:]
    if samples.family is not WAV:
        family = samples.family
        size = found + family.before_samples + family.inclusive
        at = samples.start - family.before_samples - struct.calcsize(family.size)
        fits = family.size.endswith("Q") or size <= 0xFFFF_FFFF  # libsndfile reads to the end where the length is 0
        return header[:at] + struct.pack(family.size, size if fits else 0) + header[at + struct.calcsize(family.size) :]
    first, last = samples.ds64 or (12, 12)
    chunks = header[12:first] + header[last:-8]
    if found + len(header) < UNKNOWN_BYTES:
        riff = struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) + 8 + found + found % 2, b"WAVE")
        return riff + chunks + struct.pack("<4sI", b"data", found)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 4 + 36 + len(chunks) + 8 + found, found, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + chunks + b"data\xff\xff\xff\xff"
