"""An approximate index of a table, by USearch: large tables are searched without reading all of their vectors.

A file begins with `MAGIC`, the length of a header and the header, JSON, which names the table that the index was made
of and the place of each shard. A shard is what USearch writes for some consecutive rows. USearch trusts what it reads,
so that a broken shard can end a process: shards are opened in a process of their own.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from maeast_upstream.checks import quote
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.text import refuse_endless

MAGIC = b"maeast index 1\n"
MAX_HEADER = 1 << 20
SHARD_BYTES = 1 << 30
"""Vectors of a shard, as float16: an index is built in memory, one shard after the other."""
ALIGNMENT = 64
USEARCH_MAGIC = b"usearch"
MAX_DIMENSIONS, MAX_ROWS = 1 << 16, 1 << 40
SEARCH_SECONDS = 600
READER_BYTES, READER_BYTES_PER_ROW = 2 << 30, 64
"""Memory that a search may take, beside the file itself: a broken graph can make USearch ask for ever more."""


@dataclass(frozen=True)
class Shard:
    """Some consecutive rows in the file."""

    offset: int
    size: int
    first: int
    rows: int


@dataclass(frozen=True)
class IndexHeader:
    """What a file says of itself."""

    digest: str
    """`EmbeddingTable.digest` of its table."""
    rows: int
    dimensions: int
    shards: list[Shard]


def build_index(table: EmbeddingTable, path: Path, advance: Callable[[int], Any] = int) -> None:
    """Build an index of a table, in the memory of one shard.

    Args:
        table: Its rows.
        path: The file, which appears whole.
        advance: Called with the number of rows that were added.

    Raises:
        ValueError: usearch is not installed, or the table has no rows.
    """
    index_type = usearch_index()
    if not table.rows:
        raise ValueError(f"{table.path}: a table without rows has no index")
    per_shard = max(1, SHARD_BYTES // (2 * table.dimensions))
    shards: list[Shard] = []
    with replacing(path) as part, tempfile.TemporaryDirectory(dir=path.parent, prefix=".index-") as scratch:
        body = Path(scratch) / "body"
        with body.open("wb") as file:
            for first, vectors in _chunks(table, per_shard, advance):
                index = index_type(ndim=table.dimensions, metric="cos", dtype="f16")
                for start, block in vectors:
                    index.add(np.arange(start - first, start - first + len(block)), block)
                shard = Path(scratch) / "shard"
                index.save(str(shard))
                shards.append(Shard(file.tell(), shard.stat().st_size, first, len(index)))
                _append(file, shard)
        header = asdict(IndexHeader(table.digest, table.rows, table.dimensions, shards))
        with part.open("wb") as file:
            text = json.dumps(header).encode()
            file.write(MAGIC + len(text).to_bytes(8, "little") + text)
            file.write(bytes(-file.tell() % ALIGNMENT))
            _append(file, body)


def _chunks(
    table: EmbeddingTable, per_shard: int, advance: Callable[[int], Any]
) -> Iterator[tuple[int, Iterator[tuple[int, np.ndarray]]]]:
    """Yield the first row of each shard, and its blocks with the number of their first row."""
    blocks = table.blocks()
    pending: list[np.ndarray] = []

    def of_shard(first: int) -> Iterator[tuple[int, np.ndarray]]:
        row = first
        while row < min(first + per_shard, table.rows):
            block = pending.pop() if pending else next(blocks).vectors
            taken = block[: first + per_shard - row]
            if len(taken) < len(block):
                pending.append(block[len(taken) :])
            yield row, taken
            row += len(taken)
            advance(len(taken))

    for first in range(0, table.rows, per_shard):
        yield first, of_shard(first)


def _append(file: IO[bytes], source: Path) -> None:
    with source.open("rb") as content:
        while piece := content.read(1 << 24):
            file.write(piece)
    file.write(bytes(-file.tell() % ALIGNMENT))


def usearch_index() -> Any:
    """Return usearch's class of an index; ValueError if it is not installed."""
    try:
        from usearch.index import Index
    except ImportError as error:
        raise ValueError(f"an index needs usearch: {install_extra('search')}") from error
    return Index


def read_header(path: Path) -> tuple[IndexHeader, int]:
    """Read the header of an index and check all that it says against the file.

    Returns:
        The header, and where the shards begin.

    Raises:
        ValueError: The file does not exist, is no index, or is cut short.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an index that maeast index wrote")
    refuse_endless(path)
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path}: not an index that maeast index wrote")
        length = int.from_bytes(file.read(8), "little")
        try:
            content = json.loads(file.read(length)) if length <= MAX_HEADER else None
            shards = [Shard(**shard) for shard in content.pop("shards")]  # type: ignore[union-attr]
            header = IndexHeader(**content, shards=shards)  # type: ignore[arg-type]
            begin = file.tell() + -file.tell() % ALIGNMENT
            _check(header, begin, path.stat().st_size)
            for shard in shards:
                file.seek(begin + shard.offset)
                rows, columns = (int.from_bytes(file.read(4), "little") for _ in range(2))
                file.seek(rows * columns, os.SEEK_CUR)
                if rows != shard.rows or columns != 2 * header.dimensions or file.read(7) != USEARCH_MAGIC:
                    raise ValueError("a shard of another shape")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}: a broken index ({quote(str(error))}); make it again") from error
    return header, begin


def _check(header: IndexHeader, begin: int, size: int) -> None:
    numbers = [header.rows, header.dimensions, *(value for shard in header.shards for value in asdict(shard).values())]
    if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(header.digest, str):
        raise ValueError("a header of other values")
    if not 0 < header.dimensions <= MAX_DIMENSIONS or not 0 < header.rows <= MAX_ROWS:
        raise ValueError("sizes that no table has")
    row = 0
    for shard in header.shards:
        vectors = 8 + 2 * shard.rows * header.dimensions
        if shard.first != row or not shard.rows or shard.size < vectors or begin + shard.offset + shard.size > size:
            raise ValueError("a shard beyond the end of the file")
        row += shard.rows
    if row != header.rows:
        raise ValueError("shards of another number of rows")


def candidates(path: Path, table: EmbeddingTable, queries: np.ndarray, count: int) -> list[np.ndarray]:
    """Return row numbers of the table that are probably nearest to each query, in no order.

    Args:
        path: The index.
        table: The table that it was made of.
        queries: (Q, E).
        count: Number of rows of each query from each shard.

    Raises:
        ValueError: usearch is not installed; the index is broken, or one of another table or layer.
    """
    usearch_index()
    header, begin = read_header(path)
    if (header.digest, header.rows, header.dimensions) != (table.digest, table.rows, table.dimensions):
        raise ValueError(f"{path}: the index of another table or layer than {table.path}; make it again")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "queries.npy", np.asarray(queries, np.float32))
        request = {
            "index": os.path.abspath(path),  # noqa: PTH100
            "shards": [[begin + shard.offset, shard.size, shard.first, shard.rows] for shard in header.shards],
            "dimensions": header.dimensions,
            "count": count,
            "memory": READER_BYTES + READER_BYTES_PER_ROW * max(shard.rows for shard in header.shards),
        }
        command = [sys.executable, "-m", "maeast_upstream.similarity.index_reader", folder]
        try:
            done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True,
                                  timeout=SEARCH_SECONDS, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{path}: a broken index (its search does not end); make it again") from error
        result = Path(folder) / "rows.npy"
        if done.returncode or not result.exists():
            raise ValueError(f"{path}: a broken index (its reader ended with status {done.returncode}); make it again")
        rows = np.load(result, allow_pickle=False)
    return [np.unique(row[(row >= 0) & (row < table.rows)]) for row in rows.reshape(len(queries), -1)]
