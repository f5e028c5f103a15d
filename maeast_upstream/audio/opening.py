"""Opens a file by the decoder that reads all of it: libsndfile where it does, FFmpeg elsewhere, part by part."""

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maeast_upstream.audio import boxes, headers, mp3, ogg, opus
from maeast_upstream.audio.backends import (
    MAX_GAP_SECONDS,
    PYAV_SUFFIXES,
    RAW_FORMATS,
    AudioError,
    Note,
    Reader,
    Source,
    UnknownFormatError,
    silence,
)
from maeast_upstream.audio.ffmpeg import open_pyav
from maeast_upstream.audio.files import look_of
from maeast_upstream.audio.sndfile import open_soundfile
from maeast_upstream.audio.window import opened, window

MP3_SUFFIXES = (".mp3", ".mp2", ".mpga")
MP3_HEAD = re.compile(rb"\xff[\xe2-\xff]", re.DOTALL)
HEAD_BYTES = 512
TAIL_BYTES = 1 << 16
"""How far libsndfile may have read beyond the end of a stream."""


@dataclass
class Part:
    """A part of a file that consists of several."""

    open: Callable[[], contextlib.AbstractContextManager[Reader]]
    junk: str = ""
    """What lies between it and the part before; "" if it was joined to that one."""
    lost: float = 0.0
    """Seconds that are missing before it."""


@contextlib.contextmanager
def open_audio(source: Source, name: str, only_header: bool = False) -> Iterator[Reader]:
    """Open a file or stream.

    Args:
        source: A path, or a binary file object.
        name: Its name in messages.
        only_header: Whether only the length that its header declares is to be known.

    Raises:
        AudioError: It is not audio; also raised by the reader.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(opened(source))
        file.seek(0)
        head = file.read(16)
        if head.startswith(b"ID3"):  # which FLAC and WAV have at times, too
            tagged = window(file, mp3.tags_end(file))
            head = tagged.read(16)
            if head.startswith(b"OggS") or (source is file and not MP3_HEAD.match(head)):
                source = file = tagged  # libsndfile skips them in paths only
        other = head[:4] in headers.FAMILIES or head.startswith((b"fLaC", headers.AU_MAGIC))
        if _is_for_ffmpeg(source, head, other):
            yield _open_container(file, source, name, stack, head)
        elif head.startswith(b"OggS"):
            by_libsndfile = functools.partial(_open_ogg, file, source, name, stack, only_header)
            samples = 0 if only_header else opus.clean_samples(file)
            yield opus.CleanReader(file, samples, by_libsndfile) if samples else by_libsndfile()
        elif (MP3_HEAD.match(head) or name.lower().endswith(MP3_SUFFIXES)) and not other:
            yield _open_mp3(file, source, name, stack, only_header)
        else:
            yield _open_uncompressed(file, source, name, stack, only_header)


def _is_for_ffmpeg(source: Source, head: bytes, other: bool) -> bool:
    """Tell whether libsndfile is not to be asked: for containers by their content, or by a name that it agrees with."""
    if head[4:8] == b"ftyp" or head.startswith(b"Creative Voice") or (head[:4], head[8:12]) == (b"RIFF", b"AVI "):
        return True
    suffix = Path(source).suffix.lower() if isinstance(source, (str, Path)) else ""
    is_mp3 = bool(MP3_HEAD.match(head) and head[1] & 0x06)  # layer 0 is AAC
    return suffix in RAW_FORMATS or (suffix in PYAV_SUFFIXES and not (other or is_mp3 or head.startswith(b"OggS")))


def _open_container(file: BinaryIO, source: Source, name: str, stack: contextlib.ExitStack, head: bytes) -> Reader:
    starts = boxes.mp4_files(file) if head[4:8] == b"ftyp" else [0]
    missing = boxes.missing_of_avi(file) if head.startswith(b"RIFF") else ""
    if len(starts) == 1:
        reader = stack.enter_context(_open_by_ffmpeg(_rewound(source), name))
        if missing:
            reader.notes.append(Note(missing, reader.seconds))
        return reader
    ends = [*starts[1:], file.seek(0, os.SEEK_END)]
    pieces = (window(file, start, stop) for start, stop in zip(starts, ends, strict=True))
    parts = (Part(functools.partial(_open_by_ffmpeg, piece, name)) for piece in pieces)
    first = _open_first(parts, file, stack)
    return _Chain(first, parts, name, first.seconds)


def _open_uncompressed(
    file: BinaryIO, source: Source, name: str, stack: contextlib.ExitStack, only_header: bool
) -> Reader:
    found = headers.parts(file)
    if found is None:
        return stack.enter_context(_open_either(_rewound(source), name, file))
    first, *later = found
    reader = stack.enter_context(_open_either(_rewound(source if first.file is file else first.file), name))
    if first.note:
        reader.notes.append(Note(first.note, first.right * reader.seconds))
    if not later:
        return reader
    seconds = reader.seconds
    for part in later if only_header else ():
        with contextlib.suppress(AudioError), _open_either(_rewound(part.file), name) as other:
            seconds += other.seconds
    parts = (Part(functools.partial(_open_either, part.file, name)) for part in later)
    return _Chain(reader, parts, name, seconds)


def _open_mp3(file: BinaryIO, source: Source, name: str, stack: contextlib.ExitStack, only_header: bool) -> Reader:
    streams, rest = ([], 0) if only_header and mp3.has_index(file) else mp3.streams(file)
    if mp3.is_chance(streams, rest):
        raise AudioError(f"{name}: not audio that can be decoded (only few of its bytes look like frames of MP3)")
    whole = len(streams) == 1 and streams[0].start == 0 and streams[0].regular
    end = f"its last {rest} bytes are no whole frame of MP3" if rest else ""
    if whole and streams[0].declared is None:  # libsndfile would count tags as sound
        source = window(file, 0, streams[0].stop)
    if not streams or whole:
        reader = stack.enter_context(_open_either(_rewound(source), name, file))
        if end:
            reader.notes.append(Note(end, reader.seconds - 1))
        return reader

    def part(number: int, stream: mp3.Stream) -> Part:
        piece = window(file, stream.start, stream.stop)
        by_libsndfile = stream.regular and (number == 0 or stream.declared is not None)
        text = f"{stream.junk} bytes that are no frames of MP3" if stream.junk else ""
        lost = stream.lost * stream.kind[1] / stream.kind[0]
        open_part = _open_either if by_libsndfile else functools.partial(_open_mp3_part, number)
        return Part(functools.partial(open_part, piece, name), text, lost)

    parts = (part(number, stream) for number, stream in enumerate(streams))
    reader = _open_first(parts, file, stack)
    if streams[0].junk:
        reader.notes.append(Note(f"{streams[0].junk} bytes that are no frames of MP3 come first; left out"))
    reader.notes.extend(_wrong_indexes(streams))
    return _Chain(reader, parts, name, sum(stream.seconds for stream in streams), lambda: end)


def _open_first(parts: Iterator[Part], file: BinaryIO, stack: contextlib.ExitStack) -> Reader:
    """Open the first part that can be read; raise AudioError as the first of them does if there is none."""
    failure: AudioError | None = None
    for part in parts:
        try:
            reader = stack.enter_context(part.open())
        except AudioError as error:
            failure = failure or error
            file.seek(0)
            continue
        if failure is not None:
            reader.notes.append(Note(f"what comes first could not be read ({str(failure).rpartition(' (')[2]}"))
        return reader
    raise failure or AudioError("no part")


def _wrong_indexes(streams: list[mp3.Stream]) -> Iterator[Note]:
    """Yield a note for each index of an MP3 file that declares another number of frames than follow it."""
    at = 0.0
    for number, stream in enumerate(streams):
        if stream.declared is not None:
            later = itertools.takewhile(lambda other: other.declared is None, streams[number + 1 :])
            found = stream.frames + sum(other.frames + other.lost for other in later)
            if abs(found - stream.declared) > 1:
                text = f"{stream.declared} frames declared, {found} found; all were read"
                text = text if found > stream.declared else f"cut short: {text.removesuffix('; all were read')}"
                yield Note(text, at + min(found, stream.declared) * stream.kind[1] / stream.kind[0])
        at += stream.seconds


def _open_ogg(file: BinaryIO, source: Source, name: str, stack: contextlib.ExitStack, only_header: bool) -> Reader:
    links = _ogg_links(file, source, name)
    first = _open_first(itertools.chain([Part(lambda: _open_either(_rewound(source), name))], links), file, stack)
    seconds = first.seconds + sum(_ogg_seconds(file, name)) if only_header else 0.0
    return _Chain(first, links, name, seconds, functools.partial(_ogg_end, file))


def _open_mp3_part(number: int, source: Source, name: str) -> contextlib.AbstractContextManager[Reader]:
    return open_pyav(source, name, form="mp3", exact=number > 0)


def _ogg_links(file: BinaryIO, source: Source, name: str) -> Iterator[Part]:
    """Yield the links of a chain after the first, whose end is searched once the first was read."""
    start = ogg.first_pages_end(file, 0) if isinstance(source, (str, Path)) else max(0, file.tell() - TAIL_BYTES)
    start = max(start, ogg.first_pages_end(file, 0))
    while (found := ogg.next_link(file, start)) is not None:
        start = ogg.first_pages_end(file, found)
        piece = window(file, found, ogg.next_link(file, start))
        yield Part(functools.partial(_open_either, piece, name))


def _ogg_end(file: BinaryIO) -> str:
    return "" if ogg.is_ended(file) else "its last page is not marked as the end: it may be cut short"


def _ogg_seconds(file: BinaryIO, name: str) -> Iterator[float]:
    """Yield the lengths of the links of a chain after the first, if its last page belongs to another stream."""
    if not ogg.is_chain(file):
        return
    start = ogg.first_pages_end(file, 0)
    while (found := ogg.next_link(file, start)) is not None:
        start = ogg.first_pages_end(file, found)
        piece = window(file, found, ogg.next_link(file, start))
        with contextlib.suppress(AudioError), _open_either(piece, name) as reader:
            yield reader.seconds


@contextlib.contextmanager
def _open_either(source: Source, name: str, file: BinaryIO | None = None) -> Iterator[Reader]:
    """Open by libsndfile, or where it cannot, by FFmpeg; ``file`` as in `open_soundfile`."""
    import soundfile

    with contextlib.ExitStack() as stack:
        try:
            reader = stack.enter_context(open_soundfile(source, name, file))
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            reason = re.sub(r"^Error opening .*: (?=[^:]*$)", "", str(error))
            reader = stack.enter_context(_open_by_ffmpeg(_rewound(source), name, reason))
        yield reader


@contextlib.contextmanager
def _open_by_ffmpeg(source: Source, name: str, reason: str = "") -> Iterator[Reader]:
    """Open by FFmpeg; ``reason`` is why libsndfile did not open it."""
    with contextlib.ExitStack() as stack:
        with opened(source) as file:
            head = file.read(HEAD_BYTES)
        look = look_of(head)
        if look:  # FFmpeg believes some names
            raise AudioError(f"{name}: not audio that can be decoded (it looks like {look})")
        link = stack.enter_context(ogg.first_link(source)) if head.startswith(b"OggS") else _rewound(source)
        try:
            reader = stack.enter_context(open_pyav(link, name))
        except UnknownFormatError as error:
            raise AudioError(f"{name}: not audio that can be decoded ({reason})" if reason else str(error)) from None
        yield reader


def _rewound(source: Source) -> Source:
    if not isinstance(source, (str, Path)):
        source.seek(0)
    return source


class _Chain:
    """The parts of a file, one after the other, at the rate of the first."""

    seeks = False

    def __init__(
        self, first: Reader, later: Iterator[Part], name: str, seconds: float, end: Callable[[], str] = lambda: ""
    ) -> None:
        self.rate, self.seconds, self._end = first.rate, seconds, end
        self._first, self._later, self._name = first, later, name
        self._notes: list[Note] = []
        self._more = 0
        self._filled = 0.0

    @property
    def position(self) -> int:
        """Number of samples decoded so far."""
        return self._first.position + self._more

    @property
    def notes(self) -> list[Note]:
        """What was noticed so far."""
        return [*self._first.notes, *self._notes]

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """See `Reader`."""
        yield from self._first.blocks(first)
        for part in self._later:
            for block in self._part(part):
                skip = max(0, first - self.position)
                self._more += len(block)
                yield block[skip:]
        if text := self._end():
            self._notes.append(Note(text, self.position / self.rate))

    def _part(self, part: Part) -> Iterator[np.ndarray]:
        at = self.position / self.rate
        lost = part.lost if part.lost <= MAX_GAP_SECONDS - self._filled else 0.0
        self._filled += lost
        if lost:
            self._notes.append(
                Note(f"{lost:.2f} s at {at:.2f} s are missing ({part.junk}); silent here", at, at + lost)
            )
            yield from silence(round(lost * self.rate))
        else:
            joined = f"another stream begins at {at:.2f} s, as in joined files"
            text = f"{part.junk} are at {at:.2f} s; left out" if part.junk else joined
            self._notes.append(Note(text, at, at))
        at = self.position / self.rate
        try:
            with part.open() as reader:
                yield from _converted(reader, self.rate)
                self._notes += [Note(note.text, at + note.start, at + note.stop) for note in reader.notes]
        except AudioError as error:
            reason = str(error).removeprefix(f"{self._name}: ")
            self._notes.append(Note(f"what follows at {at:.2f} s could not be read ({reason})", at, at))


def _converted(reader: Reader, rate: int) -> Iterator[np.ndarray]:
    if reader.rate == rate or not reader.rate:
        yield from reader.blocks(0)
        return
    import soxr

    stream = soxr.ResampleStream(reader.rate, rate, 1, dtype="float32")
    for block in reader.blocks(0):
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
