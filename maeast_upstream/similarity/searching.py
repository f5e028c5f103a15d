"""Finds the rows of a table that are most similar to some queries."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.data.inputs import Segment
from maeast_upstream.display import as_name
from maeast_upstream.encoder import Encoder, Precision
from maeast_upstream.fingerprint import load_same
from maeast_upstream.readout import Readout
from maeast_upstream.similarity.hits import Hit
from maeast_upstream.similarity.nearest import Nearest
from maeast_upstream.similarity.queries import Query, QueryLike, Table, average, find_queries

MIN_CANDIDATES = 64
"""Rows that an index finds for each query at least, of which the nearest are then chosen exactly."""
MAX_HITS = 100_000
"""Most hits of one query."""


def search(
    table: Table | str | Path,
    queries: QueryLike | Iterable[QueryLike],
    k: int = 20,
    *,
    mean: bool = False,
    keep_self: bool = False,
    index: str | Path | None = None,
    layer: str | None = None,
    encoder: Encoder | None = None,
    readout: Readout | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> list[Hit]:
    """Find the k rows of a table that are most similar to each query, by the cosine of their vectors, exactly.

    The table is read once for all queries, in blocks, so that memory stays bounded.

    Args:
        table: What ``maeast embed`` wrote, or embeddings in memory.
        queries: One or several: paths of audio files; segments of them, ``call.wav@1.2-2.0`` in seconds or a
            `Segment`; paths of rows of the table, with such times where a file has several rows; mappings with
            ``array`` and ``sampling_rate``; vectors (E,) or (n, E). Audio is embedded as the table was, by its
            checkpoint and readout.
        k: Number of rows for each query; fewer if the table has fewer.
        mean: Whether the queries are averaged to one, each scaled to length 1 before.
        keep_self: Whether rows that are the very same audio as a query are among its hits.
        index: What ``maeast index`` made of the table; the rows that it finds are compared exactly. None to read all.
        layer: Which of the table's layers; None for its last.
        encoder: The encoder that made the table; None loads it. Needed for audio and embeddings in memory.
        readout: How embeddings in memory were made; None for the encoder's own.
        checkpoint: Where the table's checkpoint is now, if it is not where it was.
        device: Where it runs; None for the CPU.
        precision: Of its matrix products; None for fp32.

    Returns:
        The hits of each query, nearest first; equal ones in the order of the table.

    Raises:
        ValueError: There is no such table, layer or query; audio is silent or shorter than a token; the checkpoint is
            another one; or a row is not finite.
    """
    if isinstance(k, bool) or not 1 <= k <= MAX_HITS:
        raise ValueError(f"k must be from 1 to {MAX_HITS}, got {k}")
    rows = EmbeddingTable(table, layer) if isinstance(table, (str, Path)) else table
    if not rows.rows:
        raise ValueError(f"{getattr(rows, 'path', 'the table')}: a table without rows")
    given = [queries] if isinstance(queries, (str, Path, Segment, Mapping, np.ndarray)) else list(queries)

    def load() -> Encoder:
        if encoder is not None:
            return encoder
        if not isinstance(rows, EmbeddingTable) or rows.origin is None:
            raise ValueError("audio as a query of embeddings in memory needs the encoder that made them")
        return load_same(rows.origin.checkpoint, rows.origin.fingerprint, checkpoint, device, precision)

    if isinstance(rows, EmbeddingTable):
        readout = rows.readout
    elif encoder is not None:
        readout = readout or encoder.config.readout
    found = find_queries(given, rows, readout, load)
    if not found:
        raise ValueError("no queries")
    return nearest_hits(rows, [average(found)] if mean else found, k, keep_self, index)


def nearest_hits(
    table: Table, queries: Sequence[Query], k: int, keep_self: bool = False, index: str | Path | None = None
) -> list[Hit]:
    """Return the hits of queries whose vectors are known; the arguments are those of `search`."""
    left_out = [frozenset[int]() if keep_self else query.own_rows for query in queries]
    vectors, count = np.stack([query.vector for query in queries]), k + max(map(len, left_out))
    rows, similarities = nearest_rows(table, vectors, count, index)
    return hits_of(table, queries, rows, similarities, left_out, k)


def nearest_rows(
    table: Table, vectors: np.ndarray, count: int, index: str | Path | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the numbers of the rows nearest to each of (Q, E) vectors, and their cosines, nearest first."""
    nearest = Nearest(vectors, count)
    if index is None:
        table.scan(nearest.add)
        return nearest.result()
    if not isinstance(table, EmbeddingTable):
        raise ValueError("an index goes with a table on disk")
    from maeast_upstream.similarity.index import candidates

    found = candidates(Path(index), table, vectors, max(MIN_CANDIDATES, 2 * count))
    rows = np.unique(np.concatenate(found))
    if len(rows):
        nearest.add(0, table.take(rows.tolist()).vectors)
    places, similarities = nearest.result()
    return [rows[place] for place in places], similarities


def hits_of(
    table: Table,
    queries: Sequence[Query],
    rows: Sequence[np.ndarray],
    similarities: Sequence[np.ndarray],
    left_out: Sequence[frozenset[int]],
    k: int,
) -> list[Hit]:
    """Name the rows that were found, without those that are left out."""
    chosen: list[tuple[Query, int, int, float]] = []
    for query, numbers, values, own in zip(queries, rows, similarities, left_out, strict=True):
        kept = [(int(row), float(value)) for row, value in zip(numbers, values, strict=True) if int(row) not in own]
        chosen += [(query, rank, row, value) for rank, (row, value) in enumerate(kept[:k], start=1)]
    named = table.take([row for _, _, row, _ in chosen], vectors=False)
    return [
        Hit(
            query=as_name(query.name),
            rank=rank,
            path=named.paths[number],
            segment=int(named.segments[number]),
            start_ms=float(named.start_ms[number]),
            end_ms=float(named.end_ms[number]),
            similarity=value,
        )
        for number, (query, rank, _, value) in enumerate(chosen)
    ]
