"""Search of a made-up table of 1,000,000 vectors of 1,536 float16, written as `maeast embed` writes it.

``python bench_search.py TABLE`` is one run in a process of its own: it searches for one row and prints the seconds, the
seconds of processor time, and the peak memory in MiB.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from maeast_upstream.extract.part_store import dictionary_columns
from maeast_upstream.extract.table import EmbeddingSpec, make_schema
from maeast_upstream.extract.vector_columns import open_writer, vector_arrays

ROWS, WIDTH, GROUP = 1_000_000, 1536, 10_000


def run(rounds: int = 3) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder) / "t.parquet", ROWS)
        found = [measure(table) for _ in range(rounds)]
    seconds, processor, memory = (statistics.median(column) for column in zip(*found, strict=True))
    what = f"exact search of {ROWS:,} vectors of {WIDTH:,} float16"
    return [
        (f"{what}: seconds per query", f"{seconds:.2f}", "below 3"),
        (f"{what}: seconds of processor time", f"{processor:.2f}", ""),
        (f"{what}: peak memory of the process, MiB", f"{memory:.0f}", "below 1024"),
    ]


def write_table(path: Path, rows: int) -> Path:
    """Write random vectors; each row group has the same ones in another order of dimensions."""
    schema = make_schema(EmbeddingSpec(vectors="float16"), WIDTH)
    vectors = np.random.default_rng(0).normal(size=(GROUP, WIDTH)).astype(np.float16)
    with path.open("wb") as file, open_writer(file, schema, dictionary_columns(schema)) as writer:
        for first in range(0, rows, GROUP):
            numbers = np.arange(first, first + GROUP)
            columns = {
                "path": [f"archive/recording-{number // 60:06d}.wav" for number in numbers],
                "segment": numbers % 60,
                "start_ms": numbers % 60 * 5000.0,
                "end_ms": numbers % 60 * 5000.0 + 5000,
                "layer": ["last"] * GROUP,
                **vector_arrays(np.ascontiguousarray(np.roll(vectors, first // GROUP, axis=1)), schema),
            }
            writer.write_table(pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema))
    return path


def measure(table: Path) -> tuple[float, float, float]:
    """Search once in a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(table)], check=True, capture_output=True, text=True)
    seconds, processor, memory = map(float, done.stdout.split()[-3:])
    return seconds, processor, memory


if __name__ == "__main__":
    from maeast_upstream.data.embeddings import EmbeddingTable
    from maeast_upstream.similarity import search

    opened = EmbeddingTable(sys.argv[1])
    query = opened.take([opened.rows // 2]).vectors[0]
    begun, used = time.perf_counter(), time.process_time()
    search(opened, query, 20)
    print(time.perf_counter() - begun, time.process_time() - used)
    # VmHWM, not getrusage: that also counts what the parent held when it forked
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)
