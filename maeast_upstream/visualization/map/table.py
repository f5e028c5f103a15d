"""Reads what ``maeast embed`` wrote, one parquet file or a folder of parts, for a map of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONAL = ("start_ms", "end_ms", "duration_s", "layer")
"""Columns that older tables lack, or newer ones."""
BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector a clip, of one layer."""

    paths: list[str]
    """As they stand in the table: relative to the folder in which it was made."""
    vectors: np.ndarray
    """(rows, dimensions) float32, finite."""
    start_ms: np.ndarray
    """(rows,) float64: where the clip begins in its file."""
    end_ms: np.ndarray
    """(rows,) float64: where it ends; NaN where the table does not say."""
    layer: str | None = None
    """The layer that the rows are of; None where the table does not say."""
    layers: tuple[str, ...] = ()
    """All layers of the table, in its order."""

    def take(self, rows: Sequence[int]) -> "Embeddings":
        """Some of the rows."""
        return Embeddings(
            paths=[self.paths[row] for row in rows],
            # an index copies; all rows of a large table should not
            vectors=self.vectors if len(rows) == len(self.paths) else self.vectors[rows],
            start_ms=self.start_ms[rows],
            end_ms=self.end_ms[rows],
            layer=self.layer,
            layers=self.layers,
        )


NO_ROWS = Embeddings(
    paths=[],
    vectors=np.zeros((0, 1), np.float32),
    start_ms=np.zeros(0),
    end_ms=np.zeros(0),
)


def read_embeddings(path: Path, layer: str | None = None) -> Embeddings:
    """The rows of a table of scene embeddings.

    Args:
        path: a parquet file, or a folder of them. Columns path and vector; where there are, start_ms, end_ms, layer.
        layer: which of the table's layers; None for its last.

    Raises:
        ValueError: no parquet file, not the columns of ``maeast embed``, one row a time step, no such layer, or
            values that are not finite.
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
    """The files of a table; what begins with a dot is not finished."""
    if not path.is_dir():
        return [path]
    parts = sorted(part for part in path.rglob("*.parquet") if not part.name.startswith("."))
    if not parts:
        raise ValueError(f"{path}: not a table of embeddings (a folder without .parquet files)")
    return parts


def _batches(part: Path, columns: Sequence[str], layer: str | None = None) -> Iterator["pa.RecordBatch"]:
    """Those of the columns that there are, some rows at a time: a table may be larger than what is kept of it."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            there = [column for column in columns if column in file.schema_arrow.names]
            if layer is not None and "layer" not in there:
                raise ValueError(f"{part}: no column layer, which other parts have")
            for batch in file.iter_batches(BATCH_ROWS, columns=there):
                yield (batch if layer is None else batch.filter(pc.equal(batch["layer"], layer)))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{part}: not a table of embeddings ({' '.join(str(error).split())[:120]})") from error


def _layers(parts: Sequence[Path]) -> tuple[str, ...]:
    """Names of the layers, in the order in which they first appear."""
    found: dict[str, None] = {}
    for part in parts:
        for batch in _batches(part, ["layer"]):
            if batch.num_columns:
                found.update(dict.fromkeys(batch["layer"].unique().to_pylist()))
    return tuple(found)


def _read_part(part: Path, layer: str | None) -> Iterator[Embeddings]:
    columns = ["path", "vector", "time_ms", "file", *OPTIONAL]
    for batch in _batches(part, columns, layer):
        if "time_ms" in batch.schema.names:
            raise ValueError(f"{part}: one row a time step; a map needs one a clip, so embed with --kind scene")
        if "file" in batch.schema.names and "vector" not in batch.schema.names:
            raise ValueError(
                f"{part}: its vectors lie in npy files; a map needs a table, so embed without --format npy"
            )
        if not {"path", "vector"} <= set(batch.schema.names) or not _is_vector(batch):
            raise ValueError(f"{part}: expected columns path and vector as maeast embed writes them")
        width = batch["vector"].type.list_size
        vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
        if not np.isfinite(vectors).all():
            raise ValueError(f"{part}: NaN or infinite values in the embeddings")
        start_ms, end_ms = _stretches(batch)
        yield Embeddings(
            paths=batch["path"].to_pylist(),
            vectors=vectors,
            start_ms=start_ms,
            end_ms=end_ms,
        )


def _is_vector(batch: "pa.RecordBatch") -> bool:
    import pyarrow as pa

    column = batch["vector"]
    typed = pa.types.is_fixed_size_list(column.type) and pa.types.is_floating(column.type.value_type)
    return bool(typed and not column.null_count and not batch["path"].null_count)


def _stretches(batch: "pa.RecordBatch") -> tuple[np.ndarray, np.ndarray]:
    """(rows,) start and end in ms: from their columns, else the whole file."""
    unknown = np.full(batch.num_rows, np.nan)
    columns = {name: _numbers(batch, name) if name in batch.schema.names else unknown for name in OPTIONAL[:3]}
    end_ms = np.where(np.isnan(columns["end_ms"]), columns["duration_s"] * 1000, columns["end_ms"])
    return np.nan_to_num(columns["start_ms"]), end_ms


def _numbers(batch: "pa.RecordBatch", name: str) -> np.ndarray:
    import pyarrow as pa

    values: np.ndarray = batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
