"""Reads a table of embeddings for a map: one parquet file, or a folder of parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.audio.constants import MAX_MS
from maeast_upstream.messages import shortened
from maeast_upstream.storage.text import refuse_endless

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENT_COLUMNS = ("start_ms", "end_ms")
"""Where a clip begins and ends in its file; tables of whole files may lack both."""
COLUMNS = ("path", "vector", "layer", *SEGMENT_COLUMNS)
OTHER_KINDS = {
    "time_ms": "has one row per time step; a map needs one per clip, so embed with --kind scene",
    "file": "lists npy files; a map needs a table, so embed without --format npy",
}
"""Columns of the other tables that ``maeast embed`` writes, and why they have no map."""
BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector per clip, from the same layer."""

    paths: list[str]
    """As they stand in the table: relative to the folder in which it was made."""
    vectors: np.ndarray
    """(rows, dimensions) float32, finite."""
    start_ms: np.ndarray
    """(rows,) float64: where the clip begins in its file."""
    end_ms: np.ndarray
    """(rows,) float64: where it ends; NaN for the end of the file."""
    layer: str | None = None
    """The layer that the vectors come from; None if the table has no column layer."""
    layers: tuple[str, ...] = ()
    """All layers of the table, in its order."""

    def take(self, rows: Sequence[int]) -> "Embeddings":
        """Return some of the rows."""
        return Embeddings(
            paths=[self.paths[row] for row in rows],
            # an index copies; all rows of a large table should not be copied
            vectors=self.vectors if len(rows) == len(self.paths) else self.vectors[rows],
            start_ms=self.start_ms[rows],
            end_ms=self.end_ms[rows],
            layer=self.layer,
            layers=self.layers,
        )


NO_ROWS = Embeddings(paths=[], vectors=np.zeros((0, 1), np.float32), start_ms=np.zeros(0), end_ms=np.zeros(0))


def read_embeddings(path: Path, layer: str | None = None) -> Embeddings:
    """Read the rows of a table of scene embeddings.

    Args:
        path: a parquet file, or a folder of them, with columns path and vector, and optionally layer, start_ms and
            end_ms.
        layer: which of the table's layers; None for its last.

    Raises:
        ValueError: there is no such file, it is not such a table, it has no such layer, or a value is not finite.
    """
    parts = _parts(path)
    layers = _layers(parts)
    if layer is not None and layer not in layers:
        raise ValueError(f"{path}: no layer {layer!r}; the table has {', '.join(layers) or 'no column layer'}")
    chosen = layer or (layers[-1] if layers else None)
    rows = [batch for part in parts for batch in _read_part(part, chosen)] or [NO_ROWS]
    widths = {batch.vectors.shape[1] for batch in rows}
    if len(widths) > 1:
        raise ValueError(f"{path}: parts with vectors of different lengths, {sorted(widths)}")
    return Embeddings(
        paths=[name for batch in rows for name in batch.paths],
        vectors=np.concatenate([batch.vectors for batch in rows]),
        start_ms=np.concatenate([batch.start_ms for batch in rows]),
        end_ms=np.concatenate([batch.end_ms for batch in rows]),
        layer=chosen,
        layers=layers,
    )


def _parts(path: Path) -> list[Path]:
    """Return the files of a table; names that begin with a dot belong to unfinished files."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; expected a table that maeast embed wrote")
    if not path.is_dir():
        refuse_endless(path)
        return [path]
    parts = sorted(part for part in path.rglob("*.parquet") if not part.name.startswith("."))
    if not parts:
        raise ValueError(f"{path}: not a table of embeddings (a folder without .parquet files)")
    return parts


def _batches(part: Path, columns: Sequence[str], layer: str | None = None) -> Iterator["pa.RecordBatch"]:
    """Yield some rows at a time, since a table may be larger than what is kept of it; absent columns are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            present = [column for column in columns if column in file.schema_arrow.names]
            if layer is not None and "layer" not in present:
                raise ValueError(f"{part}: no column layer, which other parts have")
            for batch in file.iter_batches(BATCH_ROWS, columns=present):
                yield (batch if layer is None else batch.filter(pc.equal(batch["layer"], layer)))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{part}: not a table of embeddings ({shortened(error)})") from error


def _layers(parts: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of the layers, in the order in which they first appear."""
    names: dict[str, None] = {}
    for part in parts:
        for batch in _batches(part, ["layer"]):
            if batch.num_columns:
                names.update(dict.fromkeys(map(str, batch["layer"].unique().to_pylist())))
    return tuple(names)


def _read_part(part: Path, layer: str | None) -> Iterator[Embeddings]:
    for batch in _batches(part, [*COLUMNS, *OTHER_KINDS], layer):
        present = set(batch.schema.names)
        for column, problem in OTHER_KINDS.items():
            if column in present:
                raise ValueError(f"{part}: {problem}")
        if not {"path", "vector"} <= present or not _is_vector(batch):
            raise ValueError(f"{part}: expected columns path and vector as maeast embed writes them")
        width = batch["vector"].type.list_size
        vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
        if not np.isfinite(vectors).all():
            raise ValueError(f"{part}: NaN or infinite values in the embeddings")
        start_ms, end_ms = (_times(part, batch, name) for name in SEGMENT_COLUMNS)
        yield Embeddings(
            paths=batch["path"].to_pylist(), vectors=vectors, start_ms=np.nan_to_num(start_ms), end_ms=end_ms
        )


def _is_vector(batch: "pa.RecordBatch") -> bool:
    import pyarrow as pa

    column, names = batch["vector"], batch["path"]
    is_vector = pa.types.is_fixed_size_list(column.type) and pa.types.is_floating(column.type.value_type)
    is_text = pa.types.is_string(names.type) or pa.types.is_large_string(names.type)
    return bool(is_vector and is_text and column.type.list_size and not column.null_count and not names.null_count)


def _times(part: Path, batch: "pa.RecordBatch", name: str) -> np.ndarray:
    """Return (rows,) float64, NaN where the column or a value is missing; ValueError for what is no time in ms."""
    import pyarrow as pa

    if name not in batch.schema.names:
        return np.full(batch.num_rows, np.nan)
    if not (pa.types.is_integer(batch[name].type) or pa.types.is_floating(batch[name].type)):
        raise ValueError(f"{part}: {name} holds no numbers, but {batch[name].type}")
    values: np.ndarray = batch[name].to_numpy(zero_copy_only=False).astype(np.float64)
    if not (np.isnan(values) | ((values >= 0) & (values <= MAX_MS))).all():
        raise ValueError(f"{part}: {name} is not from 0 to {MAX_MS:g} in every row")
    return values
