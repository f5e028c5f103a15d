"""Files, processes and a parent of a `DecodePool` for its tests."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from maeast_upstream.data.inputs import Segment

TESTS = Path(__file__).parent
CLIPS = sorted((TESTS / "data" / "audio").glob("*.opus"))
EVIL_BOOT = (
    f"import sys; sys.path[:] = {{path!r}}; sys.path.append({str(TESTS)!r}); from evil_worker import main; main()"
)
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs in the background
from maeast_upstream.decoding import process
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.data.inputs import list_segments
assert "torch" not in sys.modules
process.BOOT_CODE = sys.argv[1]
try:
    with DecodePool(2) as pool:
        for segment, result in pool.decode(list_segments(sys.argv[2:])):
            print(segment.path, flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def clips_named(folder, names):
    """Copy a real clip to a file of each name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(CLIPS[0], folder / f"{name}.opus")
    return [Segment(str(folder / f"{name}.opus")) for name in names]


def decoding(log):
    """Return the ids of the processes that began a file."""
    return {int(line.split()[0]) for line in log.read_text().splitlines()}


def gone(pid):
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(condition, seconds=10):
    """Wait for a condition; return whether it is true."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@contextlib.contextmanager
def parent(segments):
    """Another process with a pool, in a group of its own like a terminal's."""
    command = [sys.executable, "-c", PARENT, EVIL_BOOT, *(segment.path for segment in segments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline().strip() == segments[0].path
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
