"""Decodes Ogg Opus files without a fault by FFmpeg's libopus: twice as fast as libsndfile's, to the same samples.

Anything else than one whole stream whose pages agree in every detail is left to libsndfile, with what it notes.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from maeast_upstream.audio.backends import Note, Reader
from maeast_upstream.audio.ffmpeg import Joined
from maeast_upstream.audio.window import window

RATE = 48_000
"""Rate in Hz at which FFmpeg decodes Opus, and libsndfile where the rate in the header is above `MAX_OTHER_RATE`."""
MAX_OTHER_RATE = 24_000
MAX_BYTES = 1 << 24
"""Size of the largest file that is checked, more than half an hour; a segment of a longer one would wait for that."""
PAGE = struct.Struct("<4sBBqIIIB")
"""Header of a page: magic, version, flags, granule position, serial, number, checksum, segments (RFC 3533)."""
HEAD = struct.Struct("<8sBBHIhB")
"""Magic, version, channels, pre-skip, rate before encoding in Hz, gain, mapping family (RFC 7845, section 5.1)."""
CONTINUED, FIRST, LAST = 1, 2, 4
FRAME_SAMPLES = tuple(
    (480, 960, 1920, 2880)[code & 3] if code < 12 else (480, 960)[code & 1] if code < 16 else 120 << (code & 3)
    for code in range(32)
)
"""Samples at 48 kHz of a frame by the first five bits of its packet (RFC 6716, section 3.1)."""
MAX_PACKET_SAMPLES = 5760
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """A page of an Ogg file."""

    flags: int
    granule: int
    sizes: bytes
    """Bytes of each segment; a packet ends with one below 255."""
    body: bytes


NO_PAGE = Page(0, 0, b"", b"")


class _FaultError(ValueError):
    """The file is not as every encoder writes it."""


def clean_samples(file: BinaryIO) -> int:
    """Return the samples of a file at 48 kHz if it is one faultless stream of Opus with that rate; else 0."""
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        samples = _samples(file.read(size)) if size <= MAX_BYTES else 0
        return samples if samples and _has_libopus() else 0
    except (struct.error, IndexError, ValueError):
        return 0


def _has_libopus() -> bool:
    """Tell whether FFmpeg was built with libopus; it is loaded only now, since most jobs need it for no other file."""
    import av

    try:
        av.codec.Codec("libopus", "r")
    except ValueError:
        return False
    return True


def _samples(data: bytes) -> int:
    pages = _pages(data)
    skip = _pre_skip(next(pages, NO_PAGE))
    tagged, total, last, packet = False, 0, 0, b""
    offset: int | None = None
    for page in pages:
        _expect(bool(page.flags & CONTINUED) == bool(packet))
        ends = -1  # as in a page in which no packet ends
        for part, whole in _parts(page):
            packet += part
            if not whole:
                continue
            if tagged:
                last = _packet_samples(packet)
                total += last
            else:
                _expect(packet.startswith(b"OpusTags") and len(part) == len(page.body) % 255)
            tagged, packet, ends = True, b"", total
        if ends > 0 and offset is None:
            offset = 0 if page.flags & LAST else page.granule - total
            _expect(offset in (0, skip))  # FFmpeg counts the samples to skip twice
        at = page.granule - (offset or 0)
        if page.flags & LAST:
            _expect(not packet and total - last < at <= total)
            return max(0, at - skip)
        _expect(ends in (-1, 0, at) and (ends > 0 or page.granule == ends))
    raise _FaultError


def _pages(data: bytes) -> Iterator[Page]:
    """Yield the pages of a file that holds nothing but those of one stream, numbered from 0."""
    at = number = 0
    stream = None
    while at < len(data):
        magic, version, flags, granule, serial, found, checksum, segments = PAGE.unpack_from(data, at)
        body = at + PAGE.size + segments
        sizes = data[at + PAGE.size : body]
        end = body + sum(sizes)
        stream = serial if stream is None else stream
        _expect((magic, version, serial, found) == (b"OggS", 0, stream, number) and end <= len(data))
        _expect(bool(flags & FIRST) == (number == 0) and bool(flags & LAST) == (end == len(data)))
        _expect(_checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) == checksum)
        yield Page(flags, granule, sizes, data[body:end])
        at, number = end, number + 1


def _parts(page: Page) -> Iterator[tuple[bytes, bool]]:
    """Yield the segments of a page, and whether a packet ends with them."""
    at = 0
    for size in page.sizes:
        yield page.body[at : at + size], size < 255
        at += size


def _pre_skip(page: Page) -> int:
    magic, version, channels, skip, rate, gain, family = HEAD.unpack(page.body)
    _expect((magic, version, gain, family) == (b"OpusHead", 1, 0, 0) and channels in (1, 2))
    _expect(len(page.sizes) == 1 and page.granule == 0 and MAX_OTHER_RATE < rate < 1 << 31)
    return int(skip)


def _packet_samples(packet: bytes) -> int:
    code = packet[0] & 3
    frames = packet[1] & 63 if code == 3 else (1, 2, 2)[code]
    samples = frames * FRAME_SAMPLES[packet[0] >> 3]
    _expect(0 < samples <= MAX_PACKET_SAMPLES)
    return samples


def _checksum(data: bytes) -> int:
    """Return the CRC-32 of Ogg, which is that of zlib with all bits mirrored, from 0 and without an inversion."""
    mirrored = zlib.crc32(data.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(MIRRORED), "big")


def _expect(holds: bool) -> None:
    if not holds:
        raise _FaultError


class CleanReader:
    """Reads a file of `clean_samples`; from a packet on that cannot be decoded, by another reader."""

    rate, seeks = RATE, False

    def __init__(self, file: BinaryIO, samples: int, other: Callable[[], Reader]) -> None:
        self.seconds = samples / RATE
        self._file, self._samples, self._open_other = file, samples, other
        self._other: Reader | None = None
        self._position = 0

    @property
    def position(self) -> int:
        """Number of samples decoded so far."""
        return self._other.position if self._other else self._position

    @property
    def notes(self) -> list[Note]:
        """What was noticed so far."""
        return self._other.notes if self._other else []

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """See `Reader`."""
        for block in self._decoded():
            skip = max(0, first - self._position)
            self._position += len(block)
            yield block[skip:]
        if self._position < self._samples:
            self._other = self._open_other()
            yield from self._other.blocks(max(first, self._position))

    def _decoded(self) -> Iterator[np.ndarray]:
        """Yield blocks of at most all samples, until the end or the first fault."""
        import av

        found = 0
        with contextlib.suppress(av.FFmpegError, ValueError):
            for block in self._joined():
                found += len(block)
                if found > self._samples:
                    return
                yield block

    def _joined(self) -> Iterator[np.ndarray]:
        import av

        with av.open(window(self._file), "r", format="ogg") as container:
            stream = container.streams.audio[0]
            # FFmpeg's own decoder, its default, differs from libopus by up to 0.5 in speech
            decoder = av.CodecContext.create("libopus", "r")
            decoder.extradata, decoder.options = stream.codec_context.extradata, {"request_sample_fmt": "flt"}
            decoder.sample_rate, decoder.layout = RATE, stream.codec_context.layout
            joined: Joined | None = None
            for packet in container.demux(stream):
                for frame in decoder.decode(packet):
                    joined = joined or Joined(frame, RATE)
                    yield from joined.add(frame)
            yield from joined.end() if joined else ()
