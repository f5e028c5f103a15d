"""Encodes the beginnings of clips as Ogg/Opus, small enough to be embedded in a map page."""

import functools
import io
from dataclasses import dataclass, field

import numpy as np

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.data.inputs import segment_of
from maeast_upstream.decoding.worker import read_segment
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.messages import counted
from maeast_upstream.progress import progress_bar

MAX_CLIPS = 2000
MAX_BYTES = 50_000_000
"""Size of all embedded clips; with more, the page is slow to open and to send."""
MAX_SECONDS = 10.0
"""Length of the beginning of each clip that is embedded."""
BIT_RATE = 32_000
"""Bits per second of Opus: hard to distinguish from 16 kHz mono originals, at 40 kB for ten seconds."""


@dataclass
class Sound:
    """The sound of a page."""

    mode: str
    """"embed": the page holds the sound; "link": it names the files; "none"."""
    clips: dict[int, bytes] = field(default_factory=dict)
    """Row -> an Ogg/Opus file, if the mode is embed."""
    unread: dict[int, str] = field(default_factory=dict)
    """Row -> why it has no sound."""
    note: str = ""
    """Message for the user who makes the page; may be empty."""


def sound_of(table: Embeddings, mode: str | None) -> Sound:
    """Return the sound of every row, embedded or linked.

    Args:
        table: the rows, whose files are read.
        mode: "embed", "link" or "none"; None embeds if that is small enough, and links otherwise.
    """
    if mode in ("link", "none"):
        return Sound(mode)
    if mode is None and len(table.paths) > MAX_CLIPS:
        return _linked(f"{len(table.paths)} clips are more than {MAX_CLIPS}")
    sound, size, files = Sound("embed"), 0, table.files
    for row in progress_bar(range(len(table.paths)), unit="clip"):
        try:
            samples = read_clip(files[row], float(table.start_ms[row]), float(table.end_ms[row]))
        except AudioError as error:
            sound.unread[row] = str(error)
            continue
        sound.clips[row] = opus(samples)
        size += len(sound.clips[row]) * 4 // 3  # as base64
        if mode is None and size > MAX_BYTES:
            return _linked(f"the clips take more than {MAX_BYTES // 1_000_000} MB")
    if sound.unread:
        first = next(iter(sound.unread.values()))
        sound.note = f"{len(sound.unread)} of {counted(len(table.paths), 'clip')} without sound: {first}"
    return sound


def _linked(reason: str) -> Sound:
    return Sound(
        "link",
        note=f"{reason}: the page links to the files instead of holding their sound (--audio embed)",
    )


def read_clip(path: str, start_ms: float, end_ms: float) -> np.ndarray:
    """Read the clip of a row, at most its first ten seconds; (S,) float32 at 16 kHz.

    Raises:
        AudioError: the file cannot be read, or ends before the clip begins.
    """
    start = round(start_ms * SAMPLE_RATE / 1000)
    length = MAX_SECONDS if np.isnan(end_ms) else min(MAX_SECONDS, (end_ms - start_ms) / 1000)
    samples = _read_file(path)[start : start + max(round(length * SAMPLE_RATE), 1)]
    if not len(samples):
        raise AudioError(f"{path}: ends before {start_ms:.0f} ms, where the clip begins")
    return samples


@functools.lru_cache(maxsize=1)
def _read_file(path: str) -> np.ndarray:
    """Read a file; the last one is kept, because each segment of a long file reads it."""
    return read_segment(segment_of(path))


def opus(samples: np.ndarray) -> bytes:
    """Encode (S,) float32 at 16 kHz as an Ogg/Opus file, always to the same bytes.

    FFmpeg's libraries do it, because libsndfile gives every Ogg stream a random number.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"})
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
