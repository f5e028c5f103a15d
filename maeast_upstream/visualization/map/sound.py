"""The sound of a map's page: short pieces of the clips as Ogg/Opus, small enough to stand in the page itself."""

import functools
import io
from dataclasses import dataclass, field

import numpy as np

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import segment_of
from maeast_upstream.decoding.worker import read_segment
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import progress_bar
from maeast_upstream.visualization.map.table import Embeddings

MAX_CLIPS = 2000
MAX_BYTES = 50_000_000
"""In the page. Beyond, it becomes slow to open and to send."""
MAX_SECONDS = 10.0
"""Of each clip, from its start."""
BIT_RATE = 32_000
"""Opus at 16 kHz mono is hardly to be told from the original there: 40 kB for ten seconds."""


@dataclass
class Sound:
    """What a page can play."""

    mode: str
    """"embed": it holds the sound; "link": it names the files; "none"."""
    clips: dict[int, bytes] = field(default_factory=dict)
    """Row -> an Ogg/Opus file, where the mode is embed."""
    unread: dict[int, str] = field(default_factory=dict)
    """Row -> why there is no sound."""
    note: str = ""
    """For the one who made the page; empty where all went as asked."""


def sound_of(table: Embeddings, mode: str | None) -> Sound:
    """The sound of every row, in the page or as a link.

    Args:
        table: whose files are read.
        mode: "embed", "link" or "none"; None embeds what is small enough and links the rest.
    """
    if mode in ("link", "none"):
        return Sound(mode)
    if mode is None and len(table.paths) > MAX_CLIPS:
        return _linked(f"{len(table.paths)} clips are more than {MAX_CLIPS}")
    sound, size = Sound("embed"), 0
    for row in progress_bar(range(len(table.paths)), unit="clip"):
        try:
            samples = read_clip(table.paths[row], float(table.start_ms[row]), float(table.end_ms[row]))
        except AudioError as error:
            sound.unread[row] = str(error)
            continue
        sound.clips[row] = opus(samples)
        size += len(sound.clips[row]) * 4 // 3  # as base64
        if mode is None and size > MAX_BYTES:
            return _linked(f"the clips take more than {MAX_BYTES // 1_000_000} MB")
    if sound.unread:
        first = next(iter(sound.unread.values()))
        sound.note = f"{len(sound.unread)} of {len(table.paths)} clips without sound: {first}"
    return sound


def _linked(reason: str) -> Sound:
    return Sound(
        "link",
        note=f"{reason}: the page links to the files instead of holding their sound (--audio embed)",
    )


def read_clip(path: str, start_ms: float, end_ms: float) -> np.ndarray:
    """(S,) float32 at 16 kHz: what was embedded, at most its first ten seconds.

    Raises:
        AudioError: the file cannot be read, or ends before the stretch begins.
    """
    start = round(start_ms * SAMPLE_RATE / 1000)
    length = MAX_SECONDS if np.isnan(end_ms) else min(MAX_SECONDS, (end_ms - start_ms) / 1000)
    samples = _whole(path)[start : start + max(round(length * SAMPLE_RATE), 1)]
    if not len(samples):
        raise AudioError(f"{path}: ends before {start_ms:.0f} ms, where the clip begins")
    return samples


@functools.lru_cache(maxsize=1)
def _whole(path: str) -> np.ndarray:
    """The last file is kept, because a long one comes once for each of its segments."""
    return read_segment(segment_of(path))


def opus(samples: np.ndarray) -> bytes:
    """(S,) float32 at 16 kHz -> an Ogg/Opus file, the same bytes every time.

    By FFmpeg's libraries, because libsndfile gives every Ogg stream a number by chance.
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
