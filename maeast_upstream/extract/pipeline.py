"""Many inputs to embeddings: decoded ahead in other processes, embedded by length, in the order of the inputs.

Decoded audio is collected in blocks, which bound memory. The encoder gets a block's clips of similar length together,
some seconds at a time, and forms its batches from them.

`embed_files` is the interface for Python; ``maeast embed`` adds parts on disk, so that a job can be resumed.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment
from maeast_upstream.data.packed import to_float
from maeast_upstream.decoding.stream import AudioStream
from maeast_upstream.display import as_text, without_secrets
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.streams import Submit, shared_threads, stream_pool
from maeast_upstream.extract.long_audio import LongClip, Pieces, SpanVectors, cut_long, embed_span
from maeast_upstream.extract.table import Embedded, EmbeddingSpec, row_blocks
from maeast_upstream.extract.windowing import WindowSegment, cut_windows
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.spans import Span
from maeast_upstream.storage.remote import is_remote

CALL_SECONDS = {"cpu": 30.0, "cuda": 1300.0}
"""Audio of one call of the encoder, padding included: bounds the time steps that are in memory at once. On a GPU one
batch of patches (`BATCH_TOKENS`)."""

BLOCK_SECONDS = {"cpu": 600.0, "cuda": 7500.0}
"""Audio of a block, all in memory at once: enough to find clips of similar length."""

BLOCK_CLIPS = {"cpu": 256, "cuda": 8192}
"""Maximum number of clips in a block: with 600 s of clips of 0.4 s memory would grow by 90 MB."""

BLOCK_WORK_SECONDS = 15.0
"""Time that a block may wait for its clips, and about the time that the encoder may need for it: what is in work is
lost if the process is killed. On a fast machine the other limits are reached before."""

Decoded = tuple[Segment, np.ndarray | AudioStream | AudioError]
Piece = tuple[Segment, Pieces]


@dataclass(frozen=True)
class FailedInput:
    """An input that could not be read."""

    path: str
    segment: int
    reason: str
    notes: tuple[str, ...] = ()
    """What was noticed about its audio, see `Segment.notes`."""
    is_window: bool = False
    """Whether it is a window of a clip that was read."""
    is_last: bool = True
    """Whether no other window of the clip follows."""


class Vectors(NamedTuple):
    """The embeddings of b clips."""

    states: list[Tensor]
    """For each readout (b, T, E); T is 1 for scenes."""
    counts: list[int]
    """Each clip's own time steps."""
    times_ms: Tensor
    """(b, T), their centres."""


def embed_decoded(
    decoded: Iterable[Decoded],
    encoder: Encoder,
    spec: EmbeddingSpec,
    batch_seconds: float | None = None,
) -> Iterator[Embedded | FailedInput]:
    """Embed segments as they are decoded.

    A block is submitted before the block before it is read back, so that the encoder always has work. A clip that is
    longer than the encoder's ``max_seconds`` is embedded while it is decoded.

    Args:
        decoded: segments with their samples, or with the reason why they could not be read.
        encoder: in eval mode.
        spec: the embeddings to compute.
        batch_seconds: audio of one call of the encoder, padding included; None for what suits its device.

    Yields:
        The outcome of each segment, or of each of its windows, in their order. A segment that breaks off may have had
        windows before, see `only_whole`.

    Raises:
        ValueError: the encoder is in train mode, in which dropout would change the embeddings.
    """
    refuse_training(encoder)
    device = encoder.device.type if encoder.device.type in BLOCK_SECONDS else "cpu"
    streams = encoder.runtime.streams
    seconds = batch_seconds or CALL_SECONDS[device]
    most = max(seconds, BLOCK_SECONDS[device])
    pace = Pace()
    block: list[Piece] | None = []
    read_previous: Callable[[], list[Embedded | FailedInput | SpanVectors]] = list
    joiner = SpanJoiner(encoder, spec)
    with shared_threads(streams), stream_pool(streams) as submit:
        pieces = cut_long(cut_windows(decoded, spec.windows), encoder, spec.readouts[0].hop_ms)
        found = blocks(pieces, streams * seconds, most, BLOCK_CLIPS[device], pace)
        while block is not None:
            previous, begun = block, time.monotonic()
            block = next(found, None)
            read = submit_block(block or [], encoder, spec, seconds, submit)
            outcomes = read_previous()
            pace.update(min(samples_of(previous), samples_of(block or [])), time.monotonic() - begun)
            yield from joiner.join(outcomes)
            read_previous = read


def refuse_training(encoder: Encoder) -> None:
    """ValueError if the encoder is in train mode."""
    if encoder.training:
        raise ValueError("embeddings need a frozen encoder, and this one is in train mode: call eval() first")


class Pace:
    """How many seconds of audio the encoder embeds in `BLOCK_WORK_SECONDS`, as measured at the latest block."""

    def __init__(self) -> None:
        self.seconds = math.inf

    def update(self, samples: int, elapsed: float) -> None:
        """Note that this much audio took ``elapsed`` seconds."""
        if samples:
            self.seconds = samples / SAMPLE_RATE / max(elapsed, 1e-9) * BLOCK_WORK_SECONDS


def samples_of(block: list[Piece]) -> int:
    """The samples of a block."""
    return sum(size_of(audio) for _, audio in block)


def size_of(audio: Pieces) -> int:
    """The samples of a clip or a span; 0 of an error."""
    return len(audio.samples) if isinstance(audio, Span) else len(audio) if isinstance(audio, np.ndarray) else 0


def blocks(
    decoded: Iterable[Piece], first: float, most: float, clips: int, pace: Pace | None = None
) -> Iterator[list[Piece]]:
    """Group consecutive segments.

    Args:
        decoded: the segments.
        first: seconds of audio of the first block. Each later one has twice as many as the one before it, so that the
            encoder has work before much is decoded.
        most: seconds of audio of a block at most.
        clips: segments of a block at most.
        pace: limits the audio of a block, but not below that of the first; None for no such limit.
    """
    block: list[Piece] = []
    samples, seconds, begun = 0, min(first, most), 0.0
    for segment, audio in decoded:
        begun = begun if block else time.monotonic()
        block.append((segment, audio))
        samples += size_of(audio)
        is_late = time.monotonic() - begun > BLOCK_WORK_SECONDS
        if samples >= seconds * SAMPLE_RATE or len(block) == clips or is_late:
            yield block
            limit = max(first, pace.seconds) if pace else math.inf
            block, samples, seconds = [], 0, min(2 * seconds, most, limit)
    if block:
        yield block


def submit_block(
    block: list[Piece], encoder: Encoder, spec: EmbeddingSpec, seconds: float, submit: Submit
) -> Callable[[], list[Embedded | FailedInput | SpanVectors]]:
    """Submit the clips and spans of a block to the encoder; the returned function reads their embeddings back."""
    clips = [(row, audio) for row, (_, audio) in enumerate(block) if isinstance(audio, np.ndarray)]
    pending = []
    for group in groups_by_length([len(audio) for _, audio in clips], seconds * SAMPLE_RATE):
        waveforms = [torch.from_numpy(samples_for(clips[index][1], encoder.device)) for index in group]
        pending.append(([clips[index][0] for index in group], submit(embed_clips, waveforms, encoder, spec)))
    spans = {
        row: (segment, audio.total_samples, submit(embed_span, audio, encoder, spec))
        for row, (segment, audio) in enumerate(block)
        if isinstance(audio, Span)
    }

    def read() -> list[Embedded | FailedInput | SpanVectors]:
        outcomes = read_back(block, [(rows, vectors()) for rows, vectors in pending], spec)
        of_spans = {row: SpanVectors(segment, total, values()) for row, (segment, total, values) in spans.items()}
        return [(outcomes | of_spans)[row] for row in range(len(block))]

    return read


def samples_for(audio: np.ndarray, device: torch.device) -> np.ndarray:
    """Decoded samples for an encoder on a device: a GPU converts int16 ones itself, and half as much is sent to it.

    Those of a memory map are copied, because torch warns of arrays that cannot be written.
    """
    if device.type != "cuda":
        return to_float(audio)
    return audio if audio.flags.writeable else np.array(audio)


def groups_by_length(lengths: Sequence[int], limit: float) -> Iterator[list[int]]:
    """Cut the clips of a block into groups for one call of the encoder each, longest clips first.

    Args:
        lengths: samples of each clip.
        limit: a group's clips times its longest; a longer clip goes alone.

    Yields:
        Indices into ``lengths``.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        size = max(1, int(min(limit / max(1, lengths[order[0]]), len(order))))
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def embed_clips(waveforms: list[Tensor], encoder: Encoder, spec: EmbeddingSpec) -> Vectors:
    """The scene embeddings or the time steps of some clips."""
    if spec.kind == "scene":
        scenes = encoder.embed_readouts(waveforms, spec.readouts)
        return Vectors([scene[:, None] for scene in scenes], [1] * len(waveforms), torch.zeros(len(waveforms), 1))
    encoded = encoder.read_clips(waveforms, spec.readouts)
    return Vectors(encoded.hidden_states, encoded.lengths.tolist(), encoded.times_ms)


def read_back(
    block: list[Piece], groups: Sequence[tuple[list[int], Vectors]], spec: EmbeddingSpec
) -> dict[int, Embedded | FailedInput]:
    """The outcomes of a block's whole clips by row; ``groups`` hold rows of the block with their embeddings."""
    outcomes: dict[int, Embedded | FailedInput] = {}
    for rows, (states, counts, times_ms) in groups:
        arrays = [state.cpu().numpy() for state in states]
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            segment, audio = block[row]
            assert isinstance(audio, np.ndarray)  # the encoder gets no failed inputs
            vectors = np.stack([array[i, :count] for array in arrays])
            outcomes[row] = embedded(segment, len(audio), vectors, times_ms[i, :count].numpy(), spec)
    for row, (segment, audio) in enumerate(block):
        if isinstance(audio, AudioError):
            outcomes[row] = failed(segment, str(audio))
    return outcomes


class SpanJoiner:
    """Makes one outcome of the spans of a long clip."""

    def __init__(self, encoder: Encoder, spec: EmbeddingSpec) -> None:
        self._encoder, self._spec, self._clip = encoder, spec, LongClip(encoder, spec)

    def join(self, outcomes: Iterable[Embedded | FailedInput | SpanVectors]) -> Iterator[Embedded | FailedInput]:
        """Pass outcomes of clips on, and those of spans with the last one; an error in its place ends a clip, too."""
        for outcome in outcomes:
            if isinstance(outcome, SpanVectors):
                self._clip.add(outcome)
                if outcome.total_samples:
                    yield self._outcome(outcome)
                    self._clip = LongClip(self._encoder, self._spec)
            else:
                self._clip = LongClip(self._encoder, self._spec)
                yield outcome

    def _outcome(self, last: SpanVectors) -> Embedded | FailedInput:
        grid = self._encoder.grid(self._spec.readouts[0].hop_ms)
        samples = last.total_samples - grid.left
        times_ms = np.zeros(1) if self._spec.kind == "scene" else grid.times_ms(samples).numpy()
        return embedded(last.segment, samples, self._clip.vectors(), times_ms, self._spec)


def embedded(
    segment: Segment, samples: int, vectors: np.ndarray, times_ms: np.ndarray, spec: EmbeddingSpec
) -> Embedded | FailedInput:
    """The outcome of a segment with its (readouts, steps, E) vectors; vectors with NaN or infinity are an error."""
    if not all(is_finite(rows, spec.float_type) for rows in row_blocks(vectors)):
        narrow = "; --vectors float32 has a wider range" if np.isfinite(vectors).all() else ""
        return failed(segment, f"its embedding has NaN or infinite values as {spec.float_type}{narrow}")
    window = segment if isinstance(segment, WindowSegment) else None
    start_ms = (segment.start_ms or 0.0) + (window.first_sample * 1000 / SAMPLE_RATE if window else 0.0)
    return Embedded(
        path=segment.table_name,
        segment=segment.number,
        start_ms=start_ms,
        end_ms=start_ms + samples * 1000 / SAMPLE_RATE,
        vectors=vectors,
        times_ms=start_ms + times_ms,
        is_segment=segment.start_ms is not None or segment.end_ms is not None or window is not None,
        notes=shown_notes(segment),
        samples=window.new_samples if window else samples,
        is_last=window is None or window.is_last,
    )


def is_finite(vectors: np.ndarray, float_type: "np.dtype[Any]") -> bool:
    """Whether all values are finite in this type."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(vectors.astype(float_type, copy=False)).all())


def failed(segment: Segment, reason: str) -> FailedInput:
    """The outcome of a segment that cannot be embedded."""
    found = FailedInput(segment.table_name, segment.number, shown(reason, segment), shown_notes(segment))
    if not isinstance(segment, WindowSegment):
        return found
    start_ms = (segment.start_ms or 0.0) + segment.first_sample * 1000 / SAMPLE_RATE
    return replace(
        found, reason=f"window at {start_ms:.10g} ms: {found.reason}", is_window=True, is_last=segment.is_last
    )


def shown_notes(segment: Segment) -> tuple[str, ...]:
    """The notes of a segment as tables store them."""
    return tuple(shown(note, segment) for note in segment.notes)


def shown(message: str, segment: Segment) -> str:
    """A message about a segment as tables store it: text without passwords of addresses."""
    has_address = "://" in message or is_remote(segment.file)
    return as_text(without_secrets(message, segment.file) if has_address else message)
