"""Many inputs to embeddings: decoded ahead in other processes, batched by length, in the order of the inputs.

`embed_files` is the call for Python; ``maeast embed`` (embed.py) adds parts on disk, so that it can be killed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.batching import like_lengths
from maeast_upstream.data.inputs import Segment, as_text
from maeast_upstream.data.packed import to_float
from maeast_upstream.encoder import Encoder, scene_vectors, step_vectors
from maeast_upstream.engines.streams import Start, shared_threads, side_by_side
from maeast_upstream.extract.table import Embedded, EmbeddingSpec
from maeast_upstream.frontend import SAMPLE_RATE

BATCH_SECONDS = {"cpu": 30.0, "cuda": 1500.0}
"""Audio that goes to the model at once, padding included."""


LOOK_AHEAD_SECONDS = {"cpu": 600.0, "cuda": 7500.0}
"""Audio that is in memory at once, to be sorted by length, unless a batch is more;"""


LOOK_AHEAD_CLIPS = {"cpu": 256, "cuda": 8192}
"""and so many clips at most, which is enough to sort: 600 s of clips of 0.4 s took 90 MB more."""


Decoded = tuple[Segment, np.ndarray | AudioError]


@dataclass(frozen=True)
class FailedInput:
    """An input that could not be read."""

    path: str
    segment: int
    reason: str


def embed_decoded(
    decoded: Iterable[Decoded],
    encoder: Encoder,
    wanted: EmbeddingSpec,
    batch_seconds: float | None = None,
) -> Iterator[Embedded | FailedInput]:
    """What became of each segment, in their order.

    A block's batches are launched before the block before it is read back, so that the model has work meanwhile.
    """
    device = encoder.device.type if encoder.device.type in BATCH_SECONDS else "cpu"
    seconds = batch_seconds or BATCH_SECONDS[device]
    before: Callable[[], list[Embedded | FailedInput]] | None = None
    with shared_threads(encoder.streams), side_by_side(encoder.streams) as start:
        most = max(seconds, LOOK_AHEAD_SECONDS[device])
        for block in blocks(decoded, encoder.streams * seconds, most, LOOK_AHEAD_CLIPS[device]):
            launched = launch(block, encoder, wanted, seconds, start)
            if before is not None:
                yield from before()
            before = launched
        if before is not None:
            yield from before()


def blocks(decoded: Iterable[Decoded], first: float, most: float, clips: int) -> Iterator[list[Decoded]]:
    """Consecutive segments of together about ``most`` seconds of audio, ``clips`` at most.

    The first holds ``first``, and each after it twice as many, so that the model has work before much is decoded.
    """
    block: list[Decoded] = []
    samples, seconds = 0, min(first, most)
    for segment, audio in decoded:
        block.append((segment, audio))
        samples += len(audio) if isinstance(audio, np.ndarray) else 0
        if samples >= seconds * SAMPLE_RATE or len(block) == clips:
            yield block
            block, samples, seconds = [], 0, min(2 * seconds, most)
    if block:
        yield block


def launch(
    block: list[Decoded], encoder: Encoder, wanted: EmbeddingSpec, seconds: float, start: Start
) -> Callable[[], list[Embedded | FailedInput]]:
    """Give a block's batches to the model; the result reads them back."""
    clips = [(row, audio) for row, (_, audio) in enumerate(block) if isinstance(audio, np.ndarray)]
    pending = []
    for batch in like_lengths([len(audio) for _, audio in clips], seconds * SAMPLE_RATE):
        waveforms = [torch.from_numpy(to_float(clips[i][1])) for i in batch]
        pending.append(
            (
                [clips[i][0] for i in batch],
                start(vectors_of, waveforms, encoder, wanted),
            )
        )
    return lambda: read_back(block, [(rows, *vectors()) for rows, vectors in pending])


Vectors = tuple[list[Tensor], list[int], Tensor]
"""For each readout (B, T, E); each clip's steps; (B, T) their centres in ms."""


def vectors_of(waveforms: list[Tensor], encoder: Encoder, wanted: EmbeddingSpec) -> Vectors:
    """One batch."""
    if wanted.kind == "scene":
        scenes = scene_vectors(encoder, waveforms, wanted.readouts)
        return (
            [scene[:, None] for scene in scenes],
            [1] * len(waveforms),
            torch.zeros(len(waveforms), 1),
        )
    states, encoded = step_vectors(encoder, waveforms, wanted.readouts)
    return states, encoded.lengths.tolist(), encoded.times_ms


def read_back(block: list[Decoded], pending: Sequence[tuple[list[int], *Vectors]]) -> list[Embedded | FailedInput]:
    """Vectors in the order of the segments."""
    outcomes: dict[int, Embedded | FailedInput] = {}
    for rows, states, steps, times_ms in pending:
        arrays = [state.cpu().numpy() for state in states]
        for i, (row, count) in enumerate(zip(rows, steps, strict=True)):
            segment, audio = block[row]
            assert isinstance(audio, np.ndarray)  # errors are not given to the model
            start_ms = segment.start_ms or 0.0
            outcomes[row] = Embedded(
                path=as_text(segment.path),
                segment=segment.number,
                start_ms=start_ms,
                end_ms=start_ms + len(audio) * 1000 / SAMPLE_RATE,
                vectors=np.stack([array[i, :count] for array in arrays]),
                times_ms=start_ms + times_ms[i, :count].numpy(),
                is_segment=segment.start_ms is not None or segment.end_ms is not None,
            )
    for row, (segment, audio) in enumerate(block):
        if isinstance(audio, AudioError):
            outcomes[row] = FailedInput(as_text(segment.path), segment.number, as_text(str(audio)))
    return [outcomes[row] for row in range(len(block))]
