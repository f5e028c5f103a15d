"""Many inputs to embeddings: decoded ahead in other processes, batched by length, in the order of the inputs.

`embed_files` is the call for Python; ``maeast embed`` (embed.py) adds parts on disk, so that it can be killed.
"""

import io
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio import AudioError, from_samples, read_audio
from maeast_upstream.decoding import DecodePool
from maeast_upstream.embedding import (
    like_lengths,
    scene_vectors,
    scene_width,
    step_vectors,
)
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.engines import Choice
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.inputs import Segment, as_text, cost, list_segments
from maeast_upstream.outputs import Sink
from maeast_upstream.packed import to_float
from maeast_upstream.parts import PartReport, PartStore
from maeast_upstream.readout import Readout
from maeast_upstream.streams import Start, shared_threads, side_by_side
from maeast_upstream.table import Embedded, Kind, Wanted

PART_CLIPS = 1000
PART_BYTES = 32 << 20
"""A part is closed at so many clips, or so much audio as it lies on disk: a quarter of an hour of wav, two of opus."""
BATCH_SECONDS = {"cpu": 30.0, "cuda": 1500.0}
"""Audio that goes to the model at once, padding included."""
LOOK_AHEAD_SECONDS = {"cpu": 600.0, "cuda": 7500.0}
"""Audio that is in memory at once, to be sorted by length, unless a batch is more;"""
LOOK_AHEAD_CLIPS = {"cpu": 256, "cuda": 8192}
"""and so many clips at most, which is enough to sort: 600 s of clips of 0.4 s took 90 MB more."""
STEPS_BYTES = 64 << 20
"""Time steps are written when they take so much memory."""

Decoded = tuple[Segment, np.ndarray | AudioError]


@dataclass(frozen=True)
class Failed:
    """An input that could not be read."""

    path: str
    segment: int
    reason: str


@dataclass(frozen=True)
class Part:
    """Consecutive segments that are done, or not, as one."""

    number: int
    """Segments before it."""
    segments: list[Segment]


def cut_parts(segments: Iterable[Segment], done: Mapping[int, int] | None = None) -> Iterator[Part]:
    """Cut a list of segments into parts of bounded work; the same list gives the same parts.

    Args:
        segments: all of a run.
        done: parts that are not wanted, each one's number and how many segments it has. They stay what they are, also
            where a file's size is another now than when they were cut.
    """
    done = done or {}
    part: list[Segment] = []
    size = until = 0
    for number, segment in enumerate(segments):
        until = max(until, number + done.get(number, 0))
        own = cost(segment)
        if part and (number < until or len(part) == PART_CLIPS or size + own > PART_BYTES):
            yield Part(number - len(part), part)
            part, size = [], 0
        if number >= until:
            part.append(segment)
            size += own
    if part:
        yield Part(number + 1 - len(part), part)


def embed_files(
    inputs: str | Path | Iterable[str | Path],
    encoder: Encoder | None = None,
    *,
    kind: Kind = "scene",
    readout: Readout | Sequence[Readout] | None = None,
    workers: int = 1,
    on_error: Callable[[str, str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Embeddings of many files, one after the other, in constant memory: the rows of ``maeast embed``.

    Args:
        inputs: what `maeast embed` takes: files, folders, manifests, tars; one or several.
        encoder: None for the checkpoint in the package.
        kind: "scene", one row a clip, or "frames", one a time step.
        readout: None for the checkpoint's own; several give a row each.
        workers: processes that decode; 0 for a thread.
        on_error: gets the name and the reason of an input that cannot be read; None raises instead.

    Yields:
        path, segment, start_ms, end_ms (scene) or time_ms (frames), layer, vector ((E,) float32).

    Raises:
        ValueError: an input does not exist, or (``on_error`` None) cannot be read; the encoder is in train mode.
    """
    encoder = encoder or load_model()
    readout = readout or encoder.config.readout
    wanted = Wanted(
        kind=kind,
        readouts=(readout,) if isinstance(readout, Readout) else tuple(readout),
    )
    wanted.width(encoder.config)
    with DecodePool(workers) as pool:
        for outcome in embed_decoded(pool.decode(list_segments(inputs)), encoder, wanted):
            if isinstance(outcome, Embedded):
                yield from as_rows(outcome, wanted)
            elif on_error is None:
                raise AudioError(outcome.reason)
            else:
                on_error(outcome.path, outcome.reason)


class Embedder:
    """Scene embeddings for Hugging Face ``datasets``: ``dataset.map(Embedder(), batched=True)`` adds a column.

    The audio column holds what ``Audio(decode=False)`` gives, mappings with bytes or path; or paths; or mappings with
    array and sampling_rate as older versions of ``datasets`` decode them.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        audio: str = "audio",
        column: str = "embedding",
    ) -> None:
        """Args: ``encoder``, None for the checkpoint in the package; the names of the columns to read and to add."""
        self.encoder = encoder or load_model()
        self.audio, self.column = audio, column

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """A batch of rows -> (rows, E) float32; AudioError if a clip cannot be read, ValueError in train mode."""
        clips = [torch.from_numpy(waveform_of(item)) for item in batch[self.audio]]
        readout = self.encoder.config.readout
        result = np.empty((len(clips), scene_width(self.encoder.config, readout)), np.float32)
        for rows in like_lengths([len(clip) for clip in clips], BATCH_SECONDS["cpu"] * SAMPLE_RATE):
            (vectors,) = scene_vectors(self.encoder, [clips[row] for row in rows], [readout])
            result[rows] = vectors.cpu().numpy()
        return {self.column: result}


def waveform_of(item: Any) -> np.ndarray:
    """(S,) float32 at 16 kHz of a value of a ``datasets`` audio column."""
    if isinstance(item, (str, Path)):
        return read_audio(item)
    given = item if isinstance(item, Mapping) else {}
    if given.get("bytes") is not None:
        return read_audio(io.BytesIO(given["bytes"]))
    if given.get("array") is not None:
        samples = np.asarray(given["array"])
        channels_first = samples.ndim == 2 and samples.shape[0] < samples.shape[1]  # as Audio(mono=False) gives it
        return from_samples(samples.T if channels_first else samples, int(given["sampling_rate"]))
    if given.get("path") is not None:
        return read_audio(given["path"])
    raise AudioError(f"expected a path, or a mapping with bytes, array or path, got {str(item)[:80]}")


def as_rows(clip: Embedded, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """A clip's rows as dictionaries."""
    for readout, vectors in zip(wanted.readouts, clip.vectors, strict=True):
        for time_ms, vector in zip(clip.times_ms.tolist(), vectors, strict=True):
            scene = {
                "start_ms": clip.start_ms,
                "end_ms": clip.end_ms,
                "layer": str(readout.layer),
            }
            place = scene if wanted.kind == "scene" else {"layer": str(readout.layer), "time_ms": time_ms}
            yield {
                "path": clip.path,
                "segment": clip.segment,
                **place,
                "vector": vector,
            }


@dataclass(frozen=True)
class Work:
    """What is done with every part, and by what."""

    store: PartStore
    """Where parts go."""
    sink: Sink
    """Makes rows of clips, and says what is wanted of each."""
    encoder: Encoder
    engine: Choice | None = None
    """What runs its transformer, where that is to be attached again on another machine."""
    workers: int = 1
    """Processes that decode; 0 for a thread."""
    batch_seconds: float | None = None
    """Audio that goes to the model at once; None for what suits its device."""


def write_parts(parts: Iterable[Part], work: Work, progress: Callable[[PartReport], object]) -> None:
    """Embed parts and write each as it is done; decoding goes ahead into the next ones.

    Args:
        parts: those that are to be done.
        work: how.
        progress: is told what has been done since it was told last.
    """
    begun: deque[Part] = deque()

    def segments() -> Iterator[Segment]:
        for part in parts:
            begun.append(part)
            yield from part.segments

    with DecodePool(work.workers) as pool:
        outcomes = embed_decoded(pool.decode(segments()), work.encoder, work.sink.wanted, work.batch_seconds)
        while (first := next(outcomes, None)) is not None:
            part = begun.popleft()
            own = itertools.chain([first], itertools.islice(outcomes, len(part.segments) - 1))
            write_part(part.number, own, work, progress)


def write_part(
    number: int,
    outcomes: Iterable[Embedded | Failed],
    work: Work,
    progress: Callable[[PartReport], object],
) -> None:
    """One part, as its outcomes come."""
    with work.store.write(number, work.sink.schema) as (writer, report):
        for some in flushed(counted(outcomes, report, progress)):
            clips = [outcome for outcome in some if isinstance(outcome, Embedded)]
            if clips:
                writer.write_table(work.sink.table(clips))


def counted(
    outcomes: Iterable[Embedded | Failed],
    report: PartReport,
    progress: Callable[[PartReport], object],
) -> Iterator[Embedded | Failed]:
    """Outcomes as they come, each counted in its part's report and told."""
    for outcome in outcomes:
        one = report_of(outcome)
        report.add(one)
        progress(one)
        yield outcome


def report_of(outcome: Embedded | Failed) -> PartReport:
    """Of one input."""
    if isinstance(outcome, Failed):
        return PartReport(errors=[(outcome.path, outcome.reason, outcome.segment)])
    return PartReport(
        clips=1,
        rows=outcome.vectors.shape[0] * outcome.vectors.shape[1],
        samples=round((outcome.end_ms - outcome.start_ms) * SAMPLE_RATE / 1000),
    )


def flushed(outcomes: Iterable[Embedded | Failed]) -> Iterator[list[Embedded | Failed]]:
    """Outcomes in lists that are worth a row group and take bounded memory."""
    some: list[Embedded | Failed] = []
    size = 0
    for outcome in outcomes:
        some.append(outcome)
        size += outcome.vectors.nbytes if isinstance(outcome, Embedded) else 0
        if size > STEPS_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def embed_decoded(
    decoded: Iterable[Decoded],
    encoder: Encoder,
    wanted: Wanted,
    batch_seconds: float | None = None,
) -> Iterator[Embedded | Failed]:
    """What became of each segment, in their order.

    A block's batches are launched before the block before it is read back, so that the model has work meanwhile.
    """
    device = encoder.device.type if encoder.device.type in BATCH_SECONDS else "cpu"
    seconds = batch_seconds or BATCH_SECONDS[device]
    before: Callable[[], list[Embedded | Failed]] | None = None
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
    block: list[Decoded], encoder: Encoder, wanted: Wanted, seconds: float, start: Start
) -> Callable[[], list[Embedded | Failed]]:
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


def vectors_of(waveforms: list[Tensor], encoder: Encoder, wanted: Wanted) -> Vectors:
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


def read_back(block: list[Decoded], pending: Sequence[tuple[list[int], *Vectors]]) -> list[Embedded | Failed]:
    """Vectors in the order of the segments."""
    outcomes: dict[int, Embedded | Failed] = {}
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
                stretch=segment.start_ms is not None or segment.end_ms is not None,
            )
    for row, (segment, audio) in enumerate(block):
        if isinstance(audio, AudioError):
            outcomes[row] = Failed(as_text(segment.path), segment.number, as_text(str(audio)))
    return [outcomes[row] for row in range(len(block))]
