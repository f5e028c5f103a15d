"""Lays out labelled clips in the folders that s3prl's KS, SID and ER expect; each clip stays in its split."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maeast_upstream.audio.constants import SAMPLE_RATE

KS_WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
SID_CLASSES = 1251
FIRST_SPEAKER = 10001
FOLD = "fold1"

Samples = np.ndarray
"""(S,) float32 in [-1, 1] at 16 kHz."""
Write = Callable[[Path, Samples], None]


@dataclass(frozen=True)
class SuperbClip:
    """A clip with its class and split, before it is laid out."""

    name: str
    """Unique, of letters, digits and hyphens only."""
    label: str
    split: str
    """train, valid or test."""


def plain_name(text: str) -> str:
    """Turn a text into part of a file name: at most 60 letters, digits and single hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60]


def ks_class(label: str) -> str:
    """The class of a label in KS: one of its ten words, or ``_unknown_``."""
    if label in (SILENCE, NOISE):
        raise ValueError(f"{label!r} cannot be the label of a clip for KS: its silence is cut from --noise")
    return label.lower() if label.lower() in KS_WORDS else UNKNOWN


def ks_path(clip: SuperbClip) -> Path:
    """The relative path of a clip in KS. s3prl separates train from dev by a hash of the name, so the name is chosen.

    Source: s3prl/downstream/speech_commands/expert.py, ``split_dataset``.
    """
    if clip.split == "test":
        return Path("test") / clip.label / f"{clip.name}.wav"
    for attempt in range(10_000):
        speaker = f"{clip.name}-{attempt}"
        percent = ks_percent(speaker)
        if (percent < 10) if clip.split == "valid" else (percent >= 20):
            return Path("train") / clip.label / f"{speaker}_nohash_0.wav"
    raise AssertionError("no name hashed into the split")


def ks_percent(speaker: str) -> float:
    """The hash by which s3prl chooses a split: dev below 10, left out from 10 to 20, train from 20 on."""
    largest = 2**27 - 1
    return int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (largest + 1) * (100.0 / largest)


def lay_out_silence(noises: Mapping[str, Samples], count: int, folder: Path, write: Write) -> None:
    """Write KS's noise: the first four fifths of each file for training, seconds of the rest as test silence.

    From the training files s3prl cuts a random second each time, for train and for dev.

    Args:
        noises: name -> samples, at least two seconds each.
        count: number of ``_silence_`` clips in the test folder.
        folder: the folder of the layout.
        write: writes a WAV file, and the folders above it.
    """
    ends = {name: len(samples) - max(SAMPLE_RATE, len(samples) // 5) for name, samples in noises.items()}
    for name, samples in noises.items():
        write(folder / "train" / NOISE / f"{name}.wav", samples[: ends[name]])
    names = list(noises)
    generator = np.random.default_rng(0)
    for number in range(count):
        name = names[number % len(names)]
        start = int(generator.integers(ends[name], len(noises[name]) - SAMPLE_RATE + 1))
        cut = noises[name][start : start + SAMPLE_RATE]
        write(folder / "test" / SILENCE / f"{name}-{number:05d}.wav", cut)


def generate_noise(seconds: int = 60) -> dict[str, Samples]:
    """Generate white and pink noise, of which two of the six noise files of Speech Commands consist, too."""
    generator = np.random.default_rng(0)
    white = generator.normal(size=seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    return {
        name: (0.1 * noise / noise.std()).clip(-1, 1).astype(np.float32)
        for name, noise in {"white-noise": white, "pink-noise": pink}.items()
    }


def sid_path(clip: SuperbClip, speakers: Mapping[str, int]) -> Path:
    """The relative path of a clip in SID, below the ``wav`` folder of dev (train and valid) or test."""
    part = "test" if clip.split == "test" else "dev"
    return Path(part) / "wav" / f"id{speakers[clip.label]}" / "clips" / f"{clip.name}.wav"


def sid_speakers(labels: Iterable[str]) -> dict[str, int]:
    """Number the labels as VoxCeleb1 numbers its speakers, from 10001 on.

    Raises:
        ValueError: There are more labels than the head has classes.
    """
    ordered = sorted(set(labels))
    if len(ordered) > SID_CLASSES:
        raise ValueError(f"{len(ordered)} labels; s3prl's SID has {SID_CLASSES} classes: use at most that many labels")
    return {label: FIRST_SPEAKER + number for number, label in enumerate(ordered)}


def sid_lines(paths: Mapping[SuperbClip, Path]) -> Iterator[str]:
    """The lines of SID's list: ``1|2|3 id10001/clips/NAME.wav`` for train, dev and test."""
    number = {"train": 1, "valid": 2, "test": 3}
    for clip, path in paths.items():
        yield f"{number[clip.split]} {'/'.join(path.parts[2:])}"


def er_tables(paths: Mapping[SuperbClip, Path]) -> dict[str, dict[str, Any]]:
    """ER's two tables by file name. The head has one class per label in its table, so it accepts any set of labels.

    s3prl draws dev from the train table at random, always with the same seed. The rows are ordered so that it draws
    exactly the valid clips, if the config has the ratio of `er_valid_ratio`.

    Source: s3prl/downstream/emotion/{expert,dataset}.py.
    """
    labels = {label: number for number, label in enumerate(sorted({clip.label for clip in paths}))}

    def row(clip: SuperbClip) -> dict[str, str]:
        return {"path": paths[clip].as_posix(), "label": clip.label, "speaker": "unknown"}

    by_split = {split: [row(c) for c in paths if c.split == split] for split in ("train", "valid", "test")}
    ordered = by_split["train"] + by_split["valid"]
    drawn = torch.randperm(len(ordered), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [ordered[index] for _, index in sorted(zip(drawn, range(len(ordered)), strict=True))]
    return {
        "train_meta_data.json": {"labels": labels, "meta_data": rows},
        "test_meta_data.json": {"labels": labels, "meta_data": by_split["test"]},
    }


def er_valid_ratio(clips: Iterable[SuperbClip]) -> float:
    """The ratio from which s3prl, which rounds, computes exactly the number of train clips."""
    splits = [clip.split for clip in clips]
    train, valid = splits.count("train"), splits.count("valid")
    return (valid - 0.5) / (train + valid)


def write_json(path: Path, table: Any) -> None:
    """Write a JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")
