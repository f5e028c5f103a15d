"""Writes a copy of a table of embeddings with the clusters of its rows."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.data import embedding_files as files
from maeast_upstream.data.embeddings import BATCH_ROWS, EmbeddingTable
from maeast_upstream.similarity.clustering import Clusters
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.delimited import write_csv

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("cluster", "representative")
NAMES = ("path", "segment", "start_ms", "end_ms")


def write_clustered(path: Path, table: EmbeddingTable, clusters: Clusters) -> None:
    """Write the rows of a table's layer with the columns cluster (int64) and representative (bool).

    Args:
        path: A file that appears whole: Parquet with all columns and metadata of the table; or, if it ends in
            ``.csv``, the path, segment and times of each row.
        table: The table; columns that it has under these names are replaced.
        clusters: The clusters of its rows.

    Raises:
        ValueError: The table is broken, or its files have different columns.
    """
    if path.suffix.lower() == ".csv":
        write_csv(path, itertools.chain([[*NAMES, *COLUMNS]], _cells(table, clusters)))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = files.find_files(table.path)
    with files.opened(parts[0]) as file:
        columns = [field for field in file.schema_arrow if field.name not in COLUMNS]
        metadata = {key: value for key, value in (file.metadata.metadata or {}).items() if key != b"ARROW:schema"}
    added = [pa.field("cluster", pa.int64()), pa.field("representative", pa.bool_())]
    stored, first = pa.schema(columns), 0
    with replacing(path) as part, pq.ParquetWriter(part, pa.schema([*columns, *added], metadata)) as writer:
        for batch in _batches(parts, table, stored):
            rows = slice(first, first + batch.num_rows)
            first += batch.num_rows
            arrays = [pa.array(clusters.cluster[rows]), pa.array(clusters.representative[rows])]
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=writer.schema))


def _batches(parts: list[Path], table: EmbeddingTable, stored: "pa.Schema") -> Iterator["pa.RecordBatch"]:
    """Yield the rows of the table's layer with all columns of its first file."""
    layer = table.layer if len(table.layers) > 1 else None
    for part in parts:
        with files.opened(part) as file:
            present = set(file.schema_arrow.names)
            if missing := [name for name in stored.names if name not in present]:
                raise ValueError(f"{part}: no column {missing[0]}, which other parts have")
            groups = range(file.num_row_groups)
            for batch in files.read_batches(part, file, stored.names, groups, BATCH_ROWS, layer):
                if batch.num_rows:
                    yield batch.select(stored.names).cast(stored)


def _cells(table: EmbeddingTable, clusters: Clusters) -> Iterator[list[object]]:
    rows = zip(clusters.cluster.tolist(), clusters.representative.tolist(), strict=True)
    for block in table.blocks():
        columns = (block.paths, block.segments.tolist(), block.start_ms.tolist(), block.end_ms.tolist())
        for path, segment, start, end in zip(*columns, strict=True):
            yield [path, segment, start, "" if math.isnan(end) else end, *next(rows)]
