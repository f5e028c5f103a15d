"""Makes the archive of `archive_search`: hours of music into which labelled sounds are mixed at known times.

PYTHONPATH=. python tests/benchmarks/archive_audio.py --probes probes --out archive

It needs about 500 MB of Debian packages (`pretrain.corpora.debian_audio`) and the labelled sets of
`pretrain.corpora.debian_probes`. Tracks of at least a minute are put one behind the other into recordings of half an
hour, at one loudness. Into each part of the archive sounds are mixed of the split of the same name:

- train, 1 hour: 20 sounds per class, what a user has labelled;
- valid, 1 hour: 20 sounds per class, on which settings and thresholds are chosen;
- test, 5 hours: 60 sounds per class, searched once.

A sound lies at a random time, at least 5 s from the next. Its signal-to-noise ratio is uniform from 0 to 15 dB: its
RMS against that of the music under it. ``OUT/inserted.csv`` has the times, classes and ratios. The same packages and
seed give the same files.
"""

import argparse
import csv
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, read_audio
from pretrain.corpora.debian.archives import is_sound
from pretrain.corpora.debian.deb import UnpackFolder, read_deb
from pretrain.corpora.debian.fetch import fetch
from pretrain.corpora.debian.packages import LISTS, choose_packages, read_packages

PACKAGES = (
    "warzone2100-music",
    "planetblupi-music-ogg",
    "wesnoth-1.16-music",
    "singularity-music",
    "drascula-music",
)
CLASSES = {
    "explosion": ("game_effects", "explosion"),
    "gunshot": ("game_effects", "gunshot"),
    "cry": ("game_effects", "death_cry"),
    "water": ("game_effects", "water"),
    "pirate": ("game_voices", "Pirate"),
    "robot": ("game_voices", "Robot"),
}
"""What is searched for: the labelled set and its label; the last two are voices."""
RECORDINGS = {"train": 2, "valid": 2, "test": 10}
PER_CLASS = {"train": 20, "valid": 20, "test": 60}
RECORDING_SECONDS, MIN_TRACK_SECONDS = 1800, 60
TRACK_RMS = 0.03
"""Low, so that a sound 15 dB above the music fits into the range of a file."""
QUIET_RMS = 0.01
"""Where music is below it, this is what the ratio counts from: a sound in a rest should not vanish."""
MIN_DB, MAX_DB, MIN_GAP_SECONDS = 0.0, 15.0, 5.0
SEED = 0


@dataclass(frozen=True)
class Inserted:
    """A sound in a recording."""

    path: str
    """The recording, relative to the archive's folder."""
    label: str
    start_ms: int
    end_ms: int
    snr_db: float
    clip: str
    """The labelled clip."""


def main() -> None:
    """Write OUT/train, OUT/valid and OUT/test, and OUT/inserted.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    tracks = unpack(args.out)
    rng.shuffle(tracks)
    remaining = iter(tracks)
    rows: list[Inserted] = []
    for part, count in RECORDINGS.items():
        (args.out / part).mkdir(exist_ok=True)
        sounds = choose_sounds(args.probes, part, rng)
        for number in range(count):
            path = args.out / part / f"{part}_{number:02d}.flac"
            samples = fill_recording(remaining)
            rows += insert(samples, sounds[number::count], path.relative_to(args.out), args.probes, rng)
            soundfile.write(path, samples, SAMPLE_RATE)
            print(path, flush=True)
    with (args.out / "inserted.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Inserted.__dataclass_fields__)
        writer.writerows(row.__dict__.values() for row in rows)


def unpack(out: Path) -> list[Path]:
    """Download the packages and unpack their audio; the files in a fixed order."""
    files: list[Path] = []
    for package in choose_packages(read_packages(LISTS / "debian_audio.tsv"), PACKAGES):
        deb = fetch(package, out / "packages")
        folder = out / "tracks" / package.package
        shutil.rmtree(folder, ignore_errors=True)
        files += [source.path for source in read_deb(deb, UnpackFolder(folder, package.package), is_sound)]
    return files


def choose_sounds(probes: Path, split: str, rng: np.random.Generator) -> list[tuple[str, Path]]:
    """Return (class, clip) of all sounds of a part in random order; where clips are too few, they return."""
    sounds: list[tuple[str, Path]] = []
    for name, (folder, label) in CLASSES.items():
        with (probes / folder / "labels.csv").open(newline="") as file:
            clips = [row["path"] for row in csv.DictReader(file) if row["label"] == label and row["split"] == split]
        order = [clip for _ in range(-(-PER_CLASS[split] // len(clips))) for clip in rng.permutation(sorted(clips))]
        sounds += [(name, probes / folder / clip) for clip in order[: PER_CLASS[split]]]
    return [sounds[index] for index in rng.permutation(len(sounds))]


def fill_recording(tracks: Iterator[Path]) -> np.ndarray:
    """Put tracks one behind the other, each at the same RMS, until the recording is full."""
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < RECORDING_SECONDS * SAMPLE_RATE:
        try:
            track = read_audio(next(tracks))
        except AudioError:
            continue
        rms = float(np.sqrt(np.square(track, dtype=np.float64).mean()))
        if len(track) >= MIN_TRACK_SECONDS * SAMPLE_RATE and rms > 0:
            pieces.append(np.clip(track * np.float32(TRACK_RMS / rms), -1, 1))
    return np.concatenate(pieces)[: RECORDING_SECONDS * SAMPLE_RATE]


def insert(
    samples: np.ndarray, sounds: list[tuple[str, Path]], path: Path, probes: Path, rng: np.random.Generator
) -> list[Inserted]:
    """Mix sounds into a recording, in place; what lies where, in the order of time."""
    rows: list[Inserted] = []
    gap = int(MIN_GAP_SECONDS * SAMPLE_RATE)
    taken: list[tuple[int, int]] = []
    for label, clip in sounds:
        sound = read_audio(clip)
        while True:
            start = int(rng.integers(gap, len(samples) - len(sound) - gap))
            if all(start + len(sound) + gap <= begin or end + gap <= start for begin, end in taken):
                break
        end = start + len(sound)
        taken.append((start, end))
        music = samples[start:end]
        decibels = float(rng.uniform(MIN_DB, MAX_DB))
        level = max(float(np.sqrt(np.square(music).mean())), QUIET_RMS) * 10 ** (decibels / 20)
        sound = sound * np.float32(level / np.sqrt(np.square(sound).mean()))
        samples[start:end] = np.clip(music + sound, -1, 1)
        start_ms, end_ms = (round(1000 * edge / SAMPLE_RATE) for edge in (start, end))
        rows.append(
            Inserted(path.as_posix(), label, start_ms, end_ms, round(decibels, 1), str(clip.relative_to(probes)))
        )
    return sorted(rows, key=lambda row: row.start_ms)


if __name__ == "__main__":
    main()
