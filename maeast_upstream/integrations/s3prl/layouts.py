"""Labelled clips in the folders that s3prl's KS, SID and ER expect, each keeping the splits it was given."""

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
class Clip:
    """A clip with its class and split, ready to be laid out."""

    name: str
    """Unique, of letters, digits and hyphens."""
    label: str
    split: str
    """train, valid or test."""


def plain(text: str) -> str:
    """A text as part of a file's name: letters, digits and single hyphens, at most 60."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60]


def ks_class(label: str) -> str:
    """The class of a label in KS: one of its ten words, or ``_unknown_``."""
    if label in (SILENCE, NOISE):
        raise ValueError(f"{label!r} is no label of clips in KS: its silence is cut from --noise")
    return label.lower() if label.lower() in KS_WORDS else UNKNOWN


def ks_place(clip: Clip) -> Path:
    """Where a clip lies in KS: s3prl tells train from dev by a hash of the name, so the name is chosen to fit.

    Source: s3prl/downstream/speech_commands/expert.py, ``split_dataset``.
    """
    if clip.split == "test":
        return Path("test") / clip.label / f"{clip.name}.wav"
    for attempt in range(10_000):
        speaker = f"{clip.name}-{attempt}"
        percent = ks_percent(speaker)
        if (percent < 10) if clip.split == "valid" else (percent >= 20):
            return Path("train") / clip.label / f"{speaker}_nohash_0.wav"
    raise AssertionError("a hash that never falls into a tenth of its range")


def ks_percent(speaker: str) -> float:
    """Below 10: dev; 10 to 20: left out; from 20 on: train."""
    largest = 2**27 - 1
    return int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (largest + 1) * (100.0 / largest)


def lay_out_silence(noises: Mapping[str, Samples], count: int, folder: Path, write: Write) -> None:
    """KS's noise: all but the last fifth of each file for training, the rest as ``count`` seconds of test silence.

    s3prl cuts a random second out of the training files anew each time, for train and for dev.

    Args:
        noises: plain name -> samples, each of at least two seconds.
        count: of ``_silence_`` clips in the test folder.
        folder: the layout's.
        write: writes a wav.
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


def made_noise(seconds: int = 60) -> dict[str, Samples]:
    """A minute each of white and pink noise, which two of the six noise files of Speech Commands are, too."""
    generator = np.random.default_rng(0)
    white = generator.normal(size=seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    return {
        name: (0.1 * noise / noise.std()).clip(-1, 1).astype(np.float32)
        for name, noise in {"white-noise": white, "pink-noise": pink}.items()
    }


def sid_place(clip: Clip, speakers: Mapping[str, int]) -> Path:
    """Where a clip lies in SID, below ``wav`` folders of dev (train and valid) and test."""
    part = "test" if clip.split == "test" else "dev"
    return Path(part) / "wav" / f"id{speakers[clip.label]}" / "clips" / f"{clip.name}.wav"


def sid_speakers(labels: Iterable[str]) -> dict[str, int]:
    """Labels -> VoxCeleb1's speaker numbers, from 10001 on.

    Raises:
        ValueError: more labels than the head has classes.
    """
    ordered = sorted(set(labels))
    if len(ordered) > SID_CLASSES:
        raise ValueError(f"{len(ordered)} labels; s3prl's SID has {SID_CLASSES} classes, so at most that many")
    return {label: FIRST_SPEAKER + number for number, label in enumerate(ordered)}


def sid_lines(places: Mapping[Clip, Path]) -> Iterator[str]:
    """SID's list: ``1|2|3 id10001/clips/NAME.wav`` for train, dev and test."""
    number = {"train": 1, "valid": 2, "test": 3}
    for clip, place in places.items():
        yield f"{number[clip.split]} {'/'.join(place.parts[2:])}"


def er_tables(places: Mapping[Clip, Path]) -> dict[str, dict[str, Any]]:
    """ER's two tables. The head has as many classes as its table lists labels, so any set of labels will do.

    s3prl draws dev from the train table at random, but always with the same seed: the rows are put in the order that
    makes it draw the valid clips. `er_valid_ratio` belongs to it.

    Source: s3prl/downstream/emotion/{expert,dataset}.py.
    """
    labels = {label: number for number, label in enumerate(sorted({clip.label for clip in places}))}

    def row(clip: Clip) -> dict[str, str]:
        return {
            "path": places[clip].as_posix(),
            "label": clip.label,
            "speaker": "unknown",
        }

    by_split = {split: [row(c) for c in places if c.split == split] for split in ("train", "valid", "test")}
    wanted = by_split["train"] + by_split["valid"]
    drawn = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [wanted[place] for _, place in sorted(zip(drawn, range(len(wanted)), strict=True))]
    return {
        "train_meta_data.json": {"labels": labels, "meta_data": rows},
        "test_meta_data.json": {"labels": labels, "meta_data": by_split["test"]},
    }


def er_valid_ratio(clips: Iterable[Clip]) -> float:
    """The share from which s3prl, which rounds, gets exactly the train clips."""
    splits = [clip.split for clip in clips]
    train, valid = splits.count("train"), splits.count("valid")
    return (valid - 0.5) / (train + valid)


def write_json(path: Path, table: Any) -> None:
    """Write with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")
