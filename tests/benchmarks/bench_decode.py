"""Decoding alone: hours of audio a second and core for each container, clips a second of short ones."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sounds import sweep, write

from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.decoding.process import SubprocessDecoder

FORMATS = ("wav", "flac", "ogg", "opus", "mp3", "m4a")
FILES, SECONDS, RATE = 60, 10, 44_100
SHORT_CLIPS, SHORT_SECONDS = 1000, 0.5


def run(rounds: int = 5) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as folder:
        return list(_rows(Path(folder), rounds))


def _rows(folder: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    seconds = []
    for _ in range(rounds):
        process, start = SubprocessDecoder(60.0, 1.0), time.perf_counter()
        process.decode([Segment(str(folder / "nowhere"))], lambda _: True, lambda *_: None)
        seconds.append(time.perf_counter() - start)
        process.close()
    yield "decoding process, start", f"{statistics.median(seconds):.2f} s", ""
    for suffix in FORMATS:
        rate = 48_000 if suffix == "opus" else RATE
        path = write(folder / f"x.{suffix}", sweep(rate, SECONDS), rate)
        yield _row(
            f"{SECONDS} s {suffix} at {rate / 1000:g} kHz",
            _costs([path] * FILES, rounds),
            SECONDS / 3600,
            "hours",
        )
    path = write(folder / "short.opus", sweep(16_000, SHORT_SECONDS), 16_000)
    yield _row(
        f"{SHORT_SECONDS} s opus at 16 kHz",
        _costs([path] * SHORT_CLIPS, rounds),
        1,
        "clips",
    )


def _row(what: str, costs: "Costs", amount: float, unit: str) -> tuple[str, str, str]:
    figures = f"{amount / costs.worker:.3g} {unit}/s a core; the reading process adds {costs.parent / costs.worker:.0%}"
    return (
        f"decoding, {what}",
        f"{figures}; without processes {amount / costs.direct:.3g} {unit}/s",
        "",
    )


class Costs(NamedTuple):
    """CPU seconds a file: wall time says little where others use the cores."""

    direct: float
    worker: float
    parent: float


def _costs(paths: list[Path], rounds: int) -> Costs:
    """Medians, of a loop in this process, and of a pool of one process that is already started."""
    segments = [Segment(str(path)) for path in paths]
    rows: list[tuple[float, float, float]] = []
    with DecodePool(1) as pool:
        list(pool.decode(segments[:1]))
        worker = pool._decoders[0]._process.pid
        for _ in range(rounds):
            start = time.process_time()
            for path in paths:
                read_audio(path)
            middle, worker_start = time.process_time(), cpu_seconds(worker)
            for _ in pool.decode(segments):
                pass
            rows.append(
                (
                    middle - start,
                    cpu_seconds(worker) - worker_start,
                    time.process_time() - middle,
                )
            )
    return Costs(*(statistics.median(column) / len(paths) for column in zip(*rows, strict=True)))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for row in run():
        print(*row)
