"""What the labelled sets share: clips are made alike, near copies leave, a folder with ``labels.csv`` is written."""

import csv
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.corpora.corpus.pieces import encode
from pretrain.corpora.debian.deb import Source

SPLITS = ("test", "valid", "train")
"""In the order in which they keep what two of them hold."""
PEAK, MIN_PEAK, MIN_RMS, FADE_SECONDS = 0.7, 0.005, 1e-3, 0.005
TRIM_SAMPLES, TRIM_MARGIN = 160, 640
PICTURE_WINDOW, PICTURE_HOP, PICTURE_MELS, PICTURE_COLUMNS = 512, 128, 32, 24
KEY_LETTERS = 60
UNSAFE = re.compile(r"[^A-Za-z0-9_+-]")


@dataclass(frozen=True)
class LabelledClip:
    """A clip of a labelled set."""

    key: str
    samples: np.ndarray
    label: str
    split: str
    package: str
    group: str
    """What it shares with other clips, such as the drum kit."""


@dataclass(frozen=True)
class Found:
    """The files of a set's packages that it wants, and the way to read them."""

    files: list[tuple[str, Source]]
    """Package and file, in the order of the list of packages."""
    read: Callable[[Source], np.ndarray | None]
    """(S,) at 16 kHz; None for what cannot be decoded."""
    scratch: Path
    """A folder for what synthesisers write."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a labelled set is made."""

    name: str
    wanted: Callable[[str, str], bool]
    """Of a package and the name of a file in it."""
    build: Callable[[Found], list[LabelledClip]]
    expands: bool = False
    """Whether it wants what lies in archives."""
    programs: tuple[str, ...] = ()
    """Programs that must be installed."""
    installed: tuple[str, ...] = ()
    """Packages that must be installed, rather than downloaded: those programs and their voices."""


def digest_of(text: str) -> str:
    """SHA-256: what stands for chance in these rules."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def split_of(group: str, seed: str, train: float, valid: float) -> str:
    """The split of a group of clips, by chance of its name: shares ``train``, ``valid``, the rest test."""
    chance = int(digest_of(seed + group)[:8], 16) / 2**32
    return "train" if chance < train else "valid" if chance < train + valid else "test"


@dataclass
class Collection:
    """Clips of a set while it is made."""

    max_seconds: float = 4.0
    min_seconds: float = 0.08
    trim_db: float = -45.0
    clips: list[LabelledClip] = field(default_factory=list)

    def add(self, key: str, samples: np.ndarray | None, label: str, split: str, package: str, group: str = "") -> bool:
        """Trim, cut, level and fade a clip; whether it is one: neither undecodable, nor short, nor silent."""
        if samples is None or not len(samples):
            return False
        cut = trim(samples, self.trim_db)[: int(self.max_seconds * SAMPLE_RATE)]
        if len(cut) < self.min_seconds * SAMPLE_RATE:
            return False
        if np.sqrt(np.square(cut).mean()) < MIN_RMS or np.abs(cut).max() < MIN_PEAK:
            return False
        self.clips.append(LabelledClip(UNSAFE.sub("_", key), fade(level(cut)), label, split, package, group))
        return True


def trim(samples: np.ndarray, db: float) -> np.ndarray:
    """Without the silence at both ends, but for 40 ms: what lies ``db`` below the loudest 10 ms."""
    count = len(samples) // TRIM_SAMPLES
    if count < 2:
        return samples
    power = np.square(samples[: count * TRIM_SAMPLES].reshape(count, TRIM_SAMPLES)).mean(1)
    loudness = np.sqrt(power + 1e-12)
    loud = np.flatnonzero(loudness > loudness.max() * 10 ** (db / 20))
    first, last = int(loud[0]) * TRIM_SAMPLES, (int(loud[-1]) + 1) * TRIM_SAMPLES
    return samples[max(0, first - TRIM_MARGIN) : last + TRIM_MARGIN]


def level(samples: np.ndarray) -> np.ndarray:
    """With a peak of 0.7, so that loudness tells nothing."""
    peak = np.abs(samples).max()
    return samples * np.float32(PEAK / peak) if peak > 0 else samples


def fade(samples: np.ndarray) -> np.ndarray:
    """In and out over 5 ms."""
    count = min(int(SAMPLE_RATE * FADE_SECONDS), len(samples) // 4)
    if not count:
        return samples
    ramp = np.linspace(0, 1, count, dtype=np.float32)
    faded = samples.copy()
    faded[:count] *= ramp
    faded[-count:] *= ramp[::-1]
    return faded


def drop_near_copies(
    clips: list[LabelledClip], alike: float, alike_in_split: float | None = None
) -> list[LabelledClip]:
    """Without clips of nearly equal length whose log-mel pictures correlate above ``alike``.

    Of two copies the one in test stays, else that in valid; where their labels differ, both go.

    Args:
        clips: in any order.
        alike: the correlation from which on two clips count as one.
        alike_in_split: the same where both are in one split; default: ``alike``.

    Returns:
        What is left, by split and key.
    """
    ordered = sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.key))
    pictures = np.stack([picture(clip.samples) for clip in ordered])
    lengths = np.array([len(clip.samples) for clip in ordered])
    splits = np.array([clip.split for clip in ordered])
    kept: list[int] = []
    contradicted: set[int] = set()
    for i in range(len(ordered)):
        before = np.array(kept, int)
        limits = np.where(splits[before] == splits[i], alike if alike_in_split is None else alike_in_split, alike)
        near = np.abs(lengths[before] - lengths[i]) < 0.06 * np.maximum(lengths[before], lengths[i]) + 160
        copies = before[near & (pictures[before] @ pictures[i] > limits)]
        if not len(copies):
            kept.append(i)
        elif ordered[copies[0]].label != ordered[i].label:
            contradicted.add(int(copies[0]))
    return [ordered[i] for i in kept if i not in contradicted]


def picture(samples: np.ndarray) -> np.ndarray:
    """(S,) -> (32 * 24,) log-mel without its mean, of norm 1."""
    padded = np.pad(samples, (0, max(0, 2 * PICTURE_WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, PICTURE_WINDOW)[::PICTURE_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(PICTURE_WINDOW), axis=1)))
    mels = np.log(power @ _mel_bank() + 1e-6)
    columns = mels[np.linspace(0, len(mels) - 1, PICTURE_COLUMNS).astype(int)]
    flat = (columns - columns.mean()).ravel()
    return np.asarray(flat / np.linalg.norm(flat), np.float32)


def _mel_bank() -> np.ndarray:
    """(257, 32) triangles, even on the mel scale up to 8 kHz."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), PICTURE_MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1) / (SAMPLE_RATE / PICTURE_WINDOW)
    bins = np.arange(PICTURE_WINDOW // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def drop_small_classes(clips: list[LabelledClip], train: int, valid: int, test: int) -> list[LabelledClip]:
    """Only classes that have so many clips in each split."""
    counts = Counter((clip.label, clip.split) for clip in clips)
    least = {"train": train, "valid": valid, "test": test}
    labels = {clip.label for clip in clips}
    large = {label for label in labels if all(counts[label, split] >= least[split] for split in least)}
    return [clip for clip in clips if clip.label in large]


def named(clips: list[LabelledClip]) -> list[LabelledClip]:
    """In the set's order, each key made the name of its file: label, key, and a number where two are the same."""
    ordered = sorted(clips, key=lambda clip: (clip.label, clip.split, clip.key))
    seen: Counter[str] = Counter()
    result = []
    for clip in ordered:
        name = f"{UNSAFE.sub('_', clip.label)}-{clip.key[:KEY_LETTERS]}"
        seen[name] += 1
        result.append(replace(clip, key=name if seen[name] == 1 else f"{name}-{seen[name]}"))
    return result


def write_set(folder: Path, clips: list[LabelledClip], sources: Iterable[Sequence[str]]) -> None:
    """Write ``audio/NAME.opus``, ``labels.csv`` and ``SOURCES.tsv`` into a folder that appears whole or not at all.

    Args:
        folder: does not exist yet.
        clips: in any order.
        sources: rows of package, version, licence.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        (part / "audio").mkdir(parents=True)
        with (part / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "label", "split"))
            for clip in named(clips):
                path = f"audio/{clip.key}.opus"
                (part / path).write_bytes(encode(clip.samples))
                writer.writerow((path, clip.label, clip.split))
        _write_sources(part / "SOURCES.tsv", sources, clips)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_sources(path: Path, sources: Iterable[Sequence[str]], clips: list[LabelledClip]) -> None:
    counts = Counter((clip.package, clip.split) for clip in clips)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("package", "version", "licence", *SPLITS))
        writer.writerows((*source, *(counts[source[0], split] for split in SPLITS)) for source in sources)
