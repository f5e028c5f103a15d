"""Starts processes of `maeast embed` for tests that kill them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

AUDIO = Path(__file__).parent / "data" / "audio"
RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs in the background
from maeast_upstream.extract import parts
from maeast_upstream.cli import main
parts.PART_CLIPS, parts.SAVE_SECONDS = int(sys.argv[1]), float(sys.argv[2])
raise SystemExit(main(sys.argv[3:]))
"""


def make_clips(tmp_path, count):
    """Copy real clips to a folder; every fortieth is broken."""
    clips = tmp_path / "clips"
    clips.mkdir()
    paths = sorted(path for path in AUDIO.glob("*.opus") if path.name != "long_drums.opus")
    for number in range(count):
        if number % 40 == 7:
            (clips / f"{number:04d}.wav").write_bytes(b"nothing")
        else:
            shutil.copy(paths[number % len(paths)], clips / f"{number:04d}.opus")
    return clips


def start(folder, out, *options, part_clips=8, save_seconds=30.0):
    """Start a process that embeds a folder in small parts and in small batches."""
    command = [sys.executable, "-c", RUN, str(part_clips), str(save_seconds), "embed", str(folder), "-o", str(out)]
    command += ["--batch-seconds", "2", "--engine", "torch", "--hop-ms", "native", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115  (not a pipe, which nobody would read meanwhile)
    process = subprocess.Popen(command, stdout=output, stderr=output, text=True, env=env)
    process.output = output
    return process


def ended(process, seconds=120):
    """Wait for a process; return its exit status and output."""
    try:
        status = process.wait(seconds)
    finally:
        process.kill()
    process.output.seek(0)
    with process.output as output:
        return status, output.read()


def whole_parts(out):
    """Return the number of parts that a run has written."""
    parts = out.with_name(f"{out.name}.parts")
    return len(list(parts.glob("part-*.parquet"))) if parts.exists() else 0


def assert_same_tables(one, other, rows, atol):
    """Check that two parquet files have the same rows, with vectors within ``atol``, and the same lists of errors."""
    expected, found = pq.read_table(one).to_pylist(), pq.read_table(other).to_pylist()
    assert len(found) == rows
    for left, right in zip(expected, found, strict=True):
        assert np.allclose(left.pop("vector"), right.pop("vector"), atol=atol)
        assert left == right
    errors = [path.with_name(f"{path.name}.errors.tsv").read_text() for path in (one, other)]
    assert errors[0] == errors[1]


def wait_until(condition, seconds=60):
    """Wait for a condition up to a time limit; return whether it is true."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()
