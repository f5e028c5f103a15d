"""Finds the sounds of `archive_audio`'s archive with a classifier, and scores what was found.

    python tests/benchmarks/archive_search.py labels archive --window 2 --overlap 1
    maeast embed archive/train archive/valid --window 2 --overlap 1 -o archive/labelled.parquet
    maeast fit archive/labels.csv -t archive/labelled.parquet --clips -o archive/sounds
    maeast predict archive/test -m archive/sounds --all-scores -o archive/found.parquet
    python tests/benchmarks/archive_search.py score archive archive/sounds archive/found.parquet
    python tests/benchmarks/archive_search.py logmel archive --window 2 --overlap 1

``labels`` writes the windows of train and valid with their labels: the 20 sounds of each class and some windows
without any in train, all windows in valid. A window belongs to a sound if they share at least half of the shorter one;
windows that share less are left out. ``logmel`` is the same loop with mean and standard deviation of the log-mel
spectrogram as vectors: same windows, same labels, same classifier.

Scores on test: average precision over the windows; precision and recall of what is found at the thresholds that the
fit chose on valid. Adjacent windows of a label count as one find; a find is right if it overlaps a sound of its class,
and a sound is found if a find of its class overlaps it.
"""

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from sklearn.metrics import average_precision_score

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.classification.examples import Examples
from maeast_upstream.classification.folder import CheckpointSource
from maeast_upstream.classification.labelled_clips import LabelledClip
from maeast_upstream.classification.training import train
from maeast_upstream.data.windows import Windows
from maeast_upstream.frontend import SSAST_FRONTEND, Fbank
from maeast_upstream.readout import Readout, pool_time

BACKGROUND = "background"
"""The label of windows without a sound."""
TRAIN_BACKGROUNDS = 2000
LEVELS = ((0, 5), (5, 10), (10, 15))
"""Signal-to-noise ratios in dB, for recall by level."""
Span = tuple[float, float]


@dataclass(frozen=True)
class Sound:
    """An inserted sound."""

    label: str
    start_ms: float
    end_ms: float
    snr_db: float


@dataclass(frozen=True)
class Scored:
    """Windows of the archive with the probability of each label."""

    paths: list[str]
    """Relative to the archive's folder."""
    spans: np.ndarray
    """(n, 2) start and end in ms."""
    labels: list[str]
    """K labels."""
    probabilities: np.ndarray
    """(n, K)."""
    thresholds: np.ndarray
    """(K,)."""


def read_sounds(archive: Path) -> dict[str, list[Sound]]:
    """The inserted sounds by recording."""
    sounds: dict[str, list[Sound]] = defaultdict(list)
    with (archive / "inserted.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            times = (float(row[name]) for name in ("start_ms", "end_ms", "snr_db"))
            sounds[row["path"]].append(Sound(row["label"], *times))
    return sounds


def recordings(archive: Path, part: str) -> Iterator[tuple[str, Path]]:
    """Name and file of the recordings of a part."""
    for path in sorted((archive / part).glob("*.flac")):
        yield path.relative_to(archive).as_posix(), path


def label_of(span: Span, sounds: list[Sound]) -> str | None:
    """The label of a window; None if it shares less than half with a sound."""
    for sound in sounds:
        shared = min(span[1], sound.end_ms) - max(span[0], sound.start_ms)
        if shared > 0:
            shorter = min(span[1] - span[0], sound.end_ms - sound.start_ms)
            return sound.label if shared >= shorter / 2 else None
    return BACKGROUND


def labelled_windows(archive: Path, part: str, windows: Windows) -> list[tuple[str, Span, str | None]]:
    """Recording, times and label of all windows of a part."""
    sounds = read_sounds(archive)
    rows = []
    for name, path in recordings(archive, part):
        samples = soundfile.info(path).frames
        for bounds in windows.bounds(samples):
            span = (1000 * bounds[0] / SAMPLE_RATE, 1000 * bounds[1] / SAMPLE_RATE)
            rows.append((name, span, label_of(span, sounds[name])))
    return rows


def chosen_for_training(labels: list[str | None]) -> np.ndarray:
    """Indices of the windows of train that are used: all with a sound, and some of the others."""
    of_sounds = [index for index, label in enumerate(labels) if label not in (None, BACKGROUND)]
    others = [index for index, label in enumerate(labels) if label == BACKGROUND]
    drawn = np.random.default_rng(0).permutation(others)[:TRAIN_BACKGROUNDS]
    return np.sort(np.concatenate([of_sounds, drawn]).astype(int))


def write_labels(archive: Path, windows: Windows) -> None:
    """Write ARCHIVE/labels.csv: the windows of train and valid with their labels."""
    with (archive / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start_ms", "end_ms", "label", "split"])
        for part in ("train", "valid"):
            rows = labelled_windows(archive, part, windows)
            kept = chosen_for_training([row[2] for row in rows]) if part == "train" else range(len(rows))
            for name, span, label in (rows[index] for index in kept):
                if label is not None:
                    writer.writerow([name, *span, label, part])


def score(archive: Path, scored: Scored) -> str:
    """Average precision, and recall and precision at the thresholds, as a table in Markdown."""
    sounds = read_sounds(archive)
    spans = [(float(start), float(end)) for start, end in scored.spans]
    truth = [label_of(span, sounds[path]) for path, span in zip(scored.paths, spans, strict=True)]
    kept = np.array([label is not None for label in truth])
    lines = ["| class | average precision | threshold | finds | precision | recall |", "|---|---|---|---|---|---|"]
    totals = np.zeros(4)
    precisions = []
    by_level: dict[tuple[int, int], list[bool]] = defaultdict(list)
    for column, label in enumerate(scored.labels):
        if label == BACKGROUND:
            continue
        probability, threshold = scored.probabilities[:, column], scored.thresholds[column]
        is_label = np.array([each == label for each in truth])
        precisions.append(average_precision_score(is_label[kept], probability[kept]))
        finds = merged(scored.paths, spans, probability >= threshold)
        right, found = compare(finds, {path: of_label(each, label) for path, each in sounds.items()})
        totals += (sum(right), len(right), sum(each for _, each in found), len(found))
        for sound, each in found:
            by_level[next(level for level in LEVELS if sound.snr_db <= level[1])].append(each)
        recall = f"{percent(sum(each for _, each in found), len(found))} of {len(found)}"
        cells = (f"{100 * precisions[-1]:.1f}", f"{threshold:.2f}", f"{len(right)}", percent(sum(right), len(right)))
        lines.append(f"| {label} | {' | '.join(cells)} | {recall} |")
    mean = f"{100 * np.mean(precisions):.1f}"
    precision, recall = percent(totals[0], totals[1]), f"{percent(totals[2], totals[3])} of {totals[3]:.0f}"
    lines.append(f"| **all** | **{mean}** | | {totals[1]:.0f} | **{precision}** | **{recall}** |")
    levels = (
        f"{low} to {high} dB: {percent(sum(by_level[low, high]), len(by_level[low, high]))}" for low, high in LEVELS
    )
    return "\n".join([*lines, "", f"Recall by signal-to-noise ratio: {', '.join(levels)}."])


def of_label(sounds: list[Sound], label: str) -> list[Sound]:
    """The sounds of a class."""
    return [sound for sound in sounds if sound.label == label]


def percent(part: float, whole: float) -> str:
    """Per cent, or a dash for nothing of nothing."""
    return f"{100 * part / whole:.1f}" if whole else "-"


def merged(paths: list[str], spans: list[Span], present: np.ndarray) -> dict[str, list[Span]]:
    """Join windows that are present and touch or overlap, by recording."""
    finds: dict[str, list[Span]] = defaultdict(list)
    chosen = sorted((paths[index], spans[index]) for index in np.flatnonzero(present))
    for path, (start, end) in chosen:
        if finds[path] and start <= finds[path][-1][1]:
            finds[path][-1] = (finds[path][-1][0], max(end, finds[path][-1][1]))
        else:
            finds[path].append((start, end))
    return finds


def compare(
    finds: Mapping[str, list[Span]], sounds: Mapping[str, list[Sound]]
) -> tuple[list[bool], list[tuple[Sound, bool]]]:
    """Whether each find overlaps a sound, and each sound with whether a find overlaps it."""
    right = [
        any(sound.start_ms < end and start < sound.end_ms for sound in sounds.get(path, []))
        for path, each in finds.items()
        for start, end in each
    ]
    found = [
        (sound, any(sound.start_ms < end and start < sound.end_ms for start, end in finds.get(path, [])))
        for path, each in sounds.items()
        if path.startswith("test/")
        for sound in each
    ]
    return right, found


def logmel_vectors(archive: Path, part: str, windows: Windows) -> np.ndarray:
    """Mean and standard deviation over time of the windows' log-mel spectrograms, (n, 256)."""
    fbank, vectors = Fbank(SSAST_FRONTEND), []
    for _, path in recordings(archive, part):
        samples = torch.from_numpy(read_audio(path))
        bounds = list(windows.bounds(len(samples)))
        for first in range(0, len(bounds), 512):
            logmel = fbank(torch.stack([samples[start:end] for start, end in bounds[first : first + 512]]))
            frames = torch.full((len(logmel),), logmel.shape[1])
            vectors.append(pool_time(logmel, frames, "mean_std").numpy())
    return np.concatenate(vectors)


def search_by_logmel(archive: Path, windows: Windows, multi_label: bool) -> Scored:
    """The same loop with log-mel statistics: `maeast fit`'s classifier on the windows of ``labels``, run over test."""
    clips, vectors = [], []
    for part in ("train", "valid"):
        rows = labelled_windows(archive, part, windows)
        labels = [row[2] for row in rows]
        kept = chosen_for_training(labels) if part == "train" else [i for i, each in enumerate(labels) if each]
        vectors.append(logmel_vectors(archive, part, windows)[kept])
        clips += [LabelledClip(rows[i][0], *rows[i][1], (rows[i][2] or "",), part, rows[i][0]) for i in kept]
    nowhere = CheckpointSource("log-mel", "0" * 64)
    examples = Examples(np.concatenate(vectors), clips, [], nowhere, Readout(), windows)
    classifier = train(examples, "log-mel", multi_label=multi_label).classifier
    rows = labelled_windows(archive, "test", windows)
    start = time.process_time()
    probabilities = classifier.probabilities(logmel_vectors(archive, "test", windows))
    hours = len(list(recordings(archive, "test"))) / 2
    print(f"log-mel: {(time.process_time() - start) / hours:.0f} s of processor time per hour of audio")
    spans = np.array([row[1] for row in rows])
    return Scored([row[0] for row in rows], spans, list(classifier.labels), probabilities, classifier.thresholds)


def read_found(model: Path, found: Path) -> Scored:
    """What `maeast predict --all-scores` wrote."""
    classifier = Classifier.load(model)
    table = pq.read_table(found)
    probabilities = np.stack([table[f"p_{label}"].to_numpy() for label in classifier.labels], axis=1)
    paths = ["/".join(Path(path).parts[-2:]) for path in table["path"].to_pylist()]
    spans = np.stack([table["start_ms"].to_numpy(), table["end_ms"].to_numpy()], axis=1)
    return Scored(paths, spans, list(classifier.labels), probabilities, classifier.thresholds)


def main() -> None:
    """Write the labels, or score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("labels", "score", "logmel"))
    parser.add_argument("archive", type=Path)
    parser.add_argument("files", type=Path, nargs="*", help="for score: the classifier's folder, the predictions")
    parser.add_argument("--window", type=float, default=2.0)
    parser.add_argument("--overlap", type=float, default=1.0)
    parser.add_argument("--multi-label", action="store_true")
    args = parser.parse_args()
    windows = Windows(args.window, args.overlap)
    if args.action == "labels":
        write_labels(args.archive, windows)
    elif args.action == "score":
        print(score(args.archive, read_found(*args.files)))
    else:
        print(score(args.archive, search_by_logmel(args.archive, windows, args.multi_label)))


if __name__ == "__main__":
    main()
