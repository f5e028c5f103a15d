"""A whole run of HEAR's evaluation kit on a task of 2,000 clips, bundled checkpoint: the share of the embeddings."""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from hear_api.tasks.create import write_task
from hear_api.tasks.table import TaskClip
from maeast_upstream.audio.reading import read_audio

DATA = Path(__file__).parents[1] / "data"
SPLITS = {"train": 1200, "valid": 400, "test": 400}
SECONDS = 1.0
GRID_POINTS = 8
"""The kit's default."""


def run(splits: dict[str, int] = SPLITS, grid_points: int = GRID_POINTS) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "TASKS" / "clips-v1-full"
        write_clips(Path(folder) / "clips", task, splits)
        command = [
            sys.executable,
            "-m",
            "maeast_upstream.cli",
            "hear",
            "--tasks-dir",
            str(task.parent),
        ]
        command += [
            "--out",
            str(Path(folder) / "out"),
            "--grid-points",
            str(grid_points),
        ]
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        wall = time.perf_counter() - begun
        (state,) = (Path(folder) / "out").glob("*/embeddings/*/*/maeast.json")
        seconds = json.loads(state.read_text())["seconds"]["embeddings"]
    clips = f"HEAR's kit on {sum(splits.values())} clips of {SECONDS:g} s, {grid_points} grid points"
    return [
        (
            f"{clips}: embeddings, of {wall:.0f} s in all",
            f"{100 * seconds / wall:.1f} %",
            "at most 20 %",
        ),
    ]


def write_clips(recordings: Path, task: Path, splits: dict[str, int]) -> None:
    """A task of the real clips, each of them often, with some noise: by class, the split's own clips only."""
    with (DATA / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(0)
    recordings.mkdir(parents=True)
    clips = []
    for split, count in splits.items():
        own = [row for row in rows if row["split"] == split]
        for number in range(count):
            row = own[number % len(own)]
            samples = read_audio(DATA / row["path"])
            noise = 0.003 * rng.standard_normal(len(samples)).astype(np.float32)
            path = recordings / f"{split}{number}.wav"
            soundfile.write(path, samples + noise, 16_000)
            clips.append(TaskClip(path, path.name, split, [row["label"]]))
    write_task(task, clips, "multiclass", ["top1_acc", "mAP"], SECONDS)


if __name__ == "__main__":
    print(run({"train": 60, "valid": 20, "test": 20}, grid_points=1))
