"""What a command costs before and beside its work: help, a finished output, and the first row of a job of one file."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROUNDS = 5
CLIP = Path(__file__).parents[1] / "data" / "audio" / "seven-espeak_en-us+f3.opus"
MAEAST = "from maeast_upstream.cli import main; raise SystemExit(main())"
TORCH = "import torch"
FORWARD = """
import json, sys, time
from maeast_upstream import load_audio, load_model
model, clip = load_model(sys.argv[1]), load_audio(sys.argv[2])
times = time.process_time(), time.perf_counter()
model.embed(clip)
print(json.dumps([time.process_time() - times[0], time.perf_counter() - times[1]]))
"""


class Cost(NamedTuple):
    """What a process and its children took."""

    processor: float
    """Seconds of processor time."""
    wall: float
    """Seconds."""


def run(checkpoint: Path, rounds: int = ROUNDS) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted); ``checkpoint`` is a published file of the base model."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        rows = [help_row(rounds)]
        for model, source in (("bundled model", "bundled"), ("base model, a .pt", str(checkpoint))):
            command = ["embed", str(CLIP), "--checkpoint", source, "-q", "-o", f"{name}/t.parquet"]
            rows += job_rows(model, source, command, rounds)
    return rows


def help_row(rounds: int) -> tuple[str, str, str]:
    """The processor time of the help, and what it loads."""
    costs = [cost(MAEAST, ["embed", "--help"])[0] for _ in range(rounds)]
    return "`maeast embed --help`, processor time", f"{statistics.median(costs):.2f} s", "at most 0.2 s"


def job_rows(model: str, source: str, command: Sequence[str], rounds: int) -> list[tuple[str, str, str]]:
    """A job of one short file, and the same command again."""
    first, again, ratios = [], [], []
    for _ in range(rounds + 1):  # the first is not counted: it reads files from the disk
        torch, forward = cost(TORCH), forward_cost(source)
        first.append(cost(MAEAST, [*command, "--force"]))
        again.append(cost(MAEAST, command).processor)
        ratios.append([a / (b + c) for a, b, c in zip(first[-1], torch, forward, strict=True)])
    processor, wall = (shown(values) for values in zip(*ratios[1:], strict=True))
    seconds = f"{statistics.median(found.wall for found in first[1:]):.2f} s"
    what = f"{model}: a job of one file of 1 s / `import torch` and the forward pass"
    return [
        (f"{what}, processor time with that of the decoder", processor, "at most 1.3"),
        (f"{what}, wall time ({seconds})", wall, "at most 1.3"),
        (
            f"{model}: the same command on the finished output, processor time",
            f"{statistics.median(again[1:]):.2f} s",
            "below 1 s",
        ),
    ]


def shown(values: Sequence[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def cost(code: str, arguments: Sequence[str] = ()) -> Cost:
    """Run Python code in a process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def forward_cost(source: str) -> Cost:
    """The first forward pass of a process."""
    command = [sys.executable, "-c", FORWARD, source, str(CLIP)]
    return Cost(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
