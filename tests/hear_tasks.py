"""HEAR tasks made of the real clips, small enough for a test."""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

DATA = Path(__file__).parent / "data"
SMALL_HEAD = {"max_epochs": [40], "hidden_dim": [64], "hidden_layers": [1], "lr": [0.0032], "batch_size": [16]}
"""A grid of one head, which the kit trains in a second."""


def write_labels(folder, keep=("kick", "snare", "six", "zero")):
    """A labels.csv of some classes, its paths absolute."""
    lines = (DATA / "labels.csv").read_text().splitlines()[1:]
    rows = [line.split(",")[:3] for line in lines]
    path = folder / "labels.csv"
    text = "".join(f"{DATA / name},{label},{split}\n" for name, label, split in rows if label in keep)
    path.write_text(f"path,label,split\n{text}")
    return path


EVENT_COLUMNS = "path,label,start_ms,end_ms,split"


def write_table(folder, *rows, header="path,label,split"):
    """A labels.csv with these rows."""
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def read_json(task, name):
    """A JSON file of a task."""
    return json.loads((task / f"{name}.json").read_text())


def write_events(folder, labels, counts, seconds=5.0, rate=16000):
    """Recordings with labelled clips in quiet noise, a random gap between them, and the events.csv of their times.

    Args:
        folder: the folder to create.
        labels: a labels.csv; clips stay in their split.
        counts: the number of recordings of each split.
        seconds: length of a recording.
        rate: sample rate of the clips.
    """
    folder.mkdir()
    with labels.open() as file:
        clips = list(csv.DictReader(file))
    rng = np.random.default_rng(0)
    lines = ["path,label,start_ms,end_ms,split"]
    for split, count in counts.items():
        in_split = [clip for clip in clips if clip["split"] == split]
        for number in range(count):
            samples = 0.005 * rng.standard_normal(int(seconds * rate))
            start = 0
            while True:
                clip = in_split[rng.integers(len(in_split))]
                sound = soundfile.read(clip["path"])[0]
                start += int(rng.integers(rate // 10, rate))
                end = start + len(sound)
                if end > len(samples):
                    break
                samples[start:end] += 0.5 * sound
                lines.append(f"{split}{number}.wav,{clip['label']},{1000 * start / rate},{1000 * end / rate},{split}")
                start = end
            soundfile.write(folder / f"{split}{number}.wav", samples, rate)
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    return folder / "events.csv"


def with_small_head(task):
    """Let the kit train one small head on this task."""
    path = task / "task_metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"evaluation_params": {"task_specific_param_grid": SMALL_HEAD}}))
    return task
