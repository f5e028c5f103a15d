"""Reads the parquet files of a table of embeddings: their columns, row groups and metadata, with checks of each."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.audio.constants import MAX_MS
from maeast_upstream.messages import shortened
from maeast_upstream.storage.text import refuse_endless

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENT_COLUMNS = ("start_ms", "end_ms")
"""Where a clip begins and ends in its file; tables of whole files may lack both."""
NAME_COLUMNS = ("path", "segment", *SEGMENT_COLUMNS)
"""What names a row."""
VECTOR_COLUMNS = ("vector", "scale")
"""The vectors; those of int8 are to be multiplied by the scale of their row."""
COLUMNS = (*NAME_COLUMNS, *VECTOR_COLUMNS)
OTHER_KINDS = {
    "time_ms": "has one row per time step; expected one per clip, so embed with --kind scene",
    "file": "lists npy files; expected a table of vectors, so embed without --format npy",
}
"""Columns of the other tables that ``maeast embed`` writes, and why they are none of clips."""
BUFFER_BYTES = 1 << 20
"""What is read of a column at a time; without a buffer it would be all of a row group, which may be a whole table."""
DIGEST_SAMPLES, DIGEST_BYTES, DIGEST_END = 64, 4096, 1 << 20
"""Number and size of the samples of a file, and the size of its end, that `digest_of` reads."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of one of the files, and where its rows are in the table."""

    file: Path
    number: int
    """Its number in the file."""
    first: int
    """Number of rows of the chosen layer before it in the table."""
    rows: int
    """Number of its rows of the chosen layer."""


def find_files(path: Path) -> list[Path]:
    """Return the files of a table; names that begin with a dot belong to unfinished files.

    Raises:
        ValueError: There are none.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; expected a table that maeast embed wrote")
    if not path.is_dir():
        refuse_endless(path)
        return [path]
    parts = sorted(part for part in path.rglob("*.parquet") if not part.name.startswith("."))
    if not parts:
        raise ValueError(f"{path}: not a table of embeddings (a folder without .parquet files)")
    return parts


def count_rows(files: Sequence[Path]) -> tuple[tuple[str, ...], list[tuple[Path, int, Counter[str] | int]]]:
    """Count the rows of each layer in each row group.

    Returns:
        The names of the layers in the order in which they first appear, and for each row group its file, number, and
        rows by layer, or all rows where there is no column of layers.

    Raises:
        ValueError: A file is broken.
    """
    layers: dict[str, None] = {}
    groups: list[tuple[Path, int, Counter[str] | int]] = []
    for part in files:
        with opened(part) as file:
            for number in range(file.num_row_groups):
                if "layer" not in file.schema_arrow.names:
                    groups.append((part, number, file.metadata.row_group(number).num_rows))
                    continue
                counts: Counter[str] = Counter()
                for batch in read_batches(part, file, ["layer"], [number], 1 << 16):
                    for entry in batch["layer"].value_counts():
                        counts[str(entry["values"])] += entry["counts"].as_py()
                layers.update(dict.fromkeys(counts))
                groups.append((part, number, counts))
    return tuple(layers), groups


def row_groups(counted: Sequence[tuple[Path, int, Counter[str] | int]], layer: str | None) -> list[RowGroup]:
    """Return the row groups that have rows of a layer.

    Raises:
        ValueError: A file has no column of layers, and others have.
    """
    groups, first = [], 0
    for part, number, counts in counted:
        if layer is not None and isinstance(counts, int):
            raise ValueError(f"{part}: no column layer, which other parts have")
        rows = counts if isinstance(counts, int) else counts[str(layer)]
        if rows:
            groups.append(RowGroup(part, number, first, rows))
        first += rows
    return groups


def opened(part: Path) -> Any:
    """Open a parquet file.

    Raises:
        ValueError: It is none, or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(part, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{part}: not a table of embeddings ({shortened(error)})") from error


def read_batches(
    part: Path, file: Any, columns: Sequence[str], groups: Sequence[int], rows: int, layer: str | None = None
) -> Iterator["pa.RecordBatch"]:
    """Yield some rows of an opened file at a time; absent columns are left out.

    Args:
        part: Its name, for messages.
        file: As `opened` returns it.
        columns: Names of columns.
        groups: Numbers of row groups.
        rows: Length of a batch at most.
        layer: The layer whose rows are read; None for all rows.

    Raises:
        ValueError: The file is broken.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = [*columns, "layer"] if layer is not None else columns
    present = [column for column in wanted if column in file.schema_arrow.names]
    try:
        for batch in file.iter_batches(rows, row_groups=list(groups), columns=present, use_threads=False):
            batch.validate(full=True)  # names may hold bytes that are no text
            yield (batch if layer is None else batch.filter(pc.equal(batch["layer"], layer)))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{part}: not a table of embeddings ({shortened(error)})") from error


def checked_width(part: Path, schema: "pa.Schema") -> int:
    """Return the length of the vectors of a file; ValueError if it is not a table of scene embeddings."""
    import pyarrow as pa

    for column, problem in OTHER_KINDS.items():
        if column in schema.names:
            raise ValueError(f"{part}: {problem}")
    fields = [field for name in ("path", "vector", "scale") for field in schema if field.name == name]
    kinds = {field.name: field.type for field in fields}
    vector, path, scale = (kinds.get(name, pa.null()) for name in ("vector", "path", "scale"))
    is_text = pa.types.is_string(path) or pa.types.is_large_string(path)
    is_list = pa.types.is_fixed_size_list(vector) and vector.list_size
    is_float = is_list and pa.types.is_floating(vector.value_type)
    is_scaled = is_list and vector.value_type == pa.int8() and pa.types.is_floating(scale)
    if len(fields) != len(kinds) or not (is_text and (is_float or is_scaled)):
        raise ValueError(
            f"{part}: not a table of embeddings; expected columns path and vector as maeast embed writes them"
        )
    return int(vector.list_size)


def refuse_other_width(table: Path, part: Path, schema: "pa.Schema", width: int) -> None:
    """Raise ValueError if the vectors of a file of a table have another length than those of its first file."""
    found = checked_width(part, schema)
    if found != width:
        raise ValueError(f"{table}: parts with vectors of different lengths, {sorted({width, found})}")


def paths_of(part: Path, batch: "pa.RecordBatch") -> list[str]:
    """Return the names of the files of the rows."""
    if batch["path"].null_count:
        raise ValueError(f"{part}: expected columns path and vector as maeast embed writes them, got rows without path")
    paths: list[str] = batch["path"].to_pylist()
    return paths


def stored_vectors(part: Path, batch: "pa.RecordBatch", width: int) -> np.ndarray:
    """Return (rows, width) vectors as they are stored: float32, float16, or int8 without their scale."""
    column = batch["vector"]
    if column.null_count or column.flatten().null_count:
        raise ValueError(f"{part}: expected columns path and vector as maeast embed writes them, got missing values")
    vectors: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return vectors.astype(np.float32) if vectors.dtype == np.float64 else vectors


def float_vectors(part: Path, batch: "pa.RecordBatch", width: int) -> np.ndarray:
    """Return (rows, width) float32 vectors.

    Raises:
        ValueError: One is not finite, or has no scale.
    """
    stored = stored_vectors(part, batch, width)
    vectors = stored.astype(np.float32)
    if stored.dtype == np.int8:
        scale = batch["scale"].to_numpy(zero_copy_only=False).astype(np.float32)  # NaN for a missing one
        with np.errstate(over="ignore", invalid="ignore"):
            vectors *= scale[:, None]
    if not np.isfinite(vectors).all():
        raise ValueError(f"{part}: NaN or infinite values in the embeddings")
    return vectors


def segments_of(part: Path, batch: "pa.RecordBatch") -> np.ndarray:
    """Return (rows,) int64, 0 where the column is missing."""
    import pyarrow as pa

    if "segment" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64)
    if not pa.types.is_integer(batch["segment"].type) or batch["segment"].null_count:
        raise ValueError(f"{part}: segment holds no numbers, but {batch['segment'].type}")
    numbers: np.ndarray = batch["segment"].to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def times_of(part: Path, batch: "pa.RecordBatch", name: str) -> np.ndarray:
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


def digest_of(parts: Sequence[Path], layer: str | None) -> str:
    """Return a digest of files: of the size and the end of each, where its metadata stand, and of samples between."""
    digest = hashlib.sha256(repr(layer).encode())
    for part in parts:
        size = part.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with part.open("rb") as file:
            for number in range(DIGEST_SAMPLES):
                file.seek(size * number // DIGEST_SAMPLES)
                digest.update(file.read(DIGEST_BYTES))
            file.seek(max(0, size - DIGEST_END))
            digest.update(file.read())
    return digest.hexdigest()
