"""Python interface for embedding many files: `embed_files` and `Embedder`."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maeast_upstream.audio.reading import AudioError, AudioWarning, from_samples, read_audio
from maeast_upstream.config import scene_width
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.extract.pipeline import embed_decoded, refuse_training
from maeast_upstream.extract.table import Embedded, EmbeddingKind, EmbeddingSpec
from maeast_upstream.readout import Readout


def embed_files(
    inputs: str | Path | Iterable[str | Path],
    encoder: Encoder | None = None,
    *,
    kind: EmbeddingKind = "scene",
    readout: Readout | Sequence[Readout] | None = None,
    workers: int = 1,
    on_error: Callable[[str, str], None] | None = None,
    on_warning: Callable[[str, str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Embeddings of many files, one after the other, in constant memory: the rows of ``maeast embed``.

    Args:
        inputs: what `maeast embed` takes: files, folders, manifests, tars; one or several.
        encoder: None for the checkpoint in the package.
        kind: "scene" for one row per clip, "frames" for one row per time step.
        readout: None for the checkpoint's own; several give a row each.
        workers: processes that decode; 0 for a thread.
        on_error: called with the name of an input that cannot be read and the reason; None raises instead.
        on_warning: called with the name of an input and what was noticed about it, such as a header that promises more
            than there is; None gives an `AudioWarning` instead.

    Yields:
        path, segment, start_ms, end_ms (scene) or time_ms (frames), layer, vector ((E,) float32).

    Raises:
        ValueError: an input does not exist, or (``on_error`` None) cannot be read; the encoder is in train mode.
    """
    encoder = encoder or load_model()
    readout = readout or encoder.config.readout
    spec = EmbeddingSpec(kind=kind, readouts=(readout,) if isinstance(readout, Readout) else tuple(readout))
    spec.width(encoder.config)
    with DecodePool(workers) as pool:
        for outcome in embed_decoded(pool.decode(list_segments(inputs)), encoder, spec):
            for note in outcome.notes:
                if on_warning is None:
                    warnings.warn(f"{outcome.path}: {note}", AudioWarning, stacklevel=2)
                else:
                    on_warning(outcome.path, note)
            if isinstance(outcome, Embedded):
                yield from as_rows(outcome, spec)
            elif on_error is None:
                raise AudioError(outcome.reason)
            else:
                on_error(outcome.path, outcome.reason)


class Embedder:
    """Scene embeddings for Hugging Face ``datasets``: ``dataset.map(Embedder(), batched=True)`` adds a column.

    The audio column holds mappings with bytes or path, as of ``Audio(decode=False)``; or paths; or mappings with array
    and sampling_rate, as older versions of ``datasets`` decode them.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        audio: str = "audio",
        column: str = "embedding",
    ) -> None:
        """Load an encoder.

        Args:
            encoder: None for the checkpoint in the package.
            audio: the column to read.
            column: the column to add.
        """
        self.encoder = encoder or load_model()
        self.audio, self.column = audio, column

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """Embed a batch of rows.

        Args:
            batch: columns by name, among them that of the audio.

        Returns:
            The new column: (rows, E) float32.

        Raises:
            AudioError: a clip cannot be read.
            ValueError: the encoder is in train mode.
        """
        refuse_training(self.encoder)
        clips = [torch.from_numpy(waveform_of(item)) for item in batch[self.audio]]
        if not clips:
            width = scene_width(self.encoder.config, self.encoder.config.readout)
            return {self.column: np.empty((0, width), np.float32)}
        with torch.no_grad():
            return {self.column: self.encoder.embed(clips).cpu().numpy()}


def waveform_of(item: Any) -> np.ndarray:
    """A value of a ``datasets`` audio column -> (S,) float32 at 16 kHz."""
    if isinstance(item, (str, Path)):
        return read_audio(item)
    value = item if isinstance(item, Mapping) else {}
    if value.get("bytes") is not None:
        return read_audio(io.BytesIO(value["bytes"]))
    if value.get("array") is not None:
        samples = np.asarray(value["array"])
        channels_first = samples.ndim == 2 and samples.shape[0] < samples.shape[1]  # as of Audio(mono=False)
        return from_samples(samples.T if channels_first else samples, int(value["sampling_rate"]))
    if value.get("path") is not None:
        return read_audio(value["path"])
    raise AudioError(f"expected a path, or a mapping with bytes, array or path, got {str(item)[:80]}")


def as_rows(clip: Embedded, spec: EmbeddingSpec) -> Iterator[dict[str, Any]]:
    """A clip's rows as dictionaries."""
    for readout, vectors in zip(spec.readouts, clip.vectors, strict=True):
        for time_ms, vector in zip(clip.times_ms.tolist(), vectors, strict=True):
            row: dict[str, Any] = {"path": clip.path, "segment": clip.segment}
            if spec.kind == "scene":
                row |= {"start_ms": clip.start_ms, "end_ms": clip.end_ms, "layer": str(readout.layer)}
            else:
                row |= {"layer": str(readout.layer), "time_ms": time_ms}
            yield row | {"vector": vector}
