"""Clips that are longer than what the encoder gets at once: cut while they are decoded, and put together again."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.packed import to_float
from maeast_upstream.data.segment import Segment
from maeast_upstream.decoding.stream import AudioStream, Whole, join_stream
from maeast_upstream.encoder import Encoder
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.readout import TimeStatistics
from maeast_upstream.spans import Span
from maeast_upstream.time_grid import TimeGrid

BLOCK_SAMPLES = 60 * SAMPLE_RATE
"""Samples of a long clip that are converted at once."""
MEMORY_BYTES = 64 << 20
"""Time steps of a clip that take more than this lie in a temporary file until all have come."""

Pieces = Whole | Span
"""What the encoder gets: a clip, or a part of a long one; or why there is none."""


def cut_long(
    decoded: Iterable[tuple[Segment, Whole | AudioStream]], encoder: Encoder, hop_ms: float | None
) -> Iterator[tuple[Segment, Pieces]]:
    """Cut clips that are longer than the encoder's ``max_seconds`` into spans.

    Args:
        decoded: Segments with their samples, or with the reason why they could not be read.
        encoder: Tells where to cut.
        hop_ms: Distance of the time steps of the embeddings, see `Readout.hop_ms`.

    Yields:
        Segments as they came, or with one span after the other. The last span's segment has the notes on the audio; an
        error may come in its place.
    """
    for segment, audio in decoded:
        if isinstance(audio, AudioStream) and not encoder.can_stream:
            segment, audio = join_stream(segment, audio)
        is_short = isinstance(audio, np.ndarray) and len(audio) <= encoder.max_seconds * SAMPLE_RATE
        if isinstance(audio, AudioError) or is_short or not encoder.can_stream:
            assert not isinstance(audio, AudioStream)
            yield segment, audio
            continue
        try:
            yield from _cut(segment, audio, encoder, encoder.grid(hop_ms))
        except AudioError as error:
            yield segment, error


def _cut(
    segment: Segment, audio: np.ndarray | AudioStream, encoder: Encoder, grid: TimeGrid
) -> Iterator[tuple[Segment, Pieces]]:
    blocks = iter(audio) if isinstance(audio, AudioStream) else _blocks(audio)
    head: list[np.ndarray] = []
    for block in blocks:
        head.append(block)
        if sum(map(len, head)) > encoder.max_seconds * SAMPLE_RATE:
            break
    else:
        yield _noted(segment, audio), np.concatenate(head)
        return
    for span in encoder.spans((torch.from_numpy(to_float(block)) for block in _chained(head, blocks)), grid):
        yield _noted(segment, audio) if span.total_samples else segment, span


def _noted(segment: Segment, audio: np.ndarray | AudioStream) -> Segment:
    """Return the segment of audio that has come to its end, with the notes on it."""
    notes = audio.notes if isinstance(audio, AudioStream) else ()
    return replace(segment, notes=segment.notes + notes) if notes else segment


def _blocks(audio: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(audio), BLOCK_SAMPLES):
        yield audio[first : first + BLOCK_SAMPLES]


def _chained(head: list[np.ndarray], blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks of ``head``, which lets them go, and then the others."""
    while head:
        yield head.pop(0)
    yield from blocks


class SpanVectors(NamedTuple):
    """What the encoder gave for a span."""

    segment: Segment
    total_samples: int
    """Samples of the clip, padding included; 0 before the last span."""
    values: "list[TimeStatistics] | list[Tensor]"
    """For each readout: statistics of the time steps, or (t, C) time steps."""


def embed_span(span: Span, encoder: Encoder, spec: EmbeddingSpec) -> "list[TimeStatistics] | list[Tensor]":
    """Embed a span: the `SpanVectors.values`."""
    with torch.no_grad():
        if spec.kind == "scene":
            return encoder.pool_span(span, spec.readouts)
        return [steps.cpu() for steps in encoder.read_span(span, spec.readouts)]


class LongClip:
    """Puts the spans of a clip together."""

    def __init__(self, encoder: Encoder, spec: EmbeddingSpec) -> None:
        self._encoder, self._readouts = encoder, spec.readouts
        self._pooled: list[TimeStatistics] = []
        self._steps = StepRows(len(spec.readouts))

    def add(self, span: SpanVectors) -> None:
        """Add the next span."""
        if isinstance(span.values[0], Tensor):
            self._steps.add([steps.numpy() for steps in span.values])
        elif not self._pooled:
            self._pooled = span.values
        else:
            pairs = zip(self._pooled, span.values, strict=True)
            self._pooled = [one.merged(other) for one, other in pairs]

    def vectors(self) -> np.ndarray:
        """Return the clip's (readouts, steps, E) vectors, once all spans have come."""
        if not self._pooled:
            return self._steps.joined()
        pairs = zip(self._pooled, self._readouts, strict=True)
        return np.stack([self._encoder.scene(one, readout).cpu().numpy() for one, readout in pairs])[:, None]


class StepRows:
    """Time steps of a clip, in memory or, if they are many, in temporary files.

    These lie where TMPDIR says, otherwise in /tmp, have no name, and are gone with the array that is made of them.
    """

    def __init__(self, readouts: int) -> None:
        self._held: list[list[np.ndarray]] = [[] for _ in range(readouts)]
        self._files: list[IO[bytes]] = []
        self._bytes = self._width = 0

    def add(self, steps: Sequence[np.ndarray]) -> None:
        """Add (t, E) time steps of each readout.

        Raises:
            OSError: There is no space for the temporary files.
        """
        self._width = steps[0].shape[1]
        for held, rows in zip(self._held, steps, strict=True):
            held.append(rows)
            self._bytes += rows.nbytes
        if self._bytes > MEMORY_BYTES:
            self._write()

    def joined(self) -> np.ndarray:
        """Return all of them: (readouts, steps, E); those of temporary files are mapped into memory."""
        if not self._files:
            return np.stack([np.concatenate(held) for held in self._held])
        self._write()
        first, *others = self._files
        for file in others:
            file.seek(0)
            shutil.copyfileobj(file, first, 1 << 20)
            file.close()
        first.flush()
        joined = np.asarray(np.memmap(first, np.float32, "r")).reshape(len(self._held), -1, self._width)
        first.close()
        return joined

    def _write(self) -> None:
        try:
            self._write_to_files()
        except OSError as error:
            reason = f"no space for time steps ({error.strerror or error}); set TMPDIR to another folder"
            raise OSError(error.errno, reason, tempfile.gettempdir()) from error

    def _write_to_files(self) -> None:
        self._files = self._files or [tempfile.TemporaryFile() for _ in self._held]  # noqa: SIM115  # `joined` closes them
        for file, held in zip(self._files, self._held, strict=True):
            for rows in held:
                file.write(np.ascontiguousarray(rows, np.float32).data)
            held.clear()
        self._bytes = 0
