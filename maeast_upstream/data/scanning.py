"""Passes all vectors of a table to a function, in several threads: the quickest way through a large table."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from maeast_upstream.data import embedding_files as files
from maeast_upstream.data.plain_pages import UnusualPageError, has_plain_vectors, read_pages

BATCH_ROWS = 4096
BATCH_BYTES = 16 << 20
"""Vectors, as float32, that are read at once in each thread."""
MAX_THREADS = 4
"""Threads: each needs some 30 MB."""

AddBlock = Callable[[int, np.ndarray], None]
"""Is called with the number of a block's first row and its vectors."""


def scan_vectors(table: Path, groups: Sequence[files.RowGroup], width: int, layer: str | None, add: AddBlock) -> None:
    """Pass the vectors of row groups to ``add``, see `EmbeddingTable.scan`.

    Args:
        table: The name of the table, for messages.
        groups: Its row groups.
        width: Length of its vectors.
        layer: The layer whose rows are read; None for all rows.
        add: Is called in any order, from several threads.

    Raises:
        ValueError: A part is broken or its vectors have another length.
    """
    waiting, lock, stop = iter(groups), threading.Lock(), threading.Event()

    def next_groups() -> Iterator[files.RowGroup]:
        while not stop.is_set():
            with lock:
                group = next(waiting, None)
            if group is None:
                return
            yield group

    def work() -> None:
        for first, vectors in _blocks(table, next_groups(), width, layer):
            if stop.is_set():
                return
            add(first, vectors)

    threads = min(len(os.sched_getaffinity(0)), MAX_THREADS, len(groups)) or 1
    with ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        running = [pool.submit(work) for _ in range(threads)]
        try:
            for future in running:
                future.result()
        finally:  # an error or Ctrl-C ends the other threads, too
            stop.set()


def _blocks(
    table: Path, groups: Iterable[files.RowGroup], width: int, layer: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    for part, of_part in itertools.groupby(groups, lambda group: group.file):
        with files.opened(part) as file, part.open("rb", buffering=0) as stream:
            files.refuse_other_width(table, part, file.schema_arrow, width)
            for group in of_part:
                first = group.first
                for vectors in _vectors(part, file, stream, group.number, width, layer):
                    yield first, vectors
                    first += len(vectors)


def _vectors(
    part: Path, file: Any, stream: IO[bytes], group: int, width: int, layer: str | None
) -> Iterator[np.ndarray]:
    """Yield the vectors of a row group, from its pages as they are if that is possible."""
    done = 0
    if layer is None and has_plain_vectors(file, group):
        try:
            for vectors in read_pages(stream, file, group):
                yield vectors
                done += len(vectors)
        except UnusualPageError:
            pass  # the library reads the rows that are left
        else:
            return
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * width)))
    for batch in files.read_batches(part, file, files.VECTOR_COLUMNS[:1], [group], rows, layer):
        skipped = min(done, batch.num_rows)
        done -= skipped
        if batch.num_rows > skipped:
            yield files.stored_vectors(part, batch.slice(skipped), width)
