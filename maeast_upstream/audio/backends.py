"""Decodes containers and codecs by libsndfile or FFmpeg (PyAV): mono float32 blocks at the file's own sample rate."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

if TYPE_CHECKING:
    import av
    import soundfile

RAW_FORMATS = {".g722": "g722", ".gsm": "gsm"}
"""Telephone codecs without a header, which only the suffix of the file identifies."""
PYAV_SUFFIXES = RAW_FORMATS.keys() | {
    *(".m4a", ".m4b", ".mp4", ".m4v", ".m4r", ".mov", ".3gp", ".3g2", ".mkv", ".mka", ".webm", ".weba"),
    *(".avi", ".flv", ".f4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob"),
    *(".aac", ".wma", ".asf", ".wmv", ".amr", ".ac3", ".eac3", ".wv", ".ape", ".tta"),
}
"""Suffixes of containers that libsndfile does not read."""
MAX_CHANNELS = 1024
MAX_MISSING_BYTES = 64
"""A header may declare this much more than the file holds, because of padding."""
UNKNOWN_LENGTH_BYTES = 0x7FFF_0000
"""From here on, a length in a header is a placeholder of a program that did not know it, such as one in a pipe."""
PYAV_FORMATS = "mov,matroska,webm,aac,asf,mp3,ogg,wav,w64,flac,aiff,au,caf,amr,avi,flv,mpeg,mpegts,ac3,eac3,wv,ape,tta"
"""Containers that FFmpeg may open; lists of other files or addresses, such as playlists, are not among them."""
MAX_MISSING_SECONDS = 0.5
"""A container may declare this much more than it holds, because of the codec's padding."""
BLOCK_FRAMES = 1 << 16
"""Frames of a block. Reading by blocks keeps a header from asking for more memory than the file has audio."""
MAX_PLANES = 7
"""PyAV 18 expects a null pointer after the planes of a frame; after 8, the maximum, there is none."""
PYAV_BLOCK_SAMPLES = 1 << 16
"""Samples of a block. FFmpeg's own frames of about a thousand samples would cost more to resample than to decode."""
SEEK_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"})
SEEK_SUBTYPES = re.compile("PCM_|FLOAT|DOUBLE|ULAW|ALAW")
"""Formats in which libsndfile seeks to the exact sample. After a seek, Opus and MP3 decode to slightly other values,
and Vorbis to other audio."""

Source = Path | str | BinaryIO


class AudioError(ValueError):
    """An input cannot be used; the message has its name and the reason."""


class UnknownFormatError(AudioError):
    """The decoders do not know the format."""


class Reader(Protocol):
    """An opened audio file."""

    rate: int
    """Sample rate in Hz."""
    seeks: bool
    """Whether it can go to a sample without decoding those before it."""
    seconds: float
    """Length that the header declares, exact or nearly; 0 where it declares none."""
    notes: list[str]
    """What was noticed so far, as in `DecodedAudio.notes`."""

    @property
    def position(self) -> int:
        """Number of samples decoded so far."""

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Yield mono float32 samples from ``first`` on; may be called once.

        Raises:
            AudioError: At the end, if the file holds less than its header declares.
        """


@contextlib.contextmanager
def open_soundfile(source: Source, name: str) -> Iterator[Reader]:
    """Open a file by libsndfile.

    Raises:
        soundfile.LibsndfileError, RuntimeError, TypeError: libsndfile cannot read it; also raised by the reader.
    """
    import soundfile

    # as bytes, because soundfile cannot encode names that are not UTF-8
    as_bytes = os.name == "posix" and isinstance(source, (str, Path))
    with soundfile.SoundFile(os.fsencode(source) if as_bytes else source) as file:  # type: ignore[arg-type]
        if not 1 <= file.channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {file.channels} channels; expected 1 to {MAX_CHANNELS}")
        yield _SoundfileReader(file, name)


class _SoundfileReader:
    def __init__(self, file: "soundfile.SoundFile", name: str) -> None:
        self.rate: int = file.samplerate
        self.position = 0
        self.notes: list[str] = []
        self.seeks = _seeks_exactly(file)
        self.seconds = file.frames / file.samplerate
        self._file, self._name = file, name

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        file = self._file
        if first and self.seeks:
            self.position = file.seek(min(first, file.frames))
        rows = max(1, BLOCK_FRAMES // file.channels)
        while len(block := file.read(rows, dtype="float32", always_2d=True)):
            skip = max(0, first - self.position)
            self.position += len(block)
            if self.position > file.frames + self.rate and file.format != "MP3":  # some broken Opus files never end
                raise AudioError(f"{self._name}: broken: {file.frames} samples declared, {self.position} or more found")
            yield _mono(block[skip:])
        self._check_end()

    def _check_end(self) -> None:
        file, log = self._file, self._file.extra_info
        declared, found = _data_bytes(log)
        if declared - found > MAX_MISSING_BYTES and declared < UNKNOWN_LENGTH_BYTES:
            raise AudioError(f"{self._name}: cut short: {declared} bytes of samples declared, {found} found")
        # libsndfile finds the length of compressed streams near their end, off by a little in whole files; that of an
        # MP3 without an index it guesses from the bit rate of the first frame
        guessed = file.format == "MP3" and re.search(r"bitrate mode\s*: constant", log) is not None
        if not guessed and self.position < file.frames - max(self.rate // 10, 1):
            raise AudioError(f"{self._name}: cut short: {file.frames} samples declared, {self.position} found")


def _seeks_exactly(file: "soundfile.SoundFile") -> bool:
    return file.format == "FLAC" or (file.format in SEEK_FORMATS and SEEK_SUBTYPES.match(file.subtype) is not None)


def _mono(block: np.ndarray) -> np.ndarray:
    """Average the channels of (n, channels) samples to (n,).

    The columns are summed one by one, because numpy's mean over a short axis is 10 times slower.
    """
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0]
    total = block[:, 0].copy()
    for channel in range(1, channels):
        total += block[:, channel]
    total /= channels
    return total


def _data_bytes(log: str) -> tuple[int, int]:
    """Return the bytes of samples that the header of an uncompressed file declares, and those that libsndfile found."""
    found = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", log)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextlib.contextmanager
def open_pyav(source: Source, name: str) -> Iterator[Reader]:
    """Open a file by FFmpeg.

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
            container = stack.enter_context(av.open(file, "r", format=raw, options=options))
            if not container.streams.audio:
                raise UnknownFormatError(f"{name}: no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise UnknownFormatError(f"{name}: FFmpeg has no decoder for its audio stream")
            yield _PyavReader(container, name)
        except AudioError:
            raise
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            raise UnknownFormatError(f"{name}: not audio that can be decoded ({_reason(error)})") from error


class _PyavReader:
    """Has the rate of the first frame, because some codecs decode to twice the rate in the header."""

    def __init__(self, container: "av.container.InputContainer", name: str) -> None:
        self.position, self.seeks = 0, False
        self.notes: list[str] = []
        self._name, self.seconds = name, _declared_seconds(container)
        self._frames = iter(container.decode(audio=0))
        self._next = next(self._frames, None)
        self.rate = self._next.sample_rate if self._next else int(container.streams.audio[0].rate or 0)

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        for part in self._decoded():
            skip = max(0, first - self.position)
            self.position += len(part)
            waiting.append(part[skip:])
            if sum(map(len, waiting)) >= PYAV_BLOCK_SAMPLES:
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)
        if self.rate and self.position / self.rate < self.seconds - MAX_MISSING_SECONDS:
            seconds = self.position / self.rate
            raise AudioError(f"{self._name}: cut short: {self.seconds:.1f} s declared, {seconds:.1f} s found")

    def _decoded(self) -> Iterator[np.ndarray]:
        channels, convert = 0, None
        while self._next is not None:
            if self._next.sample_rate != self.rate:
                raise AudioError(
                    f"{self._name}: the sample rate changes from {self.rate} to {self._next.sample_rate} Hz"
                )
            if convert is None or self._next.layout.nb_channels != channels:
                channels = self._next.layout.nb_channels
                convert = _to_float(channels)
            for part in convert.resample(self._next):
                samples = part.to_ndarray()
                yield _mono(samples.T if part.format.is_planar else samples.reshape(-1, channels))
            self._next = next(self._frames, None)


def _to_float(channels: int) -> "av.AudioResampler":
    """Return a converter to float32 that keeps rate and channels, interleaved where PyAV would crash on planes."""
    import av

    return av.AudioResampler(format="fltp" if channels <= MAX_PLANES else "flt")


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


def _reason(error: BaseException) -> str:
    """Return FFmpeg's message without number and name."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
