"""The program that `index.candidates` starts: it searches the shards of an index, which may be broken, with USearch."""

import json
import mmap
import sys
from pathlib import Path

import numpy as np

from maeast_upstream.decoding.worker import limit_memory


def main(folder: Path) -> None:
    """Read a request from stdin and queries.npy in a folder; write rows.npy there, (Q, rows), -1 for none."""
    from usearch.index import Index

    request = json.load(sys.stdin)
    limit_memory(request["memory"])
    queries, found = np.load(folder / "queries.npy", allow_pickle=False), []
    with Path(request["index"]).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        for offset, size, first, rows in request["shards"]:
            index = Index(ndim=request["dimensions"], metric="cos", dtype="f16")
            index.view(view[offset : offset + size])
            if len(index) != rows or index.ndim != request["dimensions"]:
                sys.exit(3)
            for query in queries:
                keys = np.full(request["count"], -1, np.int64)
                matches = index.search(query, request["count"]).keys.astype(np.int64)
                keys[: len(matches)] = np.where((matches >= 0) & (matches < rows), matches + first, -1)
                found.append(keys)
            index.reset()  # type: ignore[no-untyped-call]  # it holds the view
        view.release()
    shards = len(request["shards"])
    np.save(folder / "rows.npy", np.stack(found).reshape(shards, len(queries), -1).swapaxes(0, 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
