"""Runs a classifier over files, over segments of them, or over a table of embeddings."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.classification.prediction_table import PredictionSpec, PredictionTableBuilder
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.data.windows import Windows
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.fingerprint import fingerprint, load_same
from maeast_upstream.readout import Readout

if TYPE_CHECKING:  # imported when it is needed, so that a finished output loads no torch
    from maeast_upstream.encoder import Encoder

logger = logging.getLogger(__name__)

BLOCK_ROWS = 256
"""Clips or windows that are classified together."""


def predict_files(
    classifier: Classifier,
    inputs: str | Path | Iterable[str | Path],
    encoder: "Encoder | None" = None,
    *,
    spec: PredictionSpec | None = None,
    windows: Windows | None = None,
    workers: int = 1,
    path_column: str | None = None,
    relative_to: str | Path | None = None,
    max_hours: float = MAX_HOURS,
    on_error: Callable[[str, str], None] | None = None,
    on_warning: Callable[[str, str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Label many files, one after the other, in constant memory: the rows of ``maeast predict``.

    Args:
        classifier: Of clips.
        inputs: As in `embed_files`; or one table of embeddings, which is read instead of being embedded.
        encoder: The one that the classifier was fitted with; None to load it.
        spec: Which labels are kept; None for the best one, or with multiple labels those above their thresholds.
        windows: How clips are cut; None for the windows that the classifier was fitted with.
        workers: As in `embed_files`, as the next arguments are.
        path_column: What manifests call the column of paths.
        relative_to: A folder in which the inputs are; ``path`` is relative to it.
        max_hours: Limit of the audio of a file.
        on_error: Called with the name of an input that cannot be read and the reason; None raises instead.
        on_warning: Called with the name of an input and what was noticed about it.

    Yields:
        path, segment, start_ms, end_ms, label, probability, margin; and ``p_LABEL`` for each label with all scores.

    Raises:
        ValueError: As in `embed_files`; the encoder or the table is of another checkpoint or readout; windows are given
            for a table.
    """
    from maeast_upstream.extract.api import embed_files

    embedding = embedding_spec(classifier, windows)
    builder = PredictionTableBuilder(classifier, embedding, spec or PredictionSpec(), {})
    if isinstance(inputs, Iterator):
        inputs = list(inputs)  # they are looked at twice
    if (table := table_among(inputs)) is not None:
        if windows is not None:
            raise ValueError(f"windows go with audio; {table} is a table of embeddings, which has its own")
        yield from itertools.chain.from_iterable(rows.to_pylist() for rows in predict_table(builder, table))
        return
    rows = embed_files(
        inputs,
        checked_encoder(classifier, encoder),
        readout=classifier.readout,
        windows=embedding.windows,
        workers=workers,
        path_column=path_column,
        relative_to=relative_to,
        max_hours=max_hours,
        on_error=on_error,
        on_warning=on_warning,
    )
    while block := list(itertools.islice(rows, BLOCK_ROWS)):
        columns = {name: [row[name] for row in block] for name in ("path", "segment", "start_ms", "end_ms")}
        yield from builder.predict(np.stack([row["vector"] for row in block]), **columns).to_pylist()


def checked_encoder(classifier: Classifier, encoder: "Encoder | None") -> "Encoder":
    """Return the encoder that a classifier was fitted with: the given one, or for None its checkpoint, loaded.

    Raises:
        ValueError: The given encoder, or what the checkpoint's name means now, is another one.
    """
    if encoder is None:
        return load_same(classifier.checkpoint, classifier.fingerprint)
    if fingerprint(encoder, classifier.readout) != classifier.fingerprint:
        raise ValueError(f"the classifier was fitted with another encoder, {classifier.checkpoint}; give that one")
    return encoder


def embedding_spec(classifier: Classifier, windows: Windows | None = None) -> EmbeddingSpec:
    """Return the embeddings that a classifier reads, by default in the windows that it was fitted with."""
    return EmbeddingSpec(readouts=(classifier.readout,), windows=windows or classifier.windows)


def table_among(inputs: str | Path | Iterable[str | Path]) -> Path | None:
    """Return the table of embeddings that the inputs are, a parquet file or a folder of them; None for audio.

    Raises:
        ValueError: A table is given with other inputs.
    """
    listed = [inputs] if isinstance(inputs, str | Path) or not isinstance(inputs, Iterable) else list(inputs)
    tables = [Path(item) for item in listed if isinstance(item, str | Path) and _is_table(Path(item))]
    if tables and len(listed) > 1:
        raise ValueError(f"{tables[0]}: a table of embeddings beside other inputs; give it alone")
    return tables[0] if tables else None


def _is_table(path: Path) -> bool:
    return path.suffix == ".parquet" or (path.is_dir() and next(path.glob("part-*.parquet"), None) is not None)


def predict_table(builder: PredictionTableBuilder, path: Path) -> Iterator[Any]:
    """Label the rows of a table of embeddings.

    Args:
        builder: Makes the rows.
        path: The table; its layers are searched for the classifier's readout.

    Yields:
        Rows as `pyarrow.Table`, for blocks of the table.

    Raises:
        ValueError: As in `EmbeddingTable`; the table is of another checkpoint, kind or readout.
    """
    table = open_table(builder.classifier, path)
    fitted_on = builder.classifier.windows
    if fitted_on is not None and table.origin is not None and table.origin.windows != fitted_on:
        logger.warning("%s: %s, and the classifier was fitted on %s", path,
                       described(table.origin.windows), described(fitted_on))  # fmt: skip
    for block in table.blocks():
        if np.isnan(block.end_ms).any():
            raise ValueError(f"{path}: rows without end_ms; expected a table that maeast embed wrote")
        clips: dict[str, Any] = {
            "path": block.paths,
            "segment": block.segments,
            "start_ms": block.start_ms,
            "end_ms": block.end_ms,
        }
        yield builder.predict(block.vectors, **clips)


def described(windows: Windows | None) -> str:
    """Describe how clips were cut."""
    return "whole clips" if windows is None else f"windows of {windows.seconds:g} s with {windows.overlap:g} s overlap"


def open_table(classifier: Classifier, path: Path) -> EmbeddingTable:
    """Open a table at the layer whose readout is the classifier's; ValueError if there is none."""
    origin = EmbeddingTable(path).origin
    if origin is None:
        raise ValueError(f"{path}: does not say which checkpoint made it; expected a table that maeast embed wrote")
    layers = [layer for layer, readout in origin.readouts.items() if readout == classifier.readout]
    # where dims or whitening differ, the fingerprints of the same checkpoint do, too
    own = (classifier.readout.dims, classifier.readout.whiten)
    same = {(readout.dims, readout.whiten) for readout in origin.readouts.values()} == {own}
    if same and origin.fingerprint != classifier.fingerprint:
        raise ValueError(
            f"{path}: made with another checkpoint, {origin.checkpoint}; the classifier was fitted with "
            f"{classifier.checkpoint}: embed the audio with that one"
        )
    if not layers:
        known = "; ".join(map(readout_options, origin.readouts.values()))
        raise ValueError(
            f"{path}: made with {known}; the classifier reads {readout_options(classifier.readout)}: embed the audio so"
        )
    return EmbeddingTable(path, layers[0], full=True)


def readout_options(readout: Readout) -> str:
    """Return a readout as options of ``maeast embed``."""
    hop = "native" if readout.hop_ms is None else f"{readout.hop_ms:g}"
    dims = "" if readout.dims is None else f" --dims {readout.dims}"
    white = " --whiten" if readout.whiten else " --no-whiten"
    return f"--layer {readout.layer} --mel {readout.mel} --pool {readout.pool} --hop-ms {hop}{white}{dims}"
