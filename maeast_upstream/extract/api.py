"""Python interface for embedding many files: `embed_files` and `Embedder`."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maeast_upstream.audio.reading import AudioError, from_samples, read_audio
from maeast_upstream.batching import like_lengths
from maeast_upstream.config import scene_width
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.encoder import Encoder, load_model, scene_vectors
from maeast_upstream.extract.pipeline import (
    BATCH_SECONDS,
    embed_decoded,
)
from maeast_upstream.extract.table import Embedded, EmbeddingKind, EmbeddingSpec
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.readout import Readout


def embed_files(
    inputs: str | Path | Iterable[str | Path],
    encoder: Encoder | None = None,
    *,
    kind: EmbeddingKind = "scene",
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
    wanted = EmbeddingSpec(
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


def as_rows(clip: Embedded, wanted: EmbeddingSpec) -> Iterator[dict[str, Any]]:
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
