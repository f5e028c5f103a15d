"""Reads a table of embeddings: one parquet file, or a folder of parts.

`EmbeddingTable` reads a table of any size in blocks; `read_embeddings` reads all of its rows at once.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.data import embedding_files as files
from maeast_upstream.data.reduction import Reduction
from maeast_upstream.data.relative_names import ROOT_KEY, found_root, located
from maeast_upstream.data.scanning import AddBlock, scan_vectors
from maeast_upstream.data.windows import Windows
from maeast_upstream.readout import Readout

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = "maeast"
"""Key of the schema's metadata that tells, as JSON, how a table was made."""
REDUCTION_KEY = "maeast.reduction"
"""Key of a file's metadata for the principal components that its vectors were reduced to, see `Reduction.to_text`."""
BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector per clip, from the same layer."""

    paths: list[str]
    """As they stand in the table: relative to `root`, or to the folder in which it was made."""
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
    root: str = ""
    """The folder that relative paths start at, for `segment_of`; "" for the current one."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.paths)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def files(self) -> list[str]:
        """The paths as they are found from the current folder."""
        return [located(path, self.root) for path in self.paths]

    def scan(self, add: AddBlock) -> None:
        """Do what `EmbeddingTable.scan` does."""
        if self.paths:
            add(0, self.vectors)

    def named(self, name: str) -> Iterator[tuple[int, "Embeddings"]]:
        """Do what `EmbeddingTable.named` does."""
        for row, path in enumerate(self.paths):
            if path.endswith(name):
                yield row, self.take([row])

    def take(self, rows: Sequence[int], vectors: bool = True) -> "Embeddings":
        """Return some of the rows; ``vectors`` is that of `EmbeddingTable.take`, and costs nothing here."""
        return Embeddings(
            paths=[self.paths[row] for row in rows],
            # an index copies; all rows of a large table should not be copied
            vectors=self.vectors if np.array_equal(rows, range(len(self.paths))) else self.vectors[rows],
            start_ms=self.start_ms[rows],
            end_ms=self.end_ms[rows],
            segments=self.segments[rows],
            layer=self.layer,
            layers=self.layers,
            root=self.root,
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
    reduction: Reduction | None = None
    """How vectors of the readout became those of the table; None if they are these themselves."""


class EmbeddingTable:
    """A table of scene embeddings on disk."""

    def __init__(self, path: str | Path, layer: str | None = None, full: bool = False) -> None:
        """Find the files of a table and read its layers.

        Args:
            path: A parquet file, or a folder of them, with columns path and vector, and optionally segment, layer,
                start_ms and end_ms.
            layer: Which of the table's layers; None for its last.
            full: Whether vectors that ``maeast embed --dims`` reduced are given as the readout's, as near as their
                principal components come; False for vectors as they are stored.

        Raises:
            ValueError: There is no such file, it is not such a table, or it has no such layer.
        """
        self.path = Path(path)
        found = files.find_files(self.path)
        self.layers, counted = files.count_rows(found)
        if layer is not None and layer not in self.layers:
            known = ", ".join(self.layers) or "no column layer"
            raise ValueError(f"{self.path}: no layer {layer!r}; the table has {known}")
        self.layer = layer or (self.layers[-1] if self.layers else None)
        self._groups = files.row_groups(counted, self.layer)
        self.rows = sum(group.rows for group in self._groups)
        """Number of rows of the chosen layer."""
        part = self._groups[0].file if self._groups else found[0]
        with files.opened(part) as file:
            self._stored = files.checked_width(part, file.schema_arrow) if self._groups else 0
            self.root = _root(dict(file.metadata.metadata or {}))
            """The folder that its paths are relative to, if they were made so (``--relative-to``) and it is there."""
            self.origin = _origin(part, dict(file.metadata.metadata or {}), self._stored)
            """How the table was made; None for a table of another program."""
        self._reduction = self.origin.reduction if self.origin and full else None
        self.dimensions = self._stored if self._reduction is None else self._reduction.components.shape[1]
        """Length of a vector; 0 for a table without rows."""

    @property
    def readout(self) -> Readout | None:
        """The readout of the chosen layer; None for a table of another program."""
        return None if self.origin is None else self.origin.readouts.get(self.layer or "")

    def blocks(self, rows: int = BATCH_ROWS) -> Iterator[Embeddings]:
        """Yield consecutive rows in blocks of at most ``rows``, which bound memory; no block is empty.

        Raises:
            ValueError: A part is broken or its vectors have another length, or a value is not finite.
        """
        for group, _, batch in self._batches(self._groups, files.COLUMNS, rows):
            yield self._block(group.file, batch)

    def scan(self, add: AddBlock) -> None:
        """Pass all vectors to a function, in several threads and in any order; the quickest way through a table.

        Args:
            add: Called with the number of a block's first row, and its (n, E) vectors as they are stored: float32,
                float16, or int8 without the scale of each row.

        Raises:
            ValueError: A part is broken or its vectors have another length.
        """
        scan_vectors(self.path, self._groups, self._stored, self.layer if len(self.layers) > 1 else None, add)

    def take(self, rows: Sequence[int], vectors: bool = True) -> Embeddings:
        """Return some of the rows; other row groups are not read.

        Args:
            rows: Their numbers, in any order.
            vectors: False for rows without their vectors, which is quicker.
        """
        columns, block = (files.COLUMNS, self._block) if vectors else (files.NAME_COLUMNS, self._names)
        wanted = np.unique(np.asarray(rows, np.int64))
        starts = [group.first for group in self._groups]
        used = {int(number) for number in np.searchsorted(starts, wanted, side="right") - 1}
        blocks = []
        for group, first, batch in self._batches([self._groups[i] for i in sorted(used)], columns, BATCH_ROWS):
            inside = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
            if len(inside):
                blocks.append(block(group.file, batch.take(inside)))
        return joined(blocks, self.layer, self.layers).take(np.searchsorted(wanted, rows).tolist())

    def named(self, name: str) -> Iterator[tuple[int, Embeddings]]:
        """Yield the number of each row whose path ends with ``name``, and the row without its vector."""
        import pyarrow.compute as pc

        for group, first, batch in self._batches(self._groups, files.NAME_COLUMNS, 1 << 16):
            for row in np.flatnonzero(pc.ends_with(batch["path"], name).to_numpy(zero_copy_only=False)):
                yield first + int(row), self._names(group.file, batch.slice(row, 1))

    @cached_property
    def digest(self) -> str:
        """Identifies the content of the table, by its files' metadata and by samples of their bytes."""
        return files.digest_of(list(dict.fromkeys(group.file for group in self._groups)), self.layer)

    def _batches(
        self, groups: Iterable[files.RowGroup], columns: Sequence[str], rows: int
    ) -> Iterator[tuple[files.RowGroup, int, "pa.RecordBatch"]]:
        """Yield batches of row groups that are not empty, and the number of each batch's first row in the table."""
        layer = self.layer if len(self.layers) > 1 else None
        for part, of_part in itertools.groupby(groups, lambda group: group.file):
            with files.opened(part) as file:
                files.refuse_other_width(self.path, part, file.schema_arrow, self._stored)
                for group in of_part:
                    first = group.first
                    for batch in files.read_batches(part, file, columns, [group.number], rows, layer):
                        if batch.num_rows:
                            yield group, first, batch
                        first += batch.num_rows

    def numbers(self, column: str) -> np.ndarray | None:
        """Return another column of whole numbers, such as ``cluster``: (rows,) int64; None if the table has none.

        Raises:
            ValueError: A part is broken or lacks the column, or the column has other values.
        """
        import pyarrow as pa

        values = [np.zeros(0, np.int64)]
        for group in self._groups:
            with files.opened(group.file) as file:
                if column not in file.schema_arrow.names:
                    if len(values) == 1:
                        return None
                    raise ValueError(f"{group.file}: no column {column}, which other parts have")
            for _, _, batch in self._batches([group], [column], 1 << 16):
                if not pa.types.is_integer(batch[column].type) or batch[column].null_count:
                    raise ValueError(f"{group.file}: {column} holds no whole numbers, but {batch[column].type}")
                values.append(batch[column].to_numpy(zero_copy_only=False).astype(np.int64))
        return None if len(values) == 1 else np.concatenate(values)

    def _block(self, part: Path, batch: "pa.RecordBatch") -> Embeddings:
        vectors = files.float_vectors(part, batch, self._stored)
        if self._reduction is not None:
            vectors = self._reduction.restore(vectors)
        return replace(self._names(part, batch), vectors=vectors)

    def _names(self, part: Path, batch: "pa.RecordBatch") -> Embeddings:
        start_ms, end_ms = (files.times_of(part, batch, name) for name in files.SEGMENT_COLUMNS)
        return Embeddings(
            paths=files.paths_of(part, batch),
            vectors=np.zeros((batch.num_rows, 0), np.float32),
            start_ms=np.nan_to_num(start_ms),
            end_ms=end_ms,
            segments=files.segments_of(part, batch),
            layer=self.layer,
            layers=self.layers,
            root=self.root,
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
        root=blocks[0].root if blocks else "",
    )


def _root(metadata: Mapping[bytes, bytes]) -> str:
    """Read which folder the paths of a table are relative to; "" if that is not told, or there is no such folder."""
    try:
        return found_root(json.loads(metadata[METADATA_KEY.encode()])["settings"][ROOT_KEY])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ""


def _origin(part: Path, metadata: Mapping[bytes, bytes], width: int) -> Origin | None:
    """Read how a table was made; None if its metadata do not tell.

    Raises:
        ValueError: Its vectors were reduced, and the metadata do not say how.
    """
    try:
        content = json.loads(metadata[METADATA_KEY.encode()])
        settings = content["settings"]
        windows = settings.get("windows")
        origin = Origin(
            checkpoint=str(content["checkpoint"]),
            fingerprint=str(settings["checkpoint"]),
            kind=str(settings["kind"]),
            readouts={str(name): Readout(**readout) for name, readout in settings["readouts"].items()},
            windows=None if windows is None else Windows(**windows),
        )
        is_reduced = settings.get("dims") is not None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    if not is_reduced or not width:
        return origin
    try:
        return replace(origin, reduction=Reduction.from_text(metadata[REDUCTION_KEY.encode()], width))
    except (KeyError, ValueError) as error:
        reason = "missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{part}: a table of reduced vectors, but of their principal components: {reason}") from error
