"""One file or stream -> mono float32 at 16 kHz, whole or a stretch of it. With containers.py all that knows formats."""

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from maeast_upstream.audio.backends import (
    PYAV_SUFFIXES,
    AudioError,
    Reader,
    Source,
    UnknownFormatError,
    open_pyav,
    open_soundfile,
)
from maeast_upstream.audio.constants import SAMPLE_RATE, SAMPLES_PER_MS

__all__ = [
    "AUDIO_SUFFIXES",
    "PYAV_SUFFIXES",
    "AudioError",
    "Source",
    "find_audio",
    "promised_ms",
    "read_audio",
]

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
MARGIN_MS = 50
"""Read on both sides of a stretch that is resampled: soxr's filter reaches 10 ms at 44.1 kHz (2 ms of which matter)."""
LARGE_SAMPLES = 1 << 23
"""32 MiB: from here on malloc gives memory back to the system when it is freed; that of small blocks it may keep."""
LOUDEST = 1e10
"""Integers of 32 bits that somebody took for floats reach 2e9; from about 1e16 on a spectrum overflows."""
SHORT_MS = 100
"""A stretch may end so much past the end of its file: tables of segments are rounded."""


def read_audio(source: Source, start_ms: float | None = None, end_ms: float | None = None) -> np.ndarray:
    """Decode, mix to mono, resample to 16 kHz.

    A file is refused as cut short where its header or index promises more than is there. Ogg, MP3 without an index
    and live WebM promise nothing: of those, what is there is read. A stretch is the same samples as that slice of
    the whole (resampled: within 1e-5). Uncompressed files and FLAC are read from its start, the others decoded from
    their beginning, because decoding from the middle gives other samples; all only up to its end.

    Args:
        source: a path, or a binary file object.
        start_ms: where a stretch begins; None for the beginning.
        end_ms: where it ends, exclusive; None for the end. May lie up to 100 ms past the end of the file.

    Returns:
        (S,) float32, S at least 1, in about [-1, 1].

    Raises:
        AudioError: not audio, empty, cut short, no samples, NaN, infinite or impossibly loud samples, an
            impossible rate; a stretch that is not there, or that ends before it starts.
    """
    name = str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "stream")
    start = start_ms or 0.0
    if isinstance(source, (str, Path)):
        check_path(Path(source))
        if Path(source).suffix.lower() in PYAV_SUFFIXES:
            with open_pyav(source, name) as reader:
                return read_segment(reader, name, start, end_ms)
    return _read_either(source, name, start, end_ms)


def promised_ms(source: Source) -> float:
    """Length of a file in milliseconds as its header tells it, without decoding; 0 where it does not tell.

    Raises:
        AudioError: not audio, empty, or not there.
    """
    import soundfile

    name = str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "stream")
    if isinstance(source, (str, Path)):
        check_path(Path(source))
    if not (isinstance(source, (str, Path)) and Path(source).suffix.lower() in PYAV_SUFFIXES):
        try:
            with open_soundfile(source, name) as reader:
                return 1000.0 * reader.seconds
        except (soundfile.LibsndfileError, RuntimeError, TypeError):
            if not isinstance(source, (str, Path)):
                source.seek(0)
    with open_pyav(source, name) as reader:
        return 1000.0 * reader.seconds


def from_samples(samples: np.ndarray, rate: int) -> np.ndarray:
    """(S,) or (S, channels) decoded samples in [-1, 1] at ``rate`` Hz -> (S,) float32 mono at 16 kHz.

    Raises:
        AudioError: no samples, NaN, infinite or impossibly loud samples, an impossible rate.
    """
    _check_rate(rate, "samples")
    mono = np.asarray(samples, np.float32)
    mono = mono.mean(axis=1) if mono.ndim == 2 else mono
    if not len(mono):
        raise AudioError("samples: no samples")
    (mono,) = _finite(iter([mono]), "samples")
    return _join(_resample(iter([mono]), rate), 0, math.inf) if rate != SAMPLE_RATE else mono


def _check_rate(rate: int, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        # a container without one frame may not say its rate: it is empty rather than wrong
        raise AudioError(f"{name}: sample rate {rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz")


def _read_either(source: Source, name: str, start: float, end_ms: float | None) -> np.ndarray:
    """By libsndfile, else by FFmpeg."""
    import soundfile

    try:
        with open_soundfile(source, name) as reader:
            return read_segment(reader, name, start, end_ms)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        reason = re.sub(r"^Error opening .*: (?=[^:]*$)", "", str(error))
    if not isinstance(source, (str, Path)):
        source.seek(0)
    try:
        with open_pyav(source, name) as reader:
            return read_segment(reader, name, start, end_ms)
    except UnknownFormatError:
        raise AudioError(f"{name}: not audio that can be decoded ({reason})") from None


def check_path(path: Path) -> None:
    """AudioError for what is not a file with something in it."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path}: a folder; expected an audio file")
        if not stat.S_ISREG(mode):  # a pipe without a writer would wait for ever, /dev/zero would never end
            raise AudioError(f"{path}: a pipe or device; expected a file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        lost = os.path.islink(path)  # noqa: PTH114
        raise AudioError(f"{path}: {'a link to a file that is not there' if lost else 'no such file'}") from None
    except AudioError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise AudioError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if empty:
        raise AudioError(f"{path}: empty file")


def read_segment(reader: Reader, name: str, start: float, end_ms: float | None) -> np.ndarray:
    """A stretch of an opened file, resampled, checked: `read_audio` says how."""
    end = math.inf if end_ms is None else end_ms
    if not 0 <= start < end:
        raise AudioError(f"{name}: a stretch from {start:.10g} to {end:.10g} ms; expected 0 <= start < end")
    rate = reader.rate
    _check_rate(rate, name)
    first = round(start * SAMPLES_PER_MS)
    stop = math.inf if end == math.inf else max(first + 1, round(end * SAMPLES_PER_MS))
    # the stretch is resampled on the whole file's grid: from a sample that both rates share
    together = math.gcd(rate, SAMPLE_RATE)
    margin = 0 if rate == SAMPLE_RATE else MARGIN_MS * SAMPLES_PER_MS
    shared = max(0, first - margin) // (SAMPLE_RATE // together)
    from_own, from_16k = shared * (rate // together), shared * (SAMPLE_RATE // together)
    count = stop if stop == math.inf else math.ceil((stop + margin) * rate / SAMPLE_RATE) - from_own
    blocks = _finite(_at_most(count, reader.blocks(from_own)), name)
    if rate != SAMPLE_RATE:
        blocks = _resample(blocks, rate)
    samples = _join(blocks, first - from_16k, stop - from_16k)
    if first or stop < math.inf:
        _check_segment(len(samples), first, stop, reader, name)
    elif not reader.place:
        raise AudioError(f"{name}: no samples")
    elif not len(samples):
        raise AudioError(f"{name}: {reader.place} samples at {rate} Hz are not one sample at {SAMPLE_RATE} Hz")
    return samples


def _check_segment(length: int, first: int, stop: float, reader: Reader, name: str) -> None:
    there = f"{1000 * reader.place / reader.rate:.0f} ms"
    if not length:
        raise AudioError(
            f"{name}: {there} long; a stretch that starts at {first / SAMPLES_PER_MS:.10g} ms is not there"
        )
    if stop < math.inf and stop - first - length > SHORT_MS * SAMPLES_PER_MS:
        raise AudioError(f"{name}: {there} long, too short for a stretch that ends at {stop / SAMPLES_PER_MS:.10g} ms")


def _at_most(count: float, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """``count`` samples; then the file is left as it is, whatever its end is like."""
    for block in blocks:
        yield block if len(block) <= count else block[: int(count)]
        count -= len(block)
        if count <= 0:
            return


def _finite(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    for block in blocks:
        if len(block) and not -LOUDEST <= block.min() <= block.max() <= LOUDEST:  # NaN is in no order
            peak = max(-block.min(), block.max())
            told = (
                f"samples up to {peak:.2g}; expected about -1 to 1" if np.isfinite(peak) else "NaN or infinite samples"
            )
            raise AudioError(f"{name}: {told}; repair the recording or leave it out")
        yield block


def _resample(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _join(blocks: Iterator[np.ndarray], first: int, stop: float) -> np.ndarray:
    """Samples ``first`` to ``stop`` of the blocks; never all of them twice in memory."""
    kept: list[np.ndarray] = []
    small, small_samples, place = 0, 0, 0
    for block in blocks:
        kept.append(block[max(0, first - place) : int(max(0, min(len(block), stop - place)))])
        place += len(block)
        small, small_samples = small + 1, small_samples + len(kept[-1])
        if small_samples >= LARGE_SAMPLES:
            kept[-small:] = [np.concatenate(kept[-small:])]
            small = small_samples = 0
    joined = np.empty(sum(map(len, kept)), np.float32)
    place = len(joined)
    while kept:
        last = kept.pop()
        joined[place - len(last) : place] = last
        place -= len(last)
    return joined


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
