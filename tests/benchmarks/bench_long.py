"""``maeast embed`` of one long file: peak memory of all its processes, and processor time per hour of audio.

The time of the bundled model's first layer is measured, because the decoding and the memory are the point.
"""

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from maeast_upstream.audio.reading import read_audio

AUDIO = Path(__file__).parents[1] / "data" / "audio"
RATE = 44_100
HOURS = (1, 3, 6)
FORMATS = ("flac", "mp3")
OPTIONS = ("--layer", "1", "--engine", "torch", "--force", "--quiet")


def run(hours: tuple[float, ...] = HOURS, formats: tuple[str, ...] = FORMATS) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form, length in itertools.product(formats, hours):
            path = write_long(Path(folder) / f"long.{form}", length)
            seconds, peak = measure(["embed", str(path), "-o", f"{folder}/t.parquet", *OPTIONS])
            what = f"one {form} of {length:g} h, 44.1 kHz stereo"
            rows.append((f"{what}: peak memory of all processes (PSS)", f"{peak / 1e6:.0f} MB", "below 1000 MB"))
            rows.append((f"{what}: processor time per hour", f"{seconds / length:.1f} s", "flat"))
            path.unlink()
    return rows


def write_long(path: Path, hours: float) -> Path:
    """Write real clips one behind the other, in stereo, until they are this long."""
    clips = np.concatenate([read_audio(clip) for clip in sorted(AUDIO.glob("*.opus"))[:60]])
    left = 0.7 * soxr.resample(clips, 16_000, RATE).astype(np.float32)
    sound = np.stack([left, np.roll(left, 1000)], axis=1)
    counts = [len(sound)] * int(hours * 3600 * RATE // len(sound)) + [round(hours * 3600 * RATE % len(sound))]
    if path.suffix == ".flac":
        with soundfile.SoundFile(path, "w", RATE, 2) as file:
            for count in counts:
                file.write(sound[:count])
        return path
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="stereo")
        samples = (sound.clip(-1, 1) * 32767).astype(np.int16)
        for count in counts:
            frame = av.AudioFrame.from_ndarray(samples[:count].reshape(1, -1), format="s16", layout="stereo")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run maeast; return the processor seconds and the peak of memory in bytes of it and its processes together."""
    before, peak = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    code = "import sys; from maeast_upstream.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", code, *arguments]) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(shared_memory, family(process.pid))))
            time.sleep(0.25)
    if process.returncode:
        raise RuntimeError(f"maeast {' '.join(arguments)}: exit status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def family(pid: int) -> list[int]:
    """A process, and those that it and its threads started."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def shared_memory(pid: int) -> int:
    """The memory of a process in bytes, its share of what it shares; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    for row in run():
        print(*row, sep=" | ")
