"""Duplicates and clusters of large tables: seconds and memory of ``maeast dedup`` and ``maeast cluster``."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH = 1536
BLOCK = 10_000
COPIES = 0.05
"""Share of rows that are copies of others, with a cosine of about 0.997."""
MEAN = 1.8
"""Length of the mean beside a standard deviation of 1 / k in the k-th direction. That is about the spectrum of 350 real
clips: the first direction has 67 % of the squares, 16 have 91 %, 128 have 99 %."""
Rows = list[tuple[str, str, str]]


def write_vectors(path: Path, rows: int, noise: bool = False) -> Path:
    """Write a table of float16 vectors with the spectrum of real ones, or of white noise."""
    rng = np.random.default_rng(0)
    scale = np.ones(WIDTH, np.float32) if noise else (1 / np.arange(1, WIDTH + 1)).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    schema = pa.schema([("path", pa.string()), ("vector", pa.list_(pa.float16(), WIDTH))])
    with pq.ParquetWriter(path, schema, compression="none") as file:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            vectors = rng.standard_normal((count, WIDTH), np.float32) * scale
            vectors[:, 0] += 0 if noise else MEAN
            copies = int(COPIES * count)
            errors = rng.standard_normal((copies, WIDTH), np.float32) * scale
            vectors[count - copies :] = vectors[:copies] + 0.1 * errors
            stored = (vectors @ rotation).astype(np.float16)
            names = pa.array([f"{number:08d}.wav" for number in range(first, first + count)])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), WIDTH)
            file.write_table(pa.table([names, flat], schema=schema))
    return path


def measured(*arguments: str) -> tuple[float, float]:
    """Return the seconds that a command takes, and the largest memory of a process so far in GB."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "maeast_upstream.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def run(rows: int = 100_000) -> Rows:
    """Rows (what, measured, wanted)."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, noise in (("spectrum of real clips", False), ("white noise", True)):
            table = write_vectors(Path(folder) / "t.parquet", rows, noise)
            seconds, memory = measured("dedup", str(table), "--compare", "vectors")
            found.append((f"dedup, {rows:,} x {WIDTH}, {name}", f"{seconds:.0f} s, {memory:.1f} GB", "under 120 s"))
        for options in (["--clusters", "50"], []):
            seconds, memory = measured("cluster", str(table), "-o", f"{folder}/clusters.csv", *options)
            method = "k-means, 50 clusters" if options else "HDBSCAN"
            found.append((f"cluster, {rows:,} x {WIDTH}, {method}", f"{seconds:.0f} s, {memory:.1f} GB", ""))
    return found


if __name__ == "__main__":
    print(*run(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000), sep="\n")
