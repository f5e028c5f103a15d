"""From a packed corpus to a parquet table on one device, bf16: hours of audio a second, and the share of its peak."""

import csv
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from bench_encoder import matmul_peak, network_flops
from timing import seconds

from maeast_upstream import load_model
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.packed import AUDIO_NAME, TABLE_NAME, to_int16
from maeast_upstream.engines.selection import attach
from maeast_upstream.extract.job import Job
from maeast_upstream.extract.outputs import output_at
from maeast_upstream.extract.survey import Survey
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.readout import Readout

AUDIO = Path(__file__).parents[1] / "data" / "audio"
CLIP_SECONDS = 10
SPEC = EmbeddingSpec(readouts=(Readout(layer="last", mel="concat", pool="mean"),))
GOAL = "at least 11.6 on one H200"


def run(device: str, checkpoint: Path, hours: float = 24.0, rounds: int = 2) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted): the base patch model on ten-second clips."""
    encoder = load_model(checkpoint, device=device, precision="bf16")
    choice = attach(encoder, "torch", "bf16")
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_packed(Path(folder) / "packed", hours)

        def work() -> None:
            out = Path(folder) / "table.parquet"
            out.unlink(missing_ok=True)
            Job(Survey([str(corpus)]), output_at(str(out)), encoder, SPEC, choice, "base").run(workers=1)

        work()  # the device's memory, its kernels and the disk's cache are warm afterwards
        rate = hours / min(seconds(work) for _ in range(rounds))
    what = f"packed audio to parquet, {hours:g} h in clips of {CLIP_SECONDS} s, bf16, {device}"
    rows = [(f"{what}: hours of audio a second", f"{rate:.4g}", GOAL)]
    peak = matmul_peak(device)
    share = rate * 3600 / CLIP_SECONDS * network_flops(encoder, CLIP_SECONDS * 16_000) / peak
    rows.append((f"{what}: share of {peak / 1e12:.3g} TFLOP/s", f"{100 * share:.0f} %", "at least 49 %"))
    return rows


def write_packed(folder: Path, hours: float) -> Path:
    """A packed corpus of the real clips of tests/data, again and again; of noise where no decoder is installed."""
    folder.mkdir()
    if find_spec("soundfile"):
        audio = to_int16(np.concatenate([read_audio(path) for path in sorted(AUDIO.glob("*.opus"))]))
    else:
        audio = to_int16(np.random.default_rng(0).normal(scale=0.1, size=60 * 16_000).astype(np.float32))
    samples, count = CLIP_SECONDS * 16_000, max(1, round(hours * 3600 / CLIP_SECONDS))
    with (folder / AUDIO_NAME).open("wb") as file:
        for number in range(count):
            np.take(audio, np.arange(number * samples, (number + 1) * samples), mode="wrap").tofile(file)
    with (folder / TABLE_NAME).open("w", newline="", encoding="utf-8") as file:
        rows = ((f"{number:06d}", "", samples) for number in range(count))
        csv.writer(file, delimiter="\t").writerows([("clip", "kind", "samples"), *rows])
    return folder


if __name__ == "__main__":
    from reference import write_checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as place:
        print(*run(device, write_checkpoint(Path(place) / "base.pt"), 60.0 if device == "cuda" else 0.05), sep="\n")
