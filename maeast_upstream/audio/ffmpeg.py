"""Decodes containers and codecs by FFmpeg (PyAV): whatever of a file can be decoded, each part at its time."""

import contextlib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from maeast_upstream.audio.backends import (
    RAW_FORMATS,
    AudioError,
    Note,
    Reader,
    Source,
    UnknownFormatError,
    mono,
    silence,
)
from maeast_upstream.audio.clock import Clock
from maeast_upstream.audio.frames import Frame, Frames, reason_of
from maeast_upstream.audio.window import opened

if TYPE_CHECKING:
    import av

PYAV_FORMATS = (
    "mov,matroska,webm,aac,asf,mp3,ogg,wav,w64,flac,aiff,au,caf,amr,avi,flv,mpeg,mpegts,ac3,eac3,wv,ape,tta,loas,voc"
)
"""Containers that FFmpeg may open; lists of other files or addresses, such as playlists, are not among them."""
MAX_MISSING_SECONDS = 0.5
"""A container may declare this much more than it holds, because of the codec's padding."""
MAX_PLANES = 7
"""PyAV 18 expects a null pointer after the planes of a frame; after 8, the maximum, there is none."""
BLOCK_SAMPLES = 1 << 16
"""Samples of a block. FFmpeg's own frames of about a thousand samples would cost more to resample than to decode."""
LATE_SECONDS = 0.3
"""Sound that begins this much later than its recording is noted; the priming of AAC at 8 kHz takes 0.13 s."""


@contextlib.contextmanager
def open_pyav(
    source: Source, name: str, rate: int | None = None, form: str | None = None, exact: bool = False
) -> Iterator[Reader]:
    """Open a file by FFmpeg.

    Args:
        source: A path, or a binary file object.
        name: Name of the file in messages.
        rate: Sample rate in Hz to convert to; None for that of the first frame.
        form: FFmpeg's name of the container; None to find it by the content.
        exact: Whether time stamps are exact and begin at 0, so that any hole is filled.

    Raises:
        UnknownFormatError: FFmpeg does not know the format.
        AudioError: The file is broken; also raised by the reader.
    """
    import av

    with contextlib.ExitStack() as stack:
        try:
            # an opened file, because FFmpeg would read a name such as take:1.m4a as an address
            file = _Calm(stack.enter_context(opened(source)))
            raw = RAW_FORMATS.get(Path(source).suffix.lower()) if isinstance(source, (str, Path)) else None
            options = {"format_whitelist": raw or PYAV_FORMATS}
            container = stack.enter_context(av.open(file, "r", format=raw or form, options=options))
            if not container.streams.audio:
                raise UnknownFormatError(f"{name}: no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise UnknownFormatError(f"{name}: FFmpeg has no decoder for its audio stream")
            yield _PyavReader(container, name, rate, Clock(exact))
        except AudioError:
            raise
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            raise UnknownFormatError(f"{name}: not audio that can be decoded ({reason_of(error)})") from error


class _Calm:
    """A file that goes to no position which it cannot have, where PyAV would print an exception."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.name = file, getattr(file, "name", "")
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """Return the new position; -1 if there is no such position."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


class _PyavReader:
    """Has the rate of the first frame, because some codecs decode to twice the rate in the header."""

    def __init__(self, container: "av.container.InputContainer", name: str, rate: int | None, clock: Clock) -> None:
        self.position, self.seeks = 0, False
        self.notes: list[Note] = []
        self._name, self._clock = name, clock
        self._frames = Frames(container)
        self._next = next(self._frames, None)
        if self._next is None:
            raise UnknownFormatError(f"{name}: not audio that can be decoded ({self._frames.broken or 'no sound'})")
        self.rate = rate or self._next.sound.sample_rate
        late = (self._next.stamp or 0.0) - _origin(container)
        if late > LATE_SECONDS:
            self.notes.append(Note(f"its sound begins at {late:.2f} s; times count from there"))
        self._declared, self._late = _declared_seconds(container), max(0.0, self._next.stamp or 0.0)
        # Matroska declares a time, not a length; some pieces of MP4 do so, too
        ends = "matroska" in container.format.name and self._late > LATE_SECONDS
        self.seconds = max(0.0, self._declared - self._late * ends) or _guessed_seconds(container)

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        for part in self._decoded():
            skip = max(0, first - self.position)
            self.position += len(part)
            waiting.append(part[skip:])
            if sum(map(len, waiting)) >= BLOCK_SAMPLES:
                yield _one(waiting)
                waiting = []
        if waiting:
            yield _one(waiting)
        self._note_the_end()

    def _note_the_end(self) -> None:
        if self._frames.broken:  # a packet at the very end
            self._note(f"the last part could not be decoded ({self._frames.broken})", 0.0)
        if left := self._frames.left_out():
            self.notes.append(Note(f"{left} bytes are no frames; left out, so that times after them are early"))
        if self._frames.unnamed:
            self.notes.append(Note("another stream begins later in the file; it was not read"))
        found = self.position / self.rate
        if found + self._late < self._declared - MAX_MISSING_SECONDS:
            self._note(f"cut short: {self._declared - self._late:.1f} s declared, {found:.1f} s found", float("inf"))

    def _note(self, text: str, seconds: float) -> None:
        at = self.position / self.rate
        self.notes.append(Note(text, at, at + seconds))

    def _decoded(self) -> Iterator[np.ndarray]:
        form: tuple[str, str, int] | None = None
        joined: Joined | None = None
        while (frame := self._next) is not None:
            self._next = next(self._frames, None)
            sound, hole = frame.sound, self._clock.hole(frame, self._next)
            if hole or frame.broken or sound.is_corrupt:
                yield from joined.kept() if joined else ()
                yield from self._fault(frame, hole)
            if form != (form := (sound.format.name, sound.layout.name, sound.sample_rate)) or joined is None:
                if joined is not None:
                    yield from joined.end()
                    self._note(f"the sound changes to {form[2]} Hz, {form[1]}; it was converted", 0.0)
                joined = Joined(sound, self.rate)
            yield from joined.add(sound)
        if joined is not None:
            yield from joined.end()

    def _fault(self, frame: Frame, hole: float) -> Iterator[np.ndarray]:
        """Yield silence in place of the seconds that are missing before a frame, and note what is wrong with it."""
        at = f"at {self.position / self.rate:.2f} s"
        if hole < 0:
            self._note(f"its time stamps go back by {-hole:.2f} s, as in joined files; read on without a gap", 0.0)
        elif hole > 0 or frame.broken:
            reason = f"could not be decoded ({frame.broken})" if frame.broken else "are missing"
            kept = self._clock.fill(hole)
            end = "; silent here" if kept and hole else "; left out, so that later times are early" if hole else ""
            self._note(f"{f'{hole:.2f} s' if hole else 'a part'} {at} {reason}{end}", hole if kept else 0.0)
            yield from silence(round(hole * self.rate) if kept else 0)
        if frame.sound.is_corrupt:
            self._note(f"{frame.seconds:.2f} s {at} are damaged", frame.seconds)


class Joined:
    """Joins frames of one form and converts them to mono, many at once: by frames, that costs more than to decode."""

    def __init__(self, frame: "av.AudioFrame", rate: int) -> None:
        import av

        channels = frame.layout.nb_channels
        # interleaved where PyAV would crash on planes
        form = "fltp" if channels <= MAX_PLANES else "flt"
        self._convert = av.AudioResampler(form, rate=rate if rate != frame.sample_rate else None)
        self._frames = av.AudioFifo()
        self._most = max(1, BLOCK_SAMPLES // channels)

    def add(self, frame: "av.AudioFrame") -> Iterator[np.ndarray]:
        """Keep a frame, and yield what is kept if that is enough."""
        frame.pts = None  # else the frames would have to follow each other without a gap
        self._frames.write(frame)
        if self._frames.samples >= self._most:
            yield from self.kept()

    def kept(self) -> Iterator[np.ndarray]:
        """Yield the samples of the frames that are kept."""
        frame = self._frames.read()
        if frame is not None:
            yield from map(_samples, self._convert.resample(frame))

    def end(self) -> Iterator[np.ndarray]:
        """Yield what is kept, and what the conversion between rates still holds."""
        yield from self.kept()
        yield from (_samples(part) for part in self._convert.resample(None) if part is not None)


def _one(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _samples(frame: "av.AudioFrame") -> np.ndarray:
    samples = frame.to_ndarray()
    return mono(samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels))


def _origin(container: "av.container.InputContainer") -> float:
    """Return the time in seconds at which a recording begins: that of its first stream in MPEG streams, else 0."""
    if container.format.name not in ("mpegts", "mpeg"):
        return 0.0
    starts = [s.start_time * (s.time_base or Fraction(0)) for s in container.streams if s.start_time is not None]
    return float(min(starts, default=Fraction(0)))


def _declared_seconds(container: "av.container.InputContainer") -> float:
    """Return the length that the header declares; 0 where it declares none, or FFmpeg guesses it from the bit rate."""
    stream = container.streams.audio[0]
    if "matroska" not in container.format.name and "mov" not in container.format.name:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tagged := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        return 3600 * int(tagged[1]) + 60 * int(tagged[2]) + float(tagged[3])
    audio_only = len(container.streams) == 1  # else the container's length may be that of a picture
    return container.duration / 1e6 if audio_only and container.duration else 0.0


def _guessed_seconds(container: "av.container.InputContainer") -> float:
    """Return the length that FFmpeg guesses from the bit rate, for planning; 0 where it does not guess."""
    stream = container.streams.audio[0]
    if container.format.name == "mpeg":
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6
