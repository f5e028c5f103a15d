"""Estimates how much audio files hold without decoding them: from their sizes, and from the headers of a few."""

import os
import stat
from collections import Counter
from collections.abc import Iterable

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.data.inputs import Segment, file_bytes
from maeast_upstream.data.packed import SAMPLE_BYTES
from maeast_upstream.storage.remote import is_remote

USUAL_RATES = {".flac": 50_000, ".opus": 8_000, ".ogg": 12_000, ".oga": 12_000, ".mp3": 16_000, ".m4a": 16_000}
"""Bytes per second of compressed files: FLAC at 44.1 kHz mono, and 64 to 128 kbit/s."""
UNCOMPRESSED = frozenset((".wav", ".wave", ".bwf", ".rf64", ".w64", ".aiff", ".aif", ".aifc", ".au", ".caf"))
UNCOMPRESSED_RATE, OTHER_RATE = 88_200, 16_000
"""Bytes per second of 44.1 kHz mono with 16 bits, and of any other file."""
LEAST_RATE, MOST_RATE = 200, 10_000_000
"""What a header may say, in bytes per second."""
HEADER_BYTES, TAIL_BYTES = 64, 1 << 16
UNKNOWN_SECONDS = 60.0
"""Assumed length of a file of which nothing is known, such as a single address."""


class AudioLength:
    """Adds up how many seconds of audio segments hold.

    Segments with an end and packed clips are known. Of whole files, the headers of the 1st, 2nd, 4th, 8th, ... of each
    suffix are read, and the others are thought to have as many bytes per second.
    """

    def __init__(self) -> None:
        self._known = 0.0
        self._unknown = 0
        self._files: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._looked_at: dict[str, list[float]] = {}

    def add(self, segment: Segment) -> None:
        """Add a segment, whose file need not exist."""
        if segment.error is not None:
            return
        if segment.packed:
            self._known += (segment.size or 0) / (SAMPLE_BYTES * SAMPLE_RATE)
        elif segment.end_ms is not None:
            self._known += max(0.0, segment.end_ms - (segment.start_ms or 0.0)) / 1000
        else:
            suffix = os.path.splitext(segment.path)[1].lower()  # noqa: PTH122
            size = file_bytes(segment)
            self._unknown += not size
            self._files[suffix] += 1
            self._bytes[suffix] += size
            if self._files[suffix].bit_count() == 1 and (rate := bytes_per_second(segment)):
                self._looked_at.setdefault(suffix, []).append(rate)

    @property
    def seconds(self) -> float:
        """The estimate."""
        found = self._known + sum(size / self._rate(suffix) for suffix, size in self._bytes.items())
        return found + self._unknown * UNKNOWN_SECONDS

    def _rate(self, suffix: str) -> float:
        """Bytes per second of the files with a suffix."""
        usual = UNCOMPRESSED_RATE if suffix in UNCOMPRESSED else USUAL_RATES.get(suffix, OTHER_RATE)
        rates = self._looked_at.get(suffix)
        return sum(rates) / len(rates) if rates else usual


def seconds_of(segments: Iterable[Segment]) -> float:
    """Estimate how many seconds of audio segments hold, see `AudioLength`."""
    length = AudioLength()
    for segment in segments:
        length.add(segment)
    return length.seconds


def bytes_per_second(segment: Segment) -> float | None:
    """What the header of a local file says; None where it has none, does not say, or says what cannot be."""
    path = segment.file or segment.path
    try:
        if is_remote(path) or not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return None
        begin, size = segment.offset or 0, file_bytes(segment)
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(begin)
            head = file.read(HEADER_BYTES)
            file.seek(begin + max(0, size - TAIL_BYTES))
            tail = file.read(min(size, TAIL_BYTES)) if head.startswith(b"OggS") else b""
    except (OSError, ValueError):
        return None
    if head.startswith((b"RIFF", b"RF64")):
        rate = _rate_of_wav(head)
    else:
        seconds = _seconds_of_ogg(head, tail) if tail else _seconds_of_flac(head)
        rate = size / seconds if seconds else None
    return rate if rate is not None and LEAST_RATE <= rate <= MOST_RATE else None


def _rate_of_wav(head: bytes) -> float | None:
    """Bytes per second, where the format comes first, as in most files (Microsoft's "fmt " chunk)."""
    return int.from_bytes(head[28:32], "little") if head[12:16] == b"fmt " else None


def _seconds_of_flac(head: bytes) -> float | None:
    """What STREAMINFO says: 20 bits of sample rate, 8 of format, 36 of samples (RFC 9639, 8.2)."""
    if not head.startswith(b"fLaC") or len(head) < HEADER_BYTES:
        return None
    packed = int.from_bytes(head[18:26], "big")
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    return samples / rate if rate else None


def _seconds_of_ogg(head: bytes, tail: bytes) -> float | None:
    """The position of the last page (RFC 3533, 6), at 48 kHz for Opus (RFC 7845, 4) or the rate in Vorbis' header."""
    is_opus, is_vorbis = head[28:36] == b"OpusHead", head[28:35] == b"\x01vorbis"
    rate = 48_000 if is_opus else int.from_bytes(head[40:44], "little") if is_vorbis else 0
    page = tail.rfind(b"OggS")
    samples = int.from_bytes(tail[page + 6 : page + 14], "little", signed=True) if page >= 0 else 0
    return samples / rate if rate and samples > 0 else None
