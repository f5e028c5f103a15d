"""One file or stream -> mono float32 at 16 kHz. The only file that knows containers and resampling."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from maeast_upstream.frontend import SAMPLE_RATE

if TYPE_CHECKING:
    import av
    import soundfile

PYAV_SUFFIXES = frozenset({".m4a", ".mp4", ".mkv", ".webm", ".aac", ".wma"})
"""Containers that libsndfile does not read."""
AUDIO_SUFFIXES = PYAV_SUFFIXES | {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".au",
}
"""What counts as audio when a folder is searched."""
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Sample rates outside are a broken header rather than a recording."""
MAX_CHANNELS = 1024
CUT_BYTES = 64
"""A header may promise so much too much, by padding."""
UNKNOWN_BYTES = 0x7FFF_0000
"""From here on, a header's length is what a program writes that could not know it, such as one in a pipe."""
PYAV_FORMATS = "mov,matroska,webm,aac,asf,mp3,ogg,wav,w64,flac,aiff,au,caf,amr,avi,flv,mpeg,mpegts,ac3,eac3,wv,ape,tta"
"""Containers that FFmpeg may open: none that is a list of other files or addresses, such as a playlist."""
CUT_SECONDS = 0.5
"""A container may promise so much too much: the padding of its codec."""
BLOCK_FRAMES = 1 << 20
"""Read at once, so that a header cannot ask for more memory than the file has audio."""

Source = Path | str | BinaryIO


class AudioError(ValueError):
    """An input that cannot be used, with its name and the reason."""


def read_audio(source: Source) -> np.ndarray:
    """Decode, mix to mono, resample to 16 kHz.

    A file is refused as cut short where its header or index promises more than is there. Ogg, MP3 without an index
    and live WebM promise nothing: of those, what is there is read.

    Args:
        source: a path, or a binary file object.

    Returns:
        (S,) float32, S at least 1, in about [-1, 1].

    Raises:
        AudioError: not audio, empty, cut short, no samples, NaN or infinite samples, an impossible rate.
    """
    name = str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "stream")
    if isinstance(source, (str, Path)):
        _check_path(Path(source))
    samples, rate = _decode(source, name)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz")
    if not len(samples):
        raise AudioError(f"{name}: no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: NaN or infinite samples; repair the recording or leave it out")
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    resampled: np.ndarray = soxr.resample(samples, rate, SAMPLE_RATE)
    if not len(resampled):
        raise AudioError(f"{name}: {len(samples)} samples at {rate} Hz are not one sample at {SAMPLE_RATE} Hz")
    return resampled.astype(np.float32, copy=False)


def find_audio(inputs: Iterable[Path | str]) -> list[Path]:
    """Files as they are given, folders searched for audio files at any depth; sorted inside a folder, no file twice.

    Raises:
        ValueError: a path does not exist, or a folder holds no audio.
    """
    found: dict[Path, None] = {}
    for item in map(Path, inputs):
        if item.is_dir():
            files = sorted(p for p in item.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            if not files:
                raise ValueError(f"{item}: a folder without audio; looked for {' '.join(sorted(AUDIO_SUFFIXES))}")
            found.update(dict.fromkeys(files))
        elif item.exists():
            found[item] = None
        else:
            raise ValueError(f"{item}: no such file or folder")
    return list(found)


def _check_path(path: Path) -> None:
    try:
        if path.is_dir():
            raise AudioError(f"{path}: a folder; expected an audio file")
        if not path.exists():
            raise AudioError(f"{path}: no such file")
        if not path.is_file():  # a pipe without a writer would wait for ever, /dev/zero would never end
            raise AudioError(f"{path}: a pipe or device; expected a file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror or error})") from error
    if empty:
        raise AudioError(f"{path}: empty file")


def _decode(source: Source, name: str) -> tuple[np.ndarray, int]:
    """Mono float32 samples and their rate: by libsndfile, else by FFmpeg's libraries (PyAV)."""
    import soundfile

    if isinstance(source, (str, Path)) and Path(source).suffix.lower() in PYAV_SUFFIXES:
        return _decode_pyav(source, name)
    # bytes, because soundfile cannot encode the names that POSIX allows and UTF-8 does not
    as_bytes = os.name == "posix" and isinstance(source, (str, Path))
    try:
        with soundfile.SoundFile(os.fsencode(source) if as_bytes else source) as file:  # type: ignore[arg-type]
            return _read_soundfile(file, name), file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        reason = re.sub(r"^Error opening .*: (?=[^:]*$)", "", str(error))
    if not isinstance(source, (str, Path)):
        source.seek(0)
    try:
        return _decode_pyav(source, name)
    except AudioError:
        raise AudioError(f"{name}: not audio that can be decoded ({reason})") from None


def _read_soundfile(file: "soundfile.SoundFile", name: str) -> np.ndarray:
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {file.channels} channels; expected 1 to {MAX_CHANNELS}")
    rows = max(1, BLOCK_FRAMES // file.channels)
    blocks = []
    while len(block := file.read(rows, dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1, dtype=np.float32))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    promised, there = _data_bytes(file.extra_info)
    if promised - there > CUT_BYTES and promised < UNKNOWN_BYTES:
        raise AudioError(f"{name}: cut short: its header promises {promised} bytes of samples, {there} are there")
    # libsndfile tells the length of compressed streams by looking at their end: off by a little where none was cut;
    # of an MP3 without an index it guesses it from the bit rate of the first frame
    guessed = file.format == "MP3" and re.search(r"bitrate mode\s*: constant", file.extra_info) is not None
    if not guessed and len(samples) < file.frames - max(file.samplerate // 10, 1):
        raise AudioError(f"{name}: cut short: {file.frames} samples promised, {len(samples)} there")
    return samples


def _data_bytes(log: str) -> tuple[int, int]:
    """Bytes of samples that an uncompressed file's header promises, and that are there, as libsndfile notes them."""
    found = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", log)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _decode_pyav(source: Source, name: str) -> tuple[np.ndarray, int]:
    import av

    with contextlib.ExitStack() as stack:
        try:
            # an opened file, because FFmpeg would take a name such as take:1.m4a for an address
            file = stack.enter_context(Path(source).open("rb")) if isinstance(source, (str, Path)) else source
            container = stack.enter_context(av.open(file, "r", options={"format_whitelist": PYAV_FORMATS}))
            if not container.streams.audio:
                raise AudioError(f"{name}: no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise AudioError(f"{name}: an audio stream that no decoder is known for")
            promised = _promised_seconds(container)
            samples, rate = _read_pyav(container)
        except AudioError:
            raise
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            raise AudioError(f"{name}: not audio that can be decoded ({_reason(error)})") from error
    if rate and len(samples) / rate < promised - CUT_SECONDS:
        raise AudioError(f"{name}: cut short: {promised:.1f} s promised, {len(samples) / rate:.1f} s there")
    return samples, rate


def _read_pyav(container: "av.container.InputContainer") -> tuple[np.ndarray, int]:
    """Mono samples, and the rate that they have: some codecs put out twice the rate that the header says."""
    import av

    planar = av.AudioResampler(format="fltp")  # format only: rate and channels stay
    rate = int(container.streams.audio[0].rate or 0)
    blocks = [np.zeros(0, np.float32)]
    for frame in container.decode(audio=0):
        rate = frame.sample_rate
        blocks += [part.to_ndarray().mean(axis=0, dtype=np.float32) for part in planar.resample(frame)]
    return np.concatenate(blocks), rate


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
