"""Labelled sets and a small checkpoint for the tests of evaluation and its commands."""

import csv
from pathlib import Path

import numpy as np
import soundfile
import torch
from small import small_config

from maeast_upstream import checkpoint
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.encoder import Encoder

DATA = Path(__file__).parent / "data"


def write_real_clips(path, is_kept):
    """A labels.csv of the real clips whose labels are kept."""
    with (DATA / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if is_kept(row["label"])]
    lines = [f"{(DATA / row['path']).resolve()},{row['label']},{row['split']}" for row in rows]
    path.write_text("\n".join(["path,label,split", *lines]))
    return path


def write_tones(folder):
    """A labels.csv with two classes that any features distinguish: low and high tones."""
    lines = ["path,label,split"]
    for number in range(24):
        low, split = number % 2, ["train", "train", "valid", "test"][number % 8 // 2]
        hz = (200 if low else 3000) + 10 * number
        samples = 0.3 * np.sin(2 * np.pi * hz * np.arange(3000 + 300 * number) / 16000)
        soundfile.write(folder / f"{number}.wav", samples, 16000)
        lines.append(f"{number}.wav,{'low' if low else 'high'},{split}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def save_small_checkpoint(folder):
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    config = EncoderConfig(model=small_config(), normalisation=Normalisation(mean=-6.0, std=4.0))
    checkpoint.save_folder(folder, Encoder(config).network, config)
    return folder
