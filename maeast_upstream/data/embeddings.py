"""Reads a table of embeddings: one parquet file, or a folder of parts.

`EmbeddingTable` reads a table of any size in blocks; `read_embeddings` reads all of its rows at once.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.audio.constants import MAX_MS
from maeast_upstream.data.windows import Windows
from maeast_upstream.messages import shortened
from maeast_upstream.readout import Readout
from maeast_upstream.storage.text import refuse_endless

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = "maeast"
"""Key of the schema's metadata that tells, as JSON, how a table was made."""
SEGMENT_COLUMNS = ("start_ms", "end_ms")
"""Where a clip begins and ends in its file; tables of whole files may lack both."""
COLUMNS = ("path", "segment", "vector", "layer", *SEGMENT_COLUMNS)
OTHER_KINDS = {
    "time_ms": "has one row per time step; expected one per clip, so embed with --kind scene",
    "file": "lists npy files; expected a table of vectors, so embed without --format npy",
}
"""Columns of the other tables that ``maeast embed`` writes, and why they are none of clips."""
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
    segments: np.ndarray
    """(rows,) int64: the number of the clip among those of its file or manifest, see `Segment.number`."""
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
            segments=self.segments[rows],
            layer=self.layer,
            layers=self.layers,
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How ``maeast embed`` made a table, as the table's metadata say."""

    checkpoint: str
    """Its name as the user gave it: "bundled", a path or a hub id."""
    fingerprint: str
    """Identifies the weights, see `maeast_upstream.fingerprint`."""
    kind: str
    """scene or frames."""
    readouts: Mapping[str, Readout]
    """By the name of the layer as the column ``layer`` has it."""
    windows: Windows | None
    """The windows that long files were cut into; None for one row per clip."""


class EmbeddingTable:
    """A table of scene embeddings on disk."""

    def __init__(self, path: str | Path, layer: str | None = None) -> None:
        """Find the files of a table and read its layers.

        Args:
            path: A parquet file, or a folder of them, with columns path and vector, and optionally segment, layer,
                start_ms and end_ms.
            layer: Which of the table's layers; None for its last.

        Raises:
            ValueError: There is no such file, it is not such a table, or it has no such layer.
        """
        self.path = Path(path)
        self._files = _parts(self.path)
        self.layers = _layers(self._files)
        if layer is not None and layer not in self.layers:
            known = ", ".join(self.layers) or "no column layer"
            raise ValueError(f"{self.path}: no layer {layer!r}; the table has {known}")
        self.layer = layer or (self.layers[-1] if self.layers else None)
        first = next(_batches(self._files[0], [*COLUMNS, *OTHER_KINDS]), None)
        self.dimensions = 0 if first is None else _checked_width(self._files[0], first)
        """Length of a vector; 0 for a table without rows."""
        self.rows = _count(self._files, self.layer, self.layers)
        """Number of rows of the chosen layer."""
        self.origin = _origin(self._files[0])
        """How the table was made; None for a table of another program."""

    @property
    def readout(self) -> Readout | None:
        """The readout of the chosen layer; None for a table of another program."""
        return None if self.origin is None else self.origin.readouts.get(self.layer or "")

    def blocks(self, rows: int = BATCH_ROWS) -> Iterator[Embeddings]:
        """Yield consecutive rows in blocks of at most ``rows``, which bound memory; no block is empty.

        Raises:
            ValueError: A part is broken or its vectors have another length, or a value is not finite.
        """
        for part in self._files:
            for batch in _batches(part, [*COLUMNS, *OTHER_KINDS], self.layer, rows):
                if batch.num_rows:
                    yield self._block(part, batch)

    def _block(self, part: Path, batch: "pa.RecordBatch") -> Embeddings:
        width = _checked_width(part, batch)
        if width != self.dimensions:
            widths = sorted({self.dimensions, width})
            raise ValueError(f"{self.path}: parts with vectors of different lengths, {widths}")
        vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
        if not np.isfinite(vectors).all():
            raise ValueError(f"{part}: NaN or infinite values in the embeddings")
        start_ms, end_ms = (_times(part, batch, name) for name in SEGMENT_COLUMNS)
        return Embeddings(
            paths=batch["path"].to_pylist(),
            vectors=vectors,
            start_ms=np.nan_to_num(start_ms),
            end_ms=end_ms,
            segments=_segments(part, batch),
            layer=self.layer,
            layers=self.layers,
        )


def read_embeddings(path: str | Path, layer: str | None = None) -> Embeddings:
    """Read all rows of a table of scene embeddings; the arguments and errors are those of `EmbeddingTable`."""
    table = EmbeddingTable(path, layer)
    return joined(list(table.blocks()), table.layer, table.layers)


def joined(blocks: Sequence[Embeddings], layer: str | None = None, layers: tuple[str, ...] = ()) -> Embeddings:
    """Return the rows of several blocks as one."""
    none = np.zeros(0)
    return Embeddings(
        paths=list(itertools.chain.from_iterable(block.paths for block in blocks)),
        vectors=np.concatenate([block.vectors for block in blocks]) if blocks else np.zeros((0, 1), np.float32),
        start_ms=np.concatenate([none, *(block.start_ms for block in blocks)]),
        end_ms=np.concatenate([none, *(block.end_ms for block in blocks)]),
        segments=np.concatenate([none.astype(np.int64), *(block.segments for block in blocks)]),
        layer=layer,
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


def _batches(
    part: Path, columns: Sequence[str], layer: str | None = None, rows: int = BATCH_ROWS
) -> Iterator["pa.RecordBatch"]:
    """Yield some rows at a time, since a table may be larger than what is kept of it; absent columns are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            present = [column for column in columns if column in file.schema_arrow.names]
            if layer is not None and "layer" not in present:
                raise ValueError(f"{part}: no column layer, which other parts have")
            for batch in file.iter_batches(rows, columns=present):
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


def _count(parts: Sequence[Path], layer: str | None, layers: Sequence[str]) -> int:
    if len(layers) > 1:
        return sum(batch.num_rows for part in parts for batch in _batches(part, ["layer"], layer))
    return sum(_metadata(part).num_rows for part in parts)


def _metadata(part: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(part)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{part}: not a table of embeddings ({shortened(error)})") from error


def _origin(part: Path) -> Origin | None:
    """Read how a table was made; None if its metadata do not tell."""
    try:
        content = json.loads((_metadata(part).metadata or {})[METADATA_KEY.encode()])
        settings = content["settings"]
        windows = settings.get("windows")
        return Origin(
            checkpoint=str(content["checkpoint"]),
            fingerprint=str(settings["checkpoint"]),
            kind=str(settings["kind"]),
            readouts={str(name): Readout(**readout) for name, readout in settings["readouts"].items()},
            windows=None if windows is None else Windows(**windows),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _checked_width(part: Path, batch: "pa.RecordBatch") -> int:
    """Return the length of the vectors of a batch; ValueError if it is not one of scene embeddings."""
    present = set(batch.schema.names)
    for column, problem in OTHER_KINDS.items():
        if column in present:
            raise ValueError(f"{part}: {problem}")
    if not {"path", "vector"} <= present or not _is_vector(batch):
        raise ValueError(f"{part}: expected columns path and vector as maeast embed writes them")
    return int(batch["vector"].type.list_size)


def _segments(part: Path, batch: "pa.RecordBatch") -> np.ndarray:
    """Return (rows,) int64, 0 where the column is missing."""
    import pyarrow as pa

    if "segment" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64)
    if not pa.types.is_integer(batch["segment"].type) or batch["segment"].null_count:
        raise ValueError(f"{part}: segment holds no numbers, but {batch['segment'].type}")
    numbers: np.ndarray = batch["segment"].to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


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
