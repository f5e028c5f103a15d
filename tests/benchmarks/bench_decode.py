"""Decoding alone: hours of audio a second and core for each container beside FFmpeg's, clips a second of short ones."""

import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soxr
from sounds import write

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.opening import open_audio
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.decoder import Limits
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.decoding.process import SubprocessDecoder

AUDIO = Path(__file__).parents[1] / "data" / "audio"
FORMATS = (
    ("wav", 44_100),
    ("flac", 44_100),
    ("ogg", 44_100),
    ("opus", 48_000),
    ("opus", 16_000),
    ("mp3", 44_100),
    ("m4a", 44_100),
)
FILES, SECONDS = 60, 10
SHORT_CLIPS, SHORT_SECONDS = 1000, 0.5


def run(rounds: int = 5) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as folder:
        return list(_rows(Path(folder), rounds))


def _rows(folder: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    seconds = []
    for _ in range(rounds):
        process, start = SubprocessDecoder(Limits()), time.perf_counter()
        process.decode([Segment(str(folder / "nowhere"))], lambda _: True, lambda *_: None)
        seconds.append(time.perf_counter() - start)
        process.close()
    yield "decoding process, start", f"{statistics.median(seconds):.2f} s", ""
    clips = np.concatenate([read_audio(path) for path in sorted(AUDIO.glob("*.opus"))])[: SECONDS * SAMPLE_RATE]
    for suffix, rate in FORMATS:
        path = write(folder / f"{rate}.{suffix}", soxr.resample(clips, SAMPLE_RATE, rate), rate)
        what, measured, _ = _row(
            f"{SECONDS} s {suffix} at {rate / 1000:g} kHz",
            _costs([path] * FILES, rounds),
            SECONDS / 3600,
            "hours",
        )
        yield what, f"{measured}; {_beside(path, rounds)}", ""
    path = write(folder / "short.opus", clips[: int(SHORT_SECONDS * SAMPLE_RATE)], SAMPLE_RATE)
    yield _row(
        f"{SHORT_SECONDS} s opus at 16 kHz",
        _costs([path] * SHORT_CLIPS, rounds),
        1,
        "clips",
    )


def _beside(path: Path, rounds: int) -> str:
    """Name the share of resampling, and the rate of FFmpeg's decoders without resampling."""
    whole = _seconds(lambda: read_audio(path), rounds)
    resampling = _seconds(_resampling(path), rounds)
    rates = {"FFmpeg's decoder alone": _seconds(lambda: _by_ffmpeg(path), rounds)}
    if program := shutil.which("ffmpeg"):
        rates["the program ffmpeg"] = _program_seconds(program, path)
    named = (f"{name} {SECONDS / 3600 / seconds:.3g} hours/s" for name, seconds in rates.items())
    return f"resampling takes {resampling / whole:.0%}; {', '.join(named)}"


def _seconds(function: Callable[[], object], rounds: int) -> float:
    """CPU seconds of a call: the median of rounds of ten."""
    function()
    found = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(10):
            function()
        found.append((time.process_time() - start) / 10)
    return statistics.median(found)


def _resampling(path: Path) -> Callable[[], None]:
    with open_audio(path, path.name) as reader:
        blocks, rate = list(reader.blocks(0)), reader.rate

    def resample() -> None:
        if rate != SAMPLE_RATE:
            stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            for block in blocks:
                stream.resample_chunk(np.ascontiguousarray(block))
            stream.resample_chunk(np.zeros(0, np.float32), last=True)

    return resample


def _by_ffmpeg(path: Path) -> None:
    with av.open(str(path)) as container:
        for _ in container.decode(audio=0):
            pass


def _program_seconds(program: str, path: Path) -> float:
    """CPU seconds of the program for a file, without what its start costs: for 50 times the file less for once."""
    used = []
    for times in (0, 49):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [program, "-v", "error", "-nostdin", "-threads", "1", "-stream_loop", str(times), "-i", str(path)]
        subprocess.run([*command, "-f", "null", "-"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return (used[1] - used[0]) / 49


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
        worker = pool._decoders[0]._process._popen.pid
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
