"""From files to a parquet table, base patch model: ours against a loop around s3prl's upstream.

``python bench_embed.py SYSTEM CHECKPOINT FOLDER`` is one run in a process of its own: it loads the model, embeds one
file to warm up, then prints the seconds from the first file to the finished table, and its peak memory in MiB.
"""

import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from bench_encoder import BATCH
from reference import load_expert

from maeast_upstream import load_model
from maeast_upstream.audio.reading import find_audio, read_audio
from maeast_upstream.engines.selection import attach
from maeast_upstream.engines.streams import streams_on
from maeast_upstream.extract.job import Job
from maeast_upstream.extract.outputs import output_at
from maeast_upstream.extract.survey import Survey
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.readout import Readout

SYSTEMS = ("openvino-fp32", "openvino-bf16", "openvino-int8", "torch-fp32", "torch-bf16")
AUDIO = Path(__file__).parents[1] / "data" / "audio"
GOALS = {
    "mixed": {"openvino-fp32": "at least 5", "openvino-bf16": "at least 9", "openvino-int8": "at least 10"},
    "equal": {"openvino-fp32": "at least 2.2", "openvino-bf16": "at least 4", "openvino-int8": "at least 4"},
}
BUNDLED = {"openvino-fp32": "", "openvino-bf16": "", "openvino-int8": "at least 2000"}
"""The systems that embed with the bundled checkpoint, and how many times real time they should reach."""
SPEC = EmbeddingSpec(readouts=(Readout(layer="last", mel="concat", pool="mean"),))


def run(checkpoint: Path, rounds: int = 2) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, seconds in (("mixed", spread(96, 1, 15)), ("equal", [10.0] * 24)):
            clips = write_clips(Path(folder) / kind, seconds)
            systems = SYSTEMS if kind == "mixed" else SYSTEMS[:3]
            times, peaks, vectors = measure(("s3prl", *systems), checkpoint, clips, rounds)
            for system in systems:
                speed = statistics.median(a / b for a, b in zip(times["s3prl"], times[system], strict=True))
                what = f"files to parquet, {len(seconds)} clips, {describe(seconds)}, {system}"
                rows.append(
                    (
                        f"{what}: s3prl's time / ours",
                        f"{speed:.2f}",
                        GOALS[kind].get(system, ""),
                    )
                )
                if kind == "mixed":
                    cosine = least_cosine(vectors["torch-fp32"], vectors[system])
                    goal = "at least 0.999" if system == "openvino-int8" else ""
                    rows.append((f"{what}: least cosine with torch-fp32", f"{cosine:.6f}", goal))
                    memory = f"{peaks[system] / peaks['s3prl']:.2f}"
                    rows.append((f"{what}: peak memory, ours / s3prl's", memory, "at most 1"))
        rows += bundled_rows(Path(folder), rounds)
    return rows


def bundled_rows(folder: Path, rounds: int) -> list[tuple[str, str, str]]:
    """Times real time of the bundled checkpoint, from files to parquet."""
    seconds = spread(480, 1, 15)
    times, _, _ = measure(tuple(BUNDLED), "bundled", write_clips(folder / "bundled", seconds), rounds)
    what = f"files to parquet, {len(seconds)} clips, {describe(seconds)}, bundled checkpoint"
    return [
        (f"{what}, {system}: times real time", f"{sum(seconds) / statistics.median(times[system]):.0f}", goal)
        for system, goal in BUNDLED.items()
    ]


def spread(count: int, shortest: float, longest: float) -> list[float]:
    """Lengths from one to the other, evenly spaced, in random order."""
    seconds = [shortest + (longest - shortest) * i / (count - 1) for i in range(count)]
    random.Random(0).shuffle(seconds)
    return seconds


def describe(seconds: list[float]) -> str:
    """Their lengths in words."""
    return f"{min(seconds):g} to {max(seconds):g} s" if min(seconds) < max(seconds) else f"{seconds[0]:g} s each"


def write_clips(folder: Path, seconds: list[float]) -> Path:
    """Flac files of these lengths, cut from the real clips of tests/data one behind the other."""
    folder.mkdir()
    audio = np.concatenate([read_audio(path) for path in sorted(AUDIO.glob("*.opus"))])
    start = 0
    for number, length in enumerate(seconds):
        samples = round(16_000 * length)
        soundfile.write(
            folder / f"{number:03d}.flac",
            np.take(audio, range(start, start + samples), mode="wrap"),
            16_000,
        )
        start += samples
    return folder


def measure(
    systems: tuple[str, ...], checkpoint: Path | str, clips: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, np.ndarray]]:
    """Seconds of each system, called in turn; peak memory in MiB; the vectors."""
    times: dict[str, list[float]] = {system: [] for system in systems}
    peaks, vectors = {}, {}
    for _ in range(rounds):
        for system in systems:
            command = [sys.executable, __file__, system, str(checkpoint), str(clips)]
            done = subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                cwd=Path(__file__).parent,
            )
            seconds, peak = map(float, done.stdout.split()[-2:])
            times[system].append(seconds)
            peaks[system] = peak
            vectors[system] = np.stack(pq.read_table(clips.parent / f"{system}.parquet")["vector"].to_numpy())
    return times, peaks, vectors


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Over the rows."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())


def theirs(checkpoint: Path, folder: Path) -> float:
    """What a researcher writes: soundfile, batches of 8 in the order of the files, the mean over time, parquet."""
    expert = load_expert(checkpoint)
    paths = find_audio([folder])

    def vectors(some: list[Path]) -> list[np.ndarray]:
        waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in some]
        with torch.no_grad():
            hidden = expert(waves)["hidden_states"][-1]
        steps = [max(1, (1 + (len(wave) - 400) // 160) // 16) for wave in waves]
        return [row[:count].mean(dim=0).numpy() for row, count in zip(hidden, steps, strict=True)]

    vectors(paths[:1])
    start = time.perf_counter()
    rows = [row for i in range(0, len(paths), BATCH) for row in vectors(paths[i : i + BATCH])]
    table = pa.table(
        {
            "path": [str(path) for path in paths],
            "vector": [row.tolist() for row in rows],
        }
    )
    pq.write_table(table, folder.parent / "s3prl.parquet")
    return time.perf_counter() - start


def ours(system: str, checkpoint: str, folder: Path) -> float:
    """`maeast embed`, without what it takes to start: imports, weights, the engine."""
    engine, precision = system.split("-")
    encoder = load_model(checkpoint)
    choice = attach(
        encoder,
        engine,
        precision,
        [encoder.num_layers],
        streams=streams_on(encoder.device),
    )  # type: ignore[arg-type]
    out = folder.parent / f"{system}.parquet"
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    Job(Survey([str(folder)]), output_at(str(out)), encoder, SPEC, choice, "base").run(workers=1)
    return time.perf_counter() - start


if __name__ == "__main__":
    _, name, weights, audio = sys.argv
    torch.set_num_threads(2)
    took = theirs(Path(weights), Path(audio)) if name == "s3prl" else ours(name, weights, Path(audio))
    # VmHWM, not getrusage: that also counts what the parent held when it forked
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    print(took, int(peak.split()[1]) / 1024)
