"""The results of a search: as rows of a table, as text for a terminal, and as sound."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.joining import cut, join_in_memory
from maeast_upstream.audio.reading import within_hours
from maeast_upstream.data.inputs import segment_of
from maeast_upstream.decoding.worker import decode_segment
from maeast_upstream.display import printable
from maeast_upstream.storage import delimited
from maeast_upstream.storage.atomic import replacing

FORMATS = (".csv", ".parquet", ".html")
"""Endings of files of hits; `page` writes the last one."""
MAX_HIT_HOURS = 1.0
"""Longest audio of one hit that is read."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row of the table that is similar to a query."""

    query: str
    """The query as the user gave it; for several that are averaged, their names joined by `` + ``."""
    rank: int
    """1 for the most similar row."""
    path: str
    """As it stands in the table."""
    segment: int
    start_ms: float
    end_ms: float
    """NaN for the end of the file."""
    similarity: float
    """Cosine of the two vectors, from -1 to 1."""


def by_query(hits: Sequence[Hit]) -> dict[str, list[Hit]]:
    """Return the hits of each query, in their order."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.query, []).append(hit)
    return groups


def lines(hits: Sequence[Hit]) -> Iterator[str]:
    """Yield the hits as lines for a terminal, under a line for each query."""
    for query, found in by_query(hits).items():
        yield printable(query)
        width = len(str(len(found)))
        for hit in found:
            yield printable(f"  {hit.rank:>{width}}  {hit.similarity:6.3f}  {hit.path}  {times(hit)}").rstrip()


def times(hit: Hit) -> str:
    """Return where the hit lies in its file, in seconds; "" for a whole file whose length the table does not tell."""
    if math.isnan(hit.end_ms):
        return f"{hit.start_ms / 1000:.2f} s to the end" if hit.start_ms else ""
    return f"{hit.start_ms / 1000:.2f}-{hit.end_ms / 1000:.2f} s"


def write_hits(path: Path, hits: Sequence[Hit]) -> None:
    """Write hits as CSV or Parquet, by the ending of the name; a file that appears whole."""
    names = [field.name for field in fields(Hit)]
    if path.suffix.lower() == ".csv":
        delimited.write_csv(path, [names, *map(astuple, hits)])
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(field.name, types[field.type]) for field in fields(Hit)])  # type: ignore[index]
    columns = list(zip(*map(astuple, hits), strict=True)) or [()] * len(names)
    with replacing(path) as part:
        pq.write_table(
            pa.table(
                [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
            ),
            part,
        )


def read_sound(path: str, start_ms: float, end_ms: float, seconds: float = math.inf, root: str = "") -> np.ndarray:
    """Read the audio of a row, at most its first ``seconds``: (S,) float32 at 16 kHz.

    Args:
        path: As it stands in the table.
        start_ms: Where the row begins in its file.
        end_ms: Where it ends; NaN for the end of the file.
        seconds: The most that is read.
        root: The folder that relative paths start at; "" for the current one.

    Raises:
        AudioError: The file cannot be read, ends before the clip begins, or is longer than `MAX_HIT_HOURS`.
    """
    end = None if math.isnan(end_ms) else min(end_ms, start_ms + 1000 * seconds)
    segment = replace(segment_of(path, root), start_ms=start_ms or None, end_ms=end)
    most = math.inf if end is not None else seconds * SAMPLE_RATE

    def join(blocks: Iterator[np.ndarray]) -> np.ndarray:
        return join_in_memory(within_hours(cut(blocks, 0, most), MAX_HIT_HOURS, path))

    return decode_segment(segment, join).samples
