"""Walks through the frames of an MP3 file, whose headers say neither how many there are nor where they end.

Sources: ISO/IEC 11172-3 and 13818-3 for frames, and the Xing, Info and VBRI headers as LAME and Fraunhofer's encoder
write them into a first frame without sound.
"""

import functools
import itertools
import re
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

BIT_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""kbit/s by version (1, or 2 for 2 and 2.5) and layer."""
RATES = (44100, 48000, 32000)
"""Hz of version 1; halves for version 2, quarters for 2.5."""
INDEX = (b"Xing", b"Info")
VBRI = 36
"""Where in a frame an index of Fraunhofer's form has its name."""
HEAD_BYTES = 40
SYNC = re.compile(rb"\xff[\xe2-\xff]", re.DOTALL)
MAX_TAIL_SHARE = 0.05
"""Tags may follow what an index counts, with up to this share of its bytes."""
BUFFER_BYTES = 1 << 20
MAX_FRONT_BYTES = 1 << 20
"""Before this byte, after the tags, an MP3 file has its first frame."""
MIN_FRAME_BYTES, MAX_FRAME_BYTES = 24, 1441
"""Of Layer III: 8 kbit/s at 24 kHz, and 320 kbit/s at 32 kHz."""
MAX_JUNK_RATIO, MIN_IN_A_ROW = 2, 8
"""Of random bytes, some look like frames: fewer than so many in a row, with more than so many bytes beside each."""
MAX_STREAMS = 200
"""After so many, the rest of the file is not divided."""


class Frame(NamedTuple):
    """What the header of a frame says."""

    kind: tuple[int, int, bool]
    """Rate in Hz, samples of a frame, whether it has one channel."""
    size: int
    """Bytes."""
    index_at: int
    """Where in a frame an index of Xing's form has its name."""
    bit_rate: int


@dataclass
class Stream:
    """Frames of one kind, each directly after the other."""

    start: int
    """Byte at which its first frame begins, or the tag before that."""
    stop: int
    """Byte after its last frame."""
    kind: tuple[int, int, bool]
    """As in `Frame`."""
    frames: int = 0
    """Number of frames with sound."""
    declared: int | None = None
    """Number of frames that the index declares; None if there is no index."""
    bit_rate: int = 0
    """That of all frames; -1 if they differ."""
    junk: int = 0
    """Bytes before it that are neither frames nor a tag."""
    lost: int = 0
    """Number of frames that these bytes seem to have been."""

    @property
    def regular(self) -> bool:
        """Whether a decoder that trusts the index, or the bit rate of the first frame, reads all of it."""
        if self.declared is None:
            return self.bit_rate > 0
        return abs(self.declared - self.frames) <= 1

    @property
    def seconds(self) -> float:
        """Length of its frames."""
        return self.frames * self.kind[1] / self.kind[0]


def tags_end(file: BinaryIO) -> int:
    """Return the first byte after the tags at the beginning of a file."""
    return _Walk(file).skip_tags(0)


def has_index(file: BinaryIO) -> bool:
    """Tell whether the first frame of an MP3 file holds an index, which gives the length, of all of the file."""
    walk = _Walk(file)
    at = walk.first_frame(tagged := walk.skip_tags(0), tagged + MAX_FRONT_BYTES)
    if at is None or not (frames := walk.index(at)):
        return False
    size = walk.index(at, size=True)
    if not MIN_FRAME_BYTES * frames <= walk.size - at <= MAX_FRAME_BYTES * (frames + 1):
        return False
    return size is None or abs(walk.size - at - size) < MAX_TAIL_SHARE * size + HEAD_BYTES


def streams(file: BinaryIO) -> tuple[list[Stream], int]:
    """Return the streams of an MP3 file, and how many bytes after them are neither frames nor a tag.

    There are none if it is no MP3 file, or has frames of free size.

    A new one begins where the format changes, where an index begins, and where something else lies between two frames.
    """
    walk, at, tagged = _Walk(file), 0, 0
    while len(walk.found) < MAX_STREAMS:
        tagged = walk.skip_tags(at)
        following = walk.first_frame(tagged, 1 << 62 if walk.found else tagged + MAX_FRONT_BYTES)
        if following is None:
            break
        start = following if following > tagged or walk.found else 0
        at = walk.read(start, following, following - tagged)
    else:
        walk.found[-1].stop, walk.found[-1].bit_rate = walk.size, -1
    _limit_losses(walk.found)
    rest = walk.bytes(tagged, HEAD_BYTES)
    cut = bool(walk.found and rest.strip(b"\0")) and not rest.startswith(b"LYRICS")
    return walk.found, max(0, walk.last_tags() - tagged) if cut else 0


def is_chance(found: list[Stream], rest: int) -> bool:
    """Tell whether some bytes of a file that is no MP3 file look like frames: few, and few in a row."""
    sound = sum(stream.stop - stream.start for stream in found)
    beside = sum(stream.junk for stream in found) + rest
    in_a_row = max((stream.frames for stream in found), default=MIN_IN_A_ROW)
    return beside > MAX_JUNK_RATIO * sound and in_a_row < MIN_IN_A_ROW


def _limit_losses(found: list[Stream]) -> None:
    """Count as many frames as lost as the index says, where there is one, unless many more lack at the end."""
    for number, stream in enumerate(found):
        if stream.declared is not None:
            later = list(itertools.takewhile(lambda other: other.declared is None, found[number + 1 :]))
            lost = max(0, stream.declared - stream.frames - sum(other.frames for other in later))
            for other in later:
                other.lost = min(other.lost, lost)
                lost -= other.lost
            filled = sum(other.lost for other in later)
            if filled and lost <= 2 + filled // 5:
                max(later, key=lambda other: other.lost).lost += lost


class _Walk:
    """The way through a file, which is read in large pieces."""

    def __init__(self, file: BinaryIO) -> None:
        self.found: list[Stream] = []
        self.size = file.seek(0, 2)
        self._file, self._buffer, self._base = file, b"", 0
        self._named = self._inner = -1
        """Where the buffer has the last name of an index in the file, and where in it the last whole head begins."""

    def read(self, start: int, at: int, junk: int) -> int:
        """Add the stream whose first frame is at byte ``at``, and return the byte after it."""
        first = _frame(self.bytes(at, 4))
        assert first is not None
        stream = Stream(start, at, first.kind, bit_rate=first.bit_rate, junk=junk)
        frame: Frame | None = first
        kind, size = first.kind, self.size
        while frame is not None and frame.kind == kind and at + frame.size <= size:
            if (at <= self._named or at - self._base > self._inner) and self._has_index(at, frame):
                if stream.frames:
                    break
                stream.declared = self.index(at)
            else:
                stream.frames += 1
                if frame.bit_rate != stream.bit_rate:
                    stream.bit_rate = -1 if stream.frames > 1 else frame.bit_rate
            at += frame.size
            begin = at - self._base
            frame = _frame(self._buffer[begin : begin + 4] if begin <= self._inner else self.bytes(at, 4))
        stream.stop = at
        if junk and self.found:
            before = self.found[-1]
            mean = (before.stop - before.start + at - start) / max(1, before.frames + stream.frames)
            stream.lost = round(junk / mean)
        self.found.append(stream)
        return at

    def _has_index(self, at: int, frame: Frame) -> bool:
        head = self.bytes(at, HEAD_BYTES)
        return head[frame.index_at : frame.index_at + 4] in INDEX or head[VBRI : VBRI + 4] == b"VBRI"

    def index(self, at: int, size: bool = False) -> int | None:
        """Return how many frames, or bytes, the index in the frame at byte ``at`` declares; None if none says it."""
        frame = _frame(self.bytes(at, 4))
        if self.bytes(at + VBRI, 4) == b"VBRI":
            return int.from_bytes(self.bytes(at + VBRI + (10 if size else 14), 4), "big")
        if frame is None or self.bytes(at + frame.index_at, 4) not in INDEX:
            return None
        flags = int.from_bytes(self.bytes(at + frame.index_at + 4, 4), "big")
        place = at + frame.index_at + 8 + (4 if size and flags & 1 else 0)
        return int.from_bytes(self.bytes(place, 4), "big") if flags & (2 if size else 1) else None

    def skip_tags(self, at: int) -> int:
        """Return the byte after the tags of ID3 and APE at byte ``at``."""
        while True:
            head = self.bytes(at, 16)
            if head[:3] == b"ID3" and len(head) >= 10:  # its length has 7 bits in each byte
                at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
                at += 10 if head[5] & 0x10 and self.bytes(at, 3) == b"3DI" else 0
            elif head[:3] == b"TAG":
                at += 128
            elif head[:8] == b"APETAGEX":
                at += 32 + int.from_bytes(head[12:16], "little")
            else:
                return at

    def last_tags(self) -> int:
        """Return where the tags at the end of the file begin that only their last bytes identify; its end if none."""
        at = self.size - (128 if self.bytes(max(0, self.size - 128), 3) == b"TAG" else 0)
        foot = self.bytes(max(0, at - 32), 16)
        return at - int.from_bytes(foot[12:16], "little") if foot.startswith(b"APETAGEX") else at

    def first_frame(self, at: int, limit: int = 1 << 62) -> int | None:
        """Return the first byte, from ``at`` on, where three frames of a kind begin; None if there is none.

        Before byte ``limit``; two frames are enough at the end of the file.
        """
        while at < limit and len(part := self.bytes(at, 4)) == 4:
            frame = _frame(part)
            second = frame and _frame(self.bytes(at + frame.size, 4))
            if frame and second and second.kind == frame.kind:
                end = at + frame.size + second.size
                third = _frame(self.bytes(end, 4))
                if end + 4 > self.size or (third is not None and third.kind == frame.kind):
                    return at
            self.bytes(at + 1, 2)
            found = SYNC.search(self._buffer, at + 1 - self._base)
            at = self._base + (found.start() if found else len(self._buffer) - 1)
            if not found and at + 2 >= self.size:
                return None
        return None

    def bytes(self, at: int, count: int) -> bytes:
        """Return bytes from ``at`` on: ``count`` of them, or fewer at the end of the file."""
        first = at - self._base
        if not 0 <= first <= len(self._buffer) - count:
            self._file.seek(at)
            self._buffer, self._base, first = self._file.read(BUFFER_BYTES), at, 0
            self._named = at + max(self._buffer.rfind(name) for name in (*INDEX, b"VBRI"))
            self._inner = len(self._buffer) - HEAD_BYTES
        return self._buffer[first : first + count]


@functools.lru_cache(maxsize=4096)
def _frame(header: bytes) -> Frame | None:
    """Return what the first bytes of a frame say; None if no frame of known size begins with them."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE2:
        return None
    return _parsed(header[1] & ~1, header[2] & ~1, header[3] >> 6 == 3)


@functools.cache
def _parsed(second: int, third: int, mono: bool) -> Frame | None:
    version = {0b11: 1, 0b10: 2, 0b00: 4}.get(second >> 3 & 3)
    layer = 4 - (second >> 1 & 3)
    rate, bit_rate = third >> 2 & 3, third >> 4
    if version is None or layer == 4 or rate == 3 or bit_rate in (0, 15):
        return None
    hz = RATES[rate] // version
    kbits = BIT_RATES[min(version, 2), layer][bit_rate]
    samples = 384 if layer == 1 else 576 if layer == 3 and version > 1 else 1152
    padding = third >> 1 & 1
    size = (12_000 * kbits // hz + padding) * 4 if layer == 1 else samples // 8 * 1000 * kbits // hz + padding
    side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[version == 1, mono]
    return Frame((hz, samples, mono), size, 4 + side, kbits)
