"""Reads a file or stream, whole or a segment of it, as mono float32 samples at 16 kHz."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from maeast_upstream.audio.backends import PYAV_SUFFIXES, AudioError, Note, Reader, Source
from maeast_upstream.audio.constants import MAX_HOURS, MAX_MS, SAMPLE_RATE, SAMPLES_PER_MS
from maeast_upstream.audio.files import AUDIO_SUFFIXES, check_path, find_audio
from maeast_upstream.audio.joining import Join, cut, join_in_memory
from maeast_upstream.audio.opening import open_audio
from maeast_upstream.display import without_secrets
from maeast_upstream.storage.remote import is_remote

__all__ = [
    "AUDIO_SUFFIXES",
    "PYAV_SUFFIXES",
    "AudioError",
    "AudioWarning",
    "DecodedAudio",
    "Source",
    "TooLongError",
    "decode_audio",
    "duration_ms",
    "find_audio",
    "read_audio",
    "within_hours",
]

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Range of sample rates in Hz; others come from broken headers."""
RESAMPLING_MARGIN_MS, RESAMPLING_MARGIN_SAMPLES = 50, 400
"""Audio that is read on both sides of a resampled segment, at least; soxr's filter reaches 10 ms at 44.1 kHz, and
hundreds of samples of low rates."""
MAX_AMPLITUDE = 1e10
"""Largest sample that is accepted: 32-bit integers read as floats reach 2e9; from about 1e16 a spectrum overflows."""
MAX_OVERRUN_MS, MAX_OVERRUN_SHARE = 1000.0, 0.1
"""A segment may end this long, or this share of itself, after the end of its file; it is cut there."""
ROUNDING_MS = 20.0
"""Up to this long, that is not noted, because times in tables are rounded."""
TOLERANCE_SAMPLES = SAMPLE_RATE
"""Audio beyond a limit of hours that is accepted: encoders fill up their last frame, and clocks differ."""
MAX_NOTES = 10
"""Notes of one segment; more are only counted."""


class TooLongError(AudioError):
    """Audio is longer than the limit."""


class AudioWarning(UserWarning):
    """A file was read, but not as its header describes it; the message names the file and what was noticed."""


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """The samples of a file or a segment, and what was noticed while they were decoded."""

    samples: np.ndarray
    """(S,) float32 at 16 kHz, S at least 1."""
    notes: tuple[str, ...] = ()
    """Where content and header disagree, or what could not be read; each in one line without the name of the file."""


def read_audio(
    source: Source, start_ms: float | None = None, end_ms: float | None = None, join: Join = join_in_memory
) -> np.ndarray:
    """Decode a file or a segment of it, as `decode_audio`, and give its notes as warnings.

    Returns:
        (S,) float32 samples at 16 kHz, S at least 1, in about [-1, 1].

    Raises:
        AudioError: As `decode_audio`; or there are more samples than of `MAX_HOURS`.

    Warns:
        AudioWarning: One for each note of `decode_audio`.
    """
    name = _name(source)
    decoded = decode_audio(source, start_ms, end_ms, lambda blocks: join(within_hours(blocks, MAX_HOURS, name)))
    for note in decoded.notes:
        warnings.warn(f"{name}: {note}", AudioWarning, stacklevel=2)
    return decoded.samples


def decode_audio(
    source: Source, start_ms: float | None = None, end_ms: float | None = None, join: Join = join_in_memory
) -> DecodedAudio:
    """Decode a file or a segment of it, mix it to mono and resample it to 16 kHz.

    A file is read to the end of what it holds, whatever its header declares; what cannot be decoded between two parts
    that can, or is missing by the time stamps, is silent. Notes name that, and where header and content disagree. The
    samples of a segment equal that slice of the whole
    file, within 1e-5 if they are resampled. Uncompressed files and FLAC are read from the segment's start; others are
    decoded from their beginning, because decoding from the middle gives other samples. Nothing after the segment is
    read.

    Args:
        source: A path, or a binary file object.
        start_ms: Start of the segment; None for the beginning of the file.
        end_ms: Its end, exclusive; None for the end of the file. It may lie 1 s, or a tenth of the segment, after the
            end of the file; the segment ends there then.
        join: Joins the decoded blocks; it may keep them elsewhere than in memory, pass them on, or refuse too many.

    Returns:
        The samples, in about [-1, 1], and what was noticed while they were decoded.

    Raises:
        AudioError: The file is not audio, empty or without samples; its samples are NaN, infinite or
            impossibly loud, or its rate is impossible; the segment lies outside the file or ends before it starts.
    """
    if not (isinstance(source, (str, Path)) or hasattr(source, "read")):
        raise AudioError(f"expected a path or a binary file, got {type(source).__name__}")
    if not all(value is None or isinstance(value, Real) for value in (start_ms, end_ms)):
        raise AudioError(f"start_ms and end_ms are numbers of milliseconds, got {start_ms!r:.40} and {end_ms!r:.40}")
    if isinstance(source, str):
        source = source.removeprefix("file://")
        if not source or is_remote(source):
            fault = "an address; maeast_upstream.extract.embed_files reads it" if source else "an empty path"
            raise AudioError(without_secrets(f"{source}: {fault}", source).removeprefix(": "))
    name = _name(source)
    start = start_ms or 0.0
    if isinstance(source, (str, Path)):
        check_path(Path(source))
    with open_audio(source, name) as reader:
        return read_opened(reader, name, start, end_ms, join)


def _name(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "stream")


def duration_ms(source: Source) -> float:
    """Return the length of a file in ms that its header declares, without decoding it; 0 where it declares none.

    Raises:
        AudioError: The file is not audio, is empty or does not exist.
    """
    name = _name(source)
    if isinstance(source, (str, Path)):
        check_path(Path(source))
    with open_audio(source, name, only_header=True) as reader:
        return 1000.0 * reader.seconds


def from_samples(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mix (S,) or (S, channels) samples in [-1, 1] at ``rate`` Hz to mono and resample them: (S,) float32 at 16 kHz.

    Raises:
        AudioError: There are no samples; or they are NaN, infinite or impossibly loud; or the rate is impossible.
    """
    _check_rate(rate, "samples")
    mono = np.asarray(samples, np.float32)
    mono = mono.mean(axis=1) if mono.ndim == 2 else mono
    if not len(mono):
        raise AudioError("samples: no samples")
    (mono,) = _checked(iter([mono]), "samples")
    return join_in_memory(_resample(iter([mono]), rate)) if rate != SAMPLE_RATE else mono


def _check_rate(rate: int, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        # also for a container without any frame, which declares no rate
        raise AudioError(f"{name}: sample rate {rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz")


def read_opened(
    reader: Reader, name: str, start: float, end_ms: float | None, join: Join = join_in_memory
) -> DecodedAudio:
    """Read a segment of an opened file, as `decode_audio` does."""
    end = math.inf if end_ms is None else end_ms
    if not 0 <= start < end or MAX_MS < end < math.inf:
        expected = f"0 <= start < end <= {MAX_MS:g}"
        raise AudioError(f"{name}: a segment from {start:.10g} to {end:.10g} ms; expected {expected}")
    rate = reader.rate
    _check_rate(rate, name)
    first = round(start * SAMPLES_PER_MS)
    stop = math.inf if end == math.inf else max(first + 1, round(end * SAMPLES_PER_MS))
    # the segment is resampled on the grid of the whole file: from a sample that both rates share
    common = math.gcd(rate, SAMPLE_RATE)
    margin_ms = max(RESAMPLING_MARGIN_MS, math.ceil(1000 * RESAMPLING_MARGIN_SAMPLES / rate))
    margin = 0 if rate == SAMPLE_RATE else margin_ms * SAMPLES_PER_MS
    shared = max(0, first - margin) // (SAMPLE_RATE // common)
    from_native, from_16k = shared * (rate // common), shared * (SAMPLE_RATE // common)
    count = stop if stop == math.inf else math.ceil((stop + margin) * rate / SAMPLE_RATE) - from_native
    blocks = _checked(_at_most(count, reader.blocks(from_native)), name)
    if rate != SAMPLE_RATE:
        blocks = _resample(blocks, rate)
    length = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal length
        for block in cut(blocks, first - from_16k, stop - from_16k):
            length += len(block)
            yield block

    samples = join(counted())
    notes = list(_notes(reader.notes, start / 1000, end / 1000))
    if first or stop < math.inf:
        notes += _overrun(length, first, stop, reader, name)
    elif not reader.position:
        raise AudioError(f"{name}: no samples{''.join(f'; {note}' for note in notes[:1])}")
    elif not length:
        raise AudioError(f"{name}: {reader.position} samples at {rate} Hz are not one sample at {SAMPLE_RATE} Hz")
    return DecodedAudio(samples, tuple(notes))


def _notes(notes: list[Note], start: float, end: float) -> Iterator[str]:
    """Yield the notes that concern the seconds from ``start`` to ``end``."""
    texts = [note.text for note in notes if note.start < end and (note.stop > start or note.start >= start)]
    yield from texts[:MAX_NOTES]
    if len(texts) > MAX_NOTES:
        yield f"and {len(texts) - MAX_NOTES} more notes of this kind"


def _overrun(length: int, first: int, stop: float, reader: Reader, name: str) -> Iterator[str]:
    """Yield a note, or raise AudioError, if a segment of ``length`` samples ends before sample ``stop``."""
    duration = f"{1000 * reader.position / reader.rate:.0f} ms"
    if not length:
        raise AudioError(f"{name}: {duration} long; a segment cannot start at {first / SAMPLES_PER_MS:.10g} ms")
    if stop == math.inf:
        return
    overrun = (stop - first - length) / SAMPLES_PER_MS
    if overrun > max(MAX_OVERRUN_MS, MAX_OVERRUN_SHARE * (stop - first) / SAMPLES_PER_MS):
        raise AudioError(f"{name}: {duration} long; a segment cannot end at {stop / SAMPLES_PER_MS:.10g} ms")
    if overrun > ROUNDING_MS:
        yield f"the segment ends {overrun:.0f} ms after the end of its file, at {duration}; it was cut there"


def within_hours(blocks: Iterator[np.ndarray], hours: float, name: str) -> Iterator[np.ndarray]:
    """Yield blocks of samples at 16 kHz; TooLongError, with the name of the audio, beyond a limit in hours."""
    samples = 0
    for block in blocks:
        samples += len(block)
        if samples > 3600 * hours * SAMPLE_RATE + TOLERANCE_SAMPLES:
            raise TooLongError(f"{name}: more than {hours:g} hours of audio")
        yield block


def _at_most(count: float, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield at most ``count`` samples, and do not touch the file after them, which may be broken there."""
    for block in blocks:
        yield block if len(block) <= count else block[: int(count)]
        count -= len(block)
        if count <= 0:
            return


def _checked(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    for block in blocks:
        if len(block) and not -MAX_AMPLITUDE <= block.min() <= block.max() <= MAX_AMPLITUDE:  # also false for NaN
            peak = max(-block.min(), block.max())
            loud = f"samples up to {peak:.2g}; expected about -1 to 1"
            fault = loud if np.isfinite(peak) else "NaN or infinite samples"
            raise AudioError(f"{name}: {fault}; repair the recording or leave it out")
        yield block


def _resample(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
