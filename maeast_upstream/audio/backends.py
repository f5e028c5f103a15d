"""Containers and codecs: mono float32 blocks at the file's own rate, by libsndfile or FFmpeg's libraries (PyAV)."""

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
"""Telephone codecs without any header: known by the file's suffix only."""
PYAV_SUFFIXES = frozenset({".m4a", ".mp4", ".mkv", ".webm", ".aac", ".wma"}) | RAW_FORMATS.keys()
"""Containers that libsndfile does not read."""
MAX_CHANNELS = 1024
CUT_BYTES = 64
"""A header may promise so much too much, by padding."""
UNKNOWN_BYTES = 0x7FFF_0000
"""From here on, a header's length is what a program writes that could not know it, such as one in a pipe."""
PYAV_FORMATS = "mov,matroska,webm,aac,asf,mp3,ogg,wav,w64,flac,aiff,au,caf,amr,avi,flv,mpeg,mpegts,ac3,eac3,wv,ape,tta"
"""Containers that FFmpeg may open: none that is a list of other files or addresses, such as a playlist."""
CUT_SECONDS = 0.5
"""A container may promise so much too much: the padding of its codec."""
BLOCK_FRAMES = 1 << 16
"""Read at once, so that a header cannot ask for more memory than the file has audio; small enough for the cache."""
MAX_PLANES = 7
"""PyAV 18 looks for a null pointer behind a frame's planes; behind the 8 that a frame has room for there is none."""
PYAV_BLOCK_SAMPLES = 1 << 16
"""FFmpeg gives some thousand samples at a time; resampling these one by one would cost more than decoding them."""
SEEK_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"})
SEEK_SUBTYPES = re.compile("PCM_|FLOAT|DOUBLE|ULAW|ALAW")
"""Where libsndfile seeks to the sample. Measured elsewhere: after a seek Opus and MP3 decode to slightly other values,
and Vorbis to other audio."""

Source = Path | str | BinaryIO


class AudioError(ValueError):
    """An input that cannot be used, with its name and the reason."""


class UnknownFormatError(AudioError):
    """Nothing that the decoders know."""


class Reader(Protocol):
    """An opened file."""

    rate: int
    """Samples a second."""
    seeks: bool
    """Whether it goes to a sample without decoding what lies before."""
    seconds: float
    """Length as the header tells it, exact or nearly; 0 where it does not."""

    @property
    def place(self) -> int:
        """Samples passed so far, at that rate."""

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Mono float32 samples from ``first`` on, once; AudioError at the end if more was promised than came."""


@contextlib.contextmanager
def open_soundfile(source: Source, name: str) -> Iterator[Reader]:
    """Raises soundfile.LibsndfileError, RuntimeError or TypeError where libsndfile cannot, also while it reads."""
    import soundfile

    # bytes, because soundfile cannot encode the names that POSIX allows and UTF-8 does not
    as_bytes = os.name == "posix" and isinstance(source, (str, Path))
    with soundfile.SoundFile(os.fsencode(source) if as_bytes else source) as file:  # type: ignore[arg-type]
        if not 1 <= file.channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {file.channels} channels; expected 1 to {MAX_CHANNELS}")
        yield _SoundfileReader(file, name)


class _SoundfileReader:
    def __init__(self, file: "soundfile.SoundFile", name: str) -> None:
        self.rate: int = file.samplerate
        self.place = 0
        self.seeks = _seeks_to_the_sample(file)
        self.seconds = file.frames / file.samplerate
        self._file, self._name = file, name

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        file = self._file
        if first and self.seeks:
            self.place = file.seek(min(first, file.frames))
        rows = max(1, BLOCK_FRAMES // file.channels)
        while len(block := file.read(rows, dtype="float32", always_2d=True)):
            skip = max(0, first - self.place)
            self.place += len(block)
            if self.place > file.frames + self.rate and file.format != "MP3":  # some broken Opus never ends
                raise AudioError(f"{self._name}: broken: {file.frames} samples promised, {self.place} and more come")
            yield _mono(block[skip:])
        self._check_end()

    def _check_end(self) -> None:
        file, log = self._file, self._file.extra_info
        promised, there = _data_bytes(log)
        if promised - there > CUT_BYTES and promised < UNKNOWN_BYTES:
            raise AudioError(
                f"{self._name}: cut short: its header promises {promised} bytes of samples, {there} are there"
            )
        # libsndfile tells the length of compressed streams by looking at their end: off by a little where none was
        # cut; of an MP3 without an index it guesses it from the bit rate of the first frame
        guessed = file.format == "MP3" and re.search(r"bitrate mode\s*: constant", log) is not None
        if not guessed and self.place < file.frames - max(self.rate // 10, 1):
            raise AudioError(f"{self._name}: cut short: {file.frames} samples promised, {self.place} there")


def _seeks_to_the_sample(file: "soundfile.SoundFile") -> bool:
    return file.format == "FLAC" or (file.format in SEEK_FORMATS and SEEK_SUBTYPES.match(file.subtype) is not None)


def _mono(block: np.ndarray) -> np.ndarray:
    """(n, channels) -> (n,) their mean; summed by column, because numpy's mean over a short axis is 10 times slower."""
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0]
    total = block[:, 0].copy()
    for channel in range(1, channels):
        total += block[:, channel]
    total /= channels
    return total


def _data_bytes(log: str) -> tuple[int, int]:
    """Bytes of samples that an uncompressed file's header promises, and that are there, as libsndfile notes them."""
    found = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", log)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextlib.contextmanager
def open_pyav(source: Source, name: str) -> Iterator[Reader]:
    """Raises AudioError, also while it reads; `UnknownFormatError` where FFmpeg finds nothing that it knows."""
    import av

    with contextlib.ExitStack() as stack:
        try:
            # an opened file, because FFmpeg would take a name such as take:1.m4a for an address
            file = stack.enter_context(Path(source).open("rb")) if isinstance(source, (str, Path)) else source
            raw = RAW_FORMATS.get(Path(source).suffix.lower()) if isinstance(source, (str, Path)) else None
            options = {"format_whitelist": raw or PYAV_FORMATS}
            container = stack.enter_context(av.open(file, "r", format=raw, options=options))
            if not container.streams.audio:
                raise UnknownFormatError(f"{name}: no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise UnknownFormatError(f"{name}: an audio stream that no decoder is known for")
            yield _PyavReader(container, name)
        except AudioError:
            raise
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            raise UnknownFormatError(f"{name}: not audio that can be decoded ({_reason(error)})") from error


class _PyavReader:
    """Its rate is that of the first frame: some codecs put out twice the rate that the header says."""

    def __init__(self, container: "av.container.InputContainer", name: str) -> None:
        self.place, self.seeks = 0, False
        self._name, self.seconds = name, _promised_seconds(container)
        self._frames = iter(container.decode(audio=0))
        self._next = next(self._frames, None)
        self.rate = self._next.sample_rate if self._next else int(container.streams.audio[0].rate or 0)

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        for part in self._parts():
            skip = max(0, first - self.place)
            self.place += len(part)
            waiting.append(part[skip:])
            if sum(map(len, waiting)) >= PYAV_BLOCK_SAMPLES:
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)
        if self.rate and self.place / self.rate < self.seconds - CUT_SECONDS:
            seconds = self.place / self.rate
            raise AudioError(f"{self._name}: cut short: {self.seconds:.1f} s promised, {seconds:.1f} s there")

    def _parts(self) -> Iterator[np.ndarray]:
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
    """Converts the format only: rate and channels stay.

    Interleaved where PyAV crashes on planes, such as 7.1.
    """
    import av

    return av.AudioResampler(format="fltp" if channels <= MAX_PLANES else "flt")


def _promised_seconds(container: "av.container.InputContainer") -> float:
    """Length that the header gives the audio; 0 where it gives none, or FFmpeg guesses it from the bit rate."""
    stream = container.streams.audio[0]
    if "matroska" not in container.format.name and "mov" not in container.format.name:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tagged := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        return 3600 * int(tagged[1]) + 60 * int(tagged[2]) + float(tagged[3])
    alone = len(container.streams) == 1  # beside a picture, the container's length may be the picture's
    return container.duration / 1e6 if alone and container.duration else 0.0


def _reason(error: BaseException) -> str:
    """What FFmpeg says, without number and name."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
