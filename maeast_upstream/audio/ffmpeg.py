"""Decodes containers and codecs by FFmpeg (PyAV): whatever of a file can be decoded, each part at its time."""

import contextlib
import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.audio.backends import (
    MAX_GAP_SECONDS,
    RAW_FORMATS,
    AudioError,
    Note,
    Reader,
    Source,
    UnknownFormatError,
    mono,
    silence,
)

if TYPE_CHECKING:
    import av

PYAV_FORMATS = "mov,matroska,webm,aac,asf,mp3,ogg,wav,w64,flac,aiff,au,caf,amr,avi,flv,mpeg,mpegts,ac3,eac3,wv,ape,tta"
"""Containers that FFmpeg may open; lists of other files or addresses, such as playlists, are not among them."""
MAX_MISSING_SECONDS = 0.5
"""A container may declare this much more than it holds, because of the codec's padding."""
MAX_PLANES = 7
"""PyAV 18 expects a null pointer after the planes of a frame; after 8, the maximum, there is none."""
BLOCK_SAMPLES = 1 << 16
"""Samples of a block. FFmpeg's own frames of about a thousand samples would cost more to resample than to decode."""
MAX_FAULTS = 1000
"""Faults of a container after which the rest of the file is not tried; a broken packet is no fault of the container."""
RAW_STREAMS = frozenset({"aac", "ac3", "eac3", "mp3"})
"""Containers without time stamps: FFmpeg counts packets, and adds what is broken to one of them."""
JITTER_SECONDS = 0.005
"""Containers round time stamps to ms: a smaller step between two frames is no hole."""
HOLE_SECONDS = 0.05
"""Holes in the time stamps are filled when they add up to this; at once where a packet could not be decoded."""
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
            file = stack.enter_context(Path(source).open("rb")) if isinstance(source, (str, Path)) else source
            raw = RAW_FORMATS.get(Path(source).suffix.lower()) if isinstance(source, (str, Path)) else None
            options = {"format_whitelist": raw or PYAV_FORMATS}
            container = stack.enter_context(av.open(file, "r", format=raw or form, options=options))
            if not container.streams.audio:
                raise UnknownFormatError(f"{name}: no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise UnknownFormatError(f"{name}: FFmpeg has no decoder for its audio stream")
            yield _PyavReader(container, name, rate, _Clock(exact))
        except AudioError:
            raise
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            raise UnknownFormatError(f"{name}: not audio that can be decoded ({_reason(error)})") from error


class _PyavReader:
    """Has the rate of the first frame, because some codecs decode to twice the rate in the header."""

    def __init__(self, container: "av.container.InputContainer", name: str, rate: int | None, clock: "_Clock") -> None:
        self.position, self.seeks = 0, False
        self.notes: list[Note] = []
        self._name, self._clock = name, clock
        self._frames = _Frames(container)
        self._next = next(self._frames, None)
        if self._next is None:
            raise UnknownFormatError(f"{name}: not audio that can be decoded ({self._frames.broken or 'no sound'})")
        self.rate = rate or self._next.sample_rate
        self._origin = _origin(container)
        self._declared, self._late = _declared_seconds(container), max(0.0, self._stamp(self._next) or 0.0)
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
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)
        self._note_the_end()

    def _note_the_end(self) -> None:
        if self._frames.broken:  # a packet at the very end
            self._note(f"the last part could not be decoded ({self._frames.broken})", 0.0)
        if left := self._frames.left_out():
            self.notes.append(Note(f"{left} bytes are no frames; left out, so that times after them are early"))
        found = self.position / self.rate
        if found + self._late < self._declared - MAX_MISSING_SECONDS:
            self._note(f"cut short: {self._declared - self._late:.1f} s declared, {found:.1f} s found", float("inf"))

    def _note(self, text: str, seconds: float) -> None:
        at = self.position / self.rate
        self.notes.append(Note(text, at, at + seconds))

    def _decoded(self) -> Iterator[np.ndarray]:
        form: tuple[str, str, int] | None = None
        convert: av.AudioResampler | None = None
        while self._next is not None:
            yield from self._hole(self._next)
            if self._next.is_corrupt:
                seconds = self._next.samples / self._next.sample_rate
                self._note(f"{seconds:.2f} s at {self.position / self.rate:.2f} s are damaged", seconds)
            if form != (form := (self._next.format.name, self._next.layout.name, self._next.sample_rate)):
                if convert is not None:
                    yield from _flush(convert)
                    self._note(f"the sound changes to {form[2]} Hz, {form[1]}; it was converted", 0.0)
                convert = _to_float(self._next, self.rate)
            for part in convert.resample(self._next) if convert else ():
                yield _samples(part)
            self._next = next(self._frames, None)
        if convert is not None:
            yield from _flush(convert)

    @staticmethod
    def _stamp(frame: "av.AudioFrame") -> float | None:
        return None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)

    def _hole(self, frame: "av.AudioFrame") -> Iterator[np.ndarray]:
        """Yield silence in place of what is missing before a frame."""
        broken, self._frames.broken = self._frames.broken, ""
        stamp = self._stamp(frame)
        first = self._clock.expected is None
        seconds = frame.samples / frame.sample_rate
        hole = self._clock.hole(stamp, seconds, bool(broken))
        hole += seconds * self._frames.lost
        self._frames.lost = 0
        if first and stamp is not None and stamp - self._origin > LATE_SECONDS:
            late = stamp - self._origin
            self.notes.append(Note(f"its sound begins at {late:.2f} s; times count from there"))
        if hole < 0:
            self._note(f"its time stamps go back by {-hole:.2f} s, as in joined files; read on without a gap", 0.0)
        elif hole > 0 or broken:
            reason = f"could not be decoded ({broken})" if broken else "are missing"
            kept = hole <= MAX_GAP_SECONDS - self._clock.filled
            end = "; silent here" if kept and hole else "; left out, so that later times are early" if hole else ""
            part = f"{hole:.2f} s" if hole else "a part"
            self._note(f"{part} at {self.position / self.rate:.2f} s {reason}{end}", hole if kept else 0.0)
            if kept:
                self._clock.filled += hole
                yield from silence(round(hole * self.rate))


class _Frames:
    """Iterates over the decoded frames of the first audio stream, beyond what is broken."""

    def __init__(self, container: "av.container.InputContainer") -> None:
        self.broken = ""
        """Why packets since the previous frame could not be decoded; the reader empties it."""
        self._container, self._faults = container, 0
        self._flac_block = 0
        self._sizes: deque[int] = deque(maxlen=100)
        self.lost = 0
        """Packets that are missing by their size, where there are no time stamps; the reader empties it."""
        self._first: int | None = None
        self._bytes = 0
        self._frames = self._decoded()

    def __iter__(self) -> Iterator["av.AudioFrame"]:
        return self._frames

    def __next__(self) -> "av.AudioFrame":
        return next(self._frames)

    def _decoded(self) -> Iterator["av.AudioFrame"]:
        import av

        for packet in self._packets():
            if packet.size and packet.pos is not None:
                self._first = packet.pos if self._first is None else self._first
                self._bytes += packet.size
            try:
                frames = packet.decode()
            except av.EOFError:
                continue
            except (av.FFmpegError, ValueError) as error:
                self.broken = _reason(error)
                if self._container.format.name in RAW_STREAMS and self._sizes:
                    self.lost += max(0, round(packet.size * len(self._sizes) / sum(self._sizes)) - 1)
                continue
            self._sizes.append(packet.size)
            for frame in frames:
                if isinstance(frame, av.AudioFrame) and frame.samples:
                    self._stamp(packet, frame)
                    yield frame

    def left_out(self) -> int:
        """Return how many bytes FFmpeg left out between packets, in a stream that consists of them; 0 if few."""
        left = (self._container.size or 0) - (self._first or 0) - self._bytes
        few = 2 * sum(self._sizes) / max(1, len(self._sizes))
        return left if self._container.format.name in RAW_STREAMS and left > few else 0

    def _stamp(self, packet: "av.Packet[av.AudioStream]", frame: "av.AudioFrame") -> None:
        """Give a frame of a FLAC file its own time, because FFmpeg's is wrong in damaged files."""
        if self._container.format.name == "flac":
            self._flac_block = self._flac_block or frame.samples
            number = flac_sample(bytes(packet)[:16], self._flac_block)
            frame.pts, frame.time_base = number, Fraction(1, frame.sample_rate)

    def _packets(self) -> Iterator["av.Packet[av.AudioStream]"]:
        import av

        while self._faults < MAX_FAULTS:
            try:
                yield from self._container.demux(audio=0)
                return
            except (av.FFmpegError, ValueError) as error:
                self.broken = _reason(error)
                self._faults += 1


class _Clock:
    """Compares the time stamps of frames with the sound before them."""

    def __init__(self, exact: bool) -> None:
        self.expected: float | None = 0.0 if exact else None
        """Time stamp that the next frame has if nothing is missing; None before the first."""
        self._least = JITTER_SECONDS if exact else HOLE_SECONDS
        self.filled = 0.0
        """Silence so far in seconds."""
        self._behind = 0.0
        """How much later the last frame is in its time stamps than in the decoded samples, in seconds."""

    def hole(self, stamp: float | None, seconds: float, broken: bool) -> float:
        """Return how many seconds are missing before a frame; 0 if nothing, negative if its time stamp goes back.

        Args:
            stamp: Time stamp of the frame; None if it has none.
            seconds: Length of the frame.
            broken: Whether something before it could not be decoded.
        """
        if self.expected is None:
            self.expected = (stamp or 0.0) + seconds
            return 0.0
        step = 0.0 if stamp is None else stamp - self.expected
        self.expected += step + seconds
        self._behind += step
        if self._behind < -1.0:
            behind, self._behind = self._behind, 0.0
            return behind
        if step > JITTER_SECONDS and self._behind > (JITTER_SECONDS if broken else self._least):
            behind, self._behind = self._behind, 0.0
            return behind
        return 0.0


def flac_sample(header: bytes, block: int) -> int | None:
    """Return the number of the first sample of a FLAC frame (RFC 9639, section 9.1); None if it is broken.

    Args:
        header: The first bytes of the frame.
        block: Samples of the frames of the file, where all but the last have the same number.
    """
    if len(header) < 11 or header[0] != 0xFF or header[1] & 0xFE != 0xF8:
        return None
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # coded as UTF-8, by up to 7 bytes
    number = header[4] & (0x7F >> ones)
    for byte in header[5 : 4 + ones]:
        number = number << 6 | byte & 0x3F
    return number if header[1] & 1 else number * block


def _to_float(frame: "av.AudioFrame", rate: int) -> "av.AudioResampler":
    """Return a converter to float32 that keeps the channels, interleaved where PyAV would crash on planes."""
    import av

    planes = frame.layout.nb_channels <= MAX_PLANES
    return av.AudioResampler("fltp" if planes else "flt", rate=rate if rate != frame.sample_rate else None)


def _flush(convert: "av.AudioResampler") -> Iterator[np.ndarray]:
    """Yield what a converter between rates still holds."""
    yield from (_samples(part) for part in convert.resample(None) if part is not None)


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


def _reason(error: BaseException) -> str:
    """Return FFmpeg's message without number and name."""
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return "Invalid data" if reason.startswith("Error number") else reason
