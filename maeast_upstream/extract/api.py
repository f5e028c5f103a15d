"""Python interface for embedding many files: `embed_files` and `Embedder`."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.audio.reading import AudioError, AudioWarning, read_audio
from maeast_upstream.config import scene_width
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.data.relative_names import Root
from maeast_upstream.data.windows import Windows
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.extract.pipeline import embed_decoded, refuse_training
from maeast_upstream.extract.table import Embedded, EmbeddingKind, EmbeddingSpec
from maeast_upstream.extract.whole_clips import only_whole
from maeast_upstream.readout import Readout
from maeast_upstream.waveforms import to_clips, to_mono


def embed_files(
    inputs: str | Path | Iterable[str | Path],
    encoder: Encoder | None = None,
    *,
    kind: EmbeddingKind = "scene",
    readout: Readout | Sequence[Readout] | None = None,
    windows: Windows | None = None,
    workers: int = 1,
    path_column: str | None = None,
    relative_to: str | Path | None = None,
    max_hours: float = MAX_HOURS,
    on_error: Callable[[str, str], None] | None = None,
    on_warning: Callable[[str, str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Embeddings of many files, one after the other, in constant memory: the rows of ``maeast embed``.

    Args:
        inputs: what `maeast embed` takes: files, folders, manifests, tars; one or several.
        encoder: None for the checkpoint in the package.
        kind: "scene" for one row per clip, "frames" for one row per time step.
        readout: None for the checkpoint's own, of which time steps are not projected; several give a row each.
        windows: how to cut clips into windows, a row each: ``Windows(5, overlap=0.5)``, in seconds. The last window
            ends at the clip's end; a clip that is not longer than a window is one. None for one row per clip.
        workers: processes that decode; 0 for a thread.
        path_column: what manifests call the column of paths; None for ``path``.
        relative_to: a folder in which the inputs are; ``path`` is relative to it. None for paths as they are given.
        max_hours: limit of the audio of a file; a longer one is an input that cannot be read.
        on_error: called with the name of an input that cannot be read and the reason; None raises instead.
        on_warning: called with the name of an input and what was noticed about it, such as a header that promises more
            than there is; None gives an `AudioWarning` instead.

    Yields:
        path, segment, start_ms, end_ms (scene) or time_ms (frames), layer, vector ((E,) float32).

    Raises:
        ValueError: an input does not exist, or (``on_error`` None) cannot be read; the encoder is in train mode.
    """
    encoder = encoder or load_model()
    own = encoder.config.readout
    readout = readout or (own.full if kind == "frames" else own)
    readouts = (readout,) if isinstance(readout, Readout) else tuple(readout)
    spec = EmbeddingSpec(kind=kind, readouts=readouts, windows=windows)
    spec.width(encoder.config)
    root = None if relative_to is None else Root(relative_to)
    segments = list_segments(inputs, path_column=path_column, relative_to=root)
    with DecodePool(workers, max_hours=max_hours) as pool:
        for outcome in only_whole(embed_decoded(pool.stream(segments), encoder, spec)):
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

    The audio column holds what any version of ``datasets`` gives: decoders (4 and newer), mappings with array and
    sampling_rate (before 4), or mappings with bytes or path (``Audio(decode=False)``). Or it holds paths.
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
            AudioError: a clip cannot be read; the message has its row in the batch.
            ValueError: the batch has no such column, or is a single row; the encoder is in train mode.
        """
        refuse_training(self.encoder)
        if not isinstance(batch, Mapping):
            raise ValueError(f"expected a batch, columns by name, got {type(batch).__name__}")
        if self.audio not in batch:
            raise ValueError(f"no column {self.audio!r}: give Embedder(audio=...) one of {', '.join(batch)}")
        column = batch[self.audio]
        if isinstance(column, str | Mapping) or not isinstance(column, Iterable) or hasattr(column, "get_all_samples"):
            raise ValueError("expected a batch of rows, got one row: give dataset.map(..., batched=True)")
        clips = [torch.from_numpy(row_waveform(item, f"row {row}")) for row, item in enumerate(column)]
        if not clips:
            width = scene_width(self.encoder.config, self.encoder.config.readout)
            return {self.column: np.empty((0, width), np.float32)}
        with torch.no_grad():
            (vectors,) = self.encoder.embed_readouts(clips, [self.encoder.config.readout])
        return {self.column: vectors.cpu().numpy()}


def row_waveform(item: Any, name: str) -> np.ndarray:
    """A row of a ``datasets`` audio column -> (S,) float32 at 16 kHz, or AudioError."""
    try:
        return waveform_of(item)
    except (ValueError, RuntimeError) as error:  # RuntimeError: torchcodec cannot decode the row
        raise AudioError(f"{name}: {error}") from error


def waveform_of(item: Any) -> np.ndarray:
    """A value of a ``datasets`` audio column -> (S,) float32 at 16 kHz; ValueError or RuntimeError if it is none."""
    if isinstance(item, str | Path):
        return read_audio(item)
    if hasattr(item, "get_all_samples"):  # a decoder of torchcodec
        decoded = item.get_all_samples()
        return to_mono(decoded.data, decoded.sample_rate)
    if type(item).__name__ == "AudioDecoder":  # of datasets
        return to_mono(item["array"], item["sampling_rate"])
    if isinstance(item, Mapping):
        if item.get("bytes") is not None:
            return read_audio(io.BytesIO(item["bytes"]))
        if item.get("array") is not None:
            if item.get("sampling_rate") is None:
                raise ValueError("an array without sampling_rate: add it to the mapping, in Hz")
            return to_mono(item["array"], item["sampling_rate"])
        if item.get("path") is not None:
            return read_audio(item["path"])
    raise ValueError(f"expected a path, or a mapping with bytes, array or path, got {type(item).__name__}")


def clip_of(item: Any, name: str, sample_rate: float | None = None) -> torch.Tensor:
    """Convert one recording to (S,) float32 at 16 kHz.

    Args:
        item: (S,) samples as an array, a tensor or a list; or what `Embedder` takes: a path, a mapping or a decoder.
            Or a mapping that has any of these as "audio", as sentence-transformers and MTEB hand them over.
        name: What to call it in errors.
        sample_rate: Of samples without a rate; None for 16 kHz.

    Raises:
        AudioError: It cannot be read, or it cannot be meant as audio; one line says what was expected.
    """
    if isinstance(item, Mapping) and set(item) == {"audio"}:
        item = item["audio"]
    if not (isinstance(item, torch.Tensor | list) or hasattr(item, "__array__")):
        return torch.from_numpy(row_waveform(item, name))
    try:
        (clip,) = to_clips([item], sample_rate=sample_rate)
    except ValueError as error:
        raise AudioError(str(error).replace("clip 0", name, 1)) from error
    return clip


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
