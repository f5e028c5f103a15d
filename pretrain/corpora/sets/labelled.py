"""Code that the labelled sets share: normalizes clips, removes near copies, and writes a folder with ``labels.csv``."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.storage.atomic import replacing_folder
from pretrain.corpora.corpus.pieces import encode_opus
from pretrain.corpora.debian.deb import Source

SPLITS = ("test", "valid", "train")
"""If two splits hold copies of a clip, the one that comes first here keeps it."""
PEAK, MIN_PEAK, MIN_RMS, FADE_SECONDS = 0.7, 0.005, 1e-3, 0.005
TRIM_SAMPLES, TRIM_MARGIN = 160, 640
SPECTROGRAM_WINDOW, SPECTROGRAM_HOP, SPECTROGRAM_MELS, SPECTROGRAM_COLUMNS = 512, 128, 32, 24
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
    """Name of what it shares with other clips, such as the drum kit."""


@dataclass(frozen=True)
class SetFiles:
    """The selected files of a set's packages, and a function that reads them."""

    sources: list[tuple[str, Source]]
    """Pairs of package and file, in the order of the list of packages."""
    read: Callable[[Source], np.ndarray | None]
    """Returns (S,) samples at 16 kHz; None for a file that cannot be decoded."""
    scratch: Path
    """A folder to which synthesizers write."""


@dataclass(frozen=True, kw_only=True)
class SetRecipe:
    """How a labelled set is made."""

    name: str
    select: Callable[[str, str], bool]
    """Whether a file is used, by its package and its name in it."""
    build: Callable[[SetFiles], list[LabelledClip]]
    expands: bool = False
    """Whether files in the packages' archives are used, too."""
    programs: tuple[str, ...] = ()
    """Programs that must be installed."""
    installed: tuple[str, ...] = ()
    """Packages that must be installed instead of downloaded: those programs and their voices."""


def sha256_of(text: str) -> str:
    """SHA-256 of a text in hexadecimal digits, which replaces random numbers in these rules."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def split_of(group: str, seed: str, train: float, valid: float) -> str:
    """The split of a group of clips, chosen by a hash of its name.

    Args:
        group: name of the group.
        seed: text that is hashed before the name.
        train: share of train.
        valid: share of valid; the rest is test.
    """
    chance = int(sha256_of(seed + group)[:8], 16) / 2**32
    return "train" if chance < train else "valid" if chance < train + valid else "test"


@dataclass
class ClipCollector:
    """Collects the clips of a set, normalized in the same way."""

    max_seconds: float = 4.0
    min_seconds: float = 0.08
    trim_db: float = -45.0
    clips: list[LabelledClip] = field(default_factory=list)

    def add(self, key: str, samples: np.ndarray | None, label: str, split: str, package: str, group: str = "") -> bool:
        """Trim, cut, scale and fade a clip, and collect it.

        Returns:
            Whether the clip was collected; it is not if it could not be decoded, is too short or is silent.
        """
        if samples is None or not len(samples):
            return False
        cut = trim(samples, self.trim_db)[: int(self.max_seconds * SAMPLE_RATE)]
        if len(cut) < self.min_seconds * SAMPLE_RATE:
            return False
        if np.sqrt(np.square(cut).mean()) < MIN_RMS or np.abs(cut).max() < MIN_PEAK:
            return False
        self.clips.append(LabelledClip(UNSAFE.sub("_", key), fade(scale_to_peak(cut)), label, split, package, group))
        return True


def trim(samples: np.ndarray, db: float) -> np.ndarray:
    """Remove the silence at both ends except for 40 ms; silence is ``db`` below the loudest 10 ms."""
    count = len(samples) // TRIM_SAMPLES
    if count < 2:
        return samples
    power = np.square(samples[: count * TRIM_SAMPLES].reshape(count, TRIM_SAMPLES)).mean(1)
    loudness = np.sqrt(power + 1e-12)
    loud = np.flatnonzero(loudness > loudness.max() * 10 ** (db / 20))
    first, last = int(loud[0]) * TRIM_SAMPLES, (int(loud[-1]) + 1) * TRIM_SAMPLES
    return samples[max(0, first - TRIM_MARGIN) : last + TRIM_MARGIN]


def scale_to_peak(samples: np.ndarray) -> np.ndarray:
    """Scale to a peak of 0.7, so that loudness does not give the label away."""
    peak = np.abs(samples).max()
    return samples * np.float32(PEAK / peak) if peak > 0 else samples


def fade(samples: np.ndarray) -> np.ndarray:
    """Fade in and out over 5 ms."""
    count = min(int(SAMPLE_RATE * FADE_SECONDS), len(samples) // 4)
    if not count:
        return samples
    ramp = np.linspace(0, 1, count, dtype=np.float32)
    faded = samples.copy()
    faded[:count] *= ramp
    faded[-count:] *= ramp[::-1]
    return faded


def drop_near_copies(
    clips: list[LabelledClip], limit: float, limit_in_split: float | None = None
) -> list[LabelledClip]:
    """Remove clips of nearly equal length whose log-mel spectrograms correlate above ``limit``.

    Of two copies the one in test stays, otherwise the one in valid; if their labels differ, both are removed.

    Args:
        clips: clips in any order.
        limit: the correlation above which two clips count as copies.
        limit_in_split: the same for two clips of one split; default: ``limit``.

    Returns:
        The remaining clips, sorted by split and key.
    """
    ordered = sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.key))
    vectors = np.stack([spectrogram_vector(clip.samples) for clip in ordered])
    lengths = np.array([len(clip.samples) for clip in ordered])
    splits = np.array([clip.split for clip in ordered])
    kept: list[int] = []
    contradicted: set[int] = set()
    for i in range(len(ordered)):
        before = np.array(kept, int)
        limits = np.where(splits[before] == splits[i], limit if limit_in_split is None else limit_in_split, limit)
        near = np.abs(lengths[before] - lengths[i]) < 0.06 * np.maximum(lengths[before], lengths[i]) + 160
        copies = before[near & (vectors[before] @ vectors[i] > limits)]
        if not len(copies):
            kept.append(i)
        elif ordered[copies[0]].label != ordered[i].label:
            contradicted.add(int(copies[0]))
    return [ordered[i] for i in kept if i not in contradicted]


def spectrogram_vector(samples: np.ndarray) -> np.ndarray:
    """(S,) samples -> (32 * 24,) log-mel spectrogram without its mean, of norm 1."""
    padded = np.pad(samples, (0, max(0, 2 * SPECTROGRAM_WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, SPECTROGRAM_WINDOW)[::SPECTROGRAM_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(SPECTROGRAM_WINDOW), axis=1)))
    mels = np.log(power @ _mel_bank() + 1e-6)
    columns = mels[np.linspace(0, len(mels) - 1, SPECTROGRAM_COLUMNS).astype(int)]
    flat = (columns - columns.mean()).ravel()
    return np.asarray(flat / np.linalg.norm(flat), np.float32)


def _mel_bank() -> np.ndarray:
    """(257, 32) triangular filters, evenly spaced on the mel scale up to 8 kHz."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), SPECTROGRAM_MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1) / (SAMPLE_RATE / SPECTROGRAM_WINDOW)
    bins = np.arange(SPECTROGRAM_WINDOW // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def drop_small_classes(clips: list[LabelledClip], train: int, valid: int, test: int) -> list[LabelledClip]:
    """Keep only the classes that have at least this many clips in each split."""
    counts = Counter((clip.label, clip.split) for clip in clips)
    minimum = {"train": train, "valid": valid, "test": test}
    labels = {clip.label for clip in clips}
    large = {label for label in labels if all(counts[label, split] >= minimum[split] for split in minimum)}
    return [clip for clip in clips if clip.label in large]


def with_file_names(clips: list[LabelledClip]) -> list[LabelledClip]:
    """Sort the clips and turn each key into a file name: label, key, and a number if two are the same."""
    ordered = sorted(clips, key=lambda clip: (clip.label, clip.split, clip.key))
    seen: Counter[str] = Counter()
    result = []
    for clip in ordered:
        name = f"{UNSAFE.sub('_', clip.label)}-{clip.key[:KEY_LETTERS]}"
        seen[name] += 1
        result.append(replace(clip, key=name if seen[name] == 1 else f"{name}-{seen[name]}"))
    return result


def write_set(folder: Path, clips: list[LabelledClip], sources: Iterable[Sequence[str]]) -> None:
    """Write ``audio/NAME.opus``, ``labels.csv`` and ``SOURCES.tsv`` into a folder, whole or not at all.

    Args:
        folder: the folder to create.
        clips: clips in any order.
        sources: rows of package, version and licence.
    """
    with replacing_folder(folder) as part:
        (part / "audio").mkdir()
        with (part / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "label", "split"))
            for clip in with_file_names(clips):
                path = f"audio/{clip.key}.opus"
                (part / path).write_bytes(encode_opus(clip.samples))
                writer.writerow((path, clip.label, clip.split))
        _write_sources(part / "SOURCES.tsv", sources, clips)


def _write_sources(path: Path, sources: Iterable[Sequence[str]], clips: list[LabelledClip]) -> None:
    counts = Counter((clip.package, clip.split) for clip in clips)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("package", "version", "licence", *SPLITS))
        writer.writerows((*source, *(counts[source[0], split] for split in SPLITS)) for source in sources)
