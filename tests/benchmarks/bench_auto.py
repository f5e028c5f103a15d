"""``maeast embed --engine auto`` against the engines by name: processor time of whole commands, start-up included.

A short job is that of tests/data: auto must find on its own that another engine does not pay. A long one is 3 hours of
clips of 10 s, links to a few files, in which measuring must cost next to nothing.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import soundfile
from bench_embed import AUDIO, write_clips

SHORT_CLIPS, SHORT_ROUNDS = 81, 5
LONG_SECONDS, LONG_ROUNDS, LONG_FILES = 3 * 3600, 1, 12
COMMAND = "import sys; from maeast_upstream.cli import main; sys.exit(main(sys.argv[1:]))"
GOAL = "at most 1.05"
Rows = list[tuple[str, str, str]]


def run(long_seconds: float = LONG_SECONDS, long_rounds: int = LONG_ROUNDS) -> Rows:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, long = folder / "short", folder / "long"
        short.mkdir()
        for path in sorted(AUDIO.glob("*.opus"))[:SHORT_CLIPS]:
            (short / path.name).write_bytes(path.read_bytes())
        link_clips(folder, long, long_seconds)
        rows = compare(short, f"{SHORT_CLIPS} short clips", SHORT_ROUNDS)
        return rows + compare(long, f"{long_seconds / 3600:g} hours of clips of 10 s", long_rounds)


def link_clips(folder: Path, long: Path, seconds: float) -> None:
    """Clips of 10 s as WAV, each under many names."""
    long.mkdir()
    originals = []
    for path in sorted(write_clips(folder / "flac", [10.0] * LONG_FILES).iterdir()):
        samples, rate = soundfile.read(path, dtype="int16")
        originals.append(folder / f"{path.stem}.wav")
        soundfile.write(originals[-1], samples, rate)
    for number in range(round(seconds / 10)):
        os.link(originals[number % LONG_FILES], long / f"{number:05d}.wav")


def compare(clips: Path, what: str, rounds: int) -> Rows:
    """Processor time of auto, with an empty cache and with a full one, over that of the better engine by name."""
    rows, cache = [], clips.parent / f"cache-{clips.name}"
    for precision in ("fp32", "auto"):
        times: dict[str, list[float]] = {}
        said = ""
        for _ in range(rounds):
            for engine in ("torch", "openvino"):
                times.setdefault(engine, []).append(embed(clips, engine, "fp32", cache)[0])
            for state in ("empty", "full"):
                folder = cache if state == "full" else Path(tempfile.mkdtemp(dir=clips.parent))
                seconds, said = embed(clips, "auto", precision, folder)
                times.setdefault(state, []).append(seconds)
                cache = folder
        best = [min(pair) for pair in zip(times["torch"], times["openvino"], strict=True)]
        for state in ("empty", "full"):
            ratios = [ours / other for ours, other in zip(times[state], best, strict=True)]
            cell = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); {said}"
            rows.append((f"{what}, --engine auto --precision {precision}, {state} cache", cell, GOAL))
    return rows


def embed(clips: Path, engine: str, precision: str, cache: Path) -> tuple[float, str]:
    """Processor seconds of a command, its decoders included, and the line that names its engine."""
    command = [sys.executable, "-c", COMMAND, "embed", str(clips), "-o", str(clips.parent / "t.parquet"), "--force"]
    command += ["--engine", engine, "--precision", precision, "--hop-ms", "native"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = next(line for line in done.stdout.splitlines() if line.startswith("engine "))
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


if __name__ == "__main__":
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else LONG_SECONDS / 3600
    for row in run(3600 * hours):
        print(*row, sep=" | ")
