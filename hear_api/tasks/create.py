"""``maeast hear-task``: a HEAR task folder from a CSV of labelled clips or events.

HEAR's own preprocessor no longer installs.
"""

import csv
import hashlib
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hear_api.tasks.format import (
    EVENT_METRICS,
    METADATA_NAME,
    MIN_FOLDS,
    SCENE_METRICS,
    TRAIN_VALID_TEST,
    VOCABULARY_NAME,
    check_name,
    check_task,
    is_file_name,
    made_files,
    refuse_corrupted,
)
from hear_api.tasks.recordings import refit, refuse_to_lose, write_wav
from hear_api.tasks.resample import resample_task
from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.data.labels import read_header, read_table
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.storage.atomic import refuse_to_overwrite

VALID_SHARE = 4
"""Without valid clips every fourth train clip becomes one: of 80 % for train and valid that makes HEAR's 60/20/20."""
DEFAULT_METRICS = {
    "multiclass": ("top1_acc", "mAP"),
    "multilabel": ("mAP", "d_prime", "aucroc"),
    "event": ("event_onset_200ms_fms", "segment_1s_er"),
}
"""As HEAR's own tasks of the same kind have them; the first one chooses among models."""
SECONDS_WORDS = ("longest", "own")
LONGEST_NAME = 200
"""Bytes: file systems take 255, and the kit's names for a clip's files are up to 20 longer."""


@dataclass
class Clip:
    """One recording of a table."""

    path: Path
    name: str
    """Of its file in the task, unique over all splits."""
    split: str
    labels: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """label, start, end in ms."""
    rows: list[int] = field(default_factory=list)
    """Of the table, one for each event."""

    @property
    def place(self) -> str:
        """Of its file in the task's folder."""
        return f"{SAMPLE_RATE}/{self.split}/{self.name}"

    def target(self, kind: str) -> list[Any]:
        """What stands in SPLIT.json."""
        return self.events if kind == "event" else self.labels


def main(argv: Sequence[str]) -> int:
    """Make a HEAR task from labelled clips (path,label,split) or events (+ start_ms,end_ms)."""
    args = build_parser().parse_args(argv)
    refuse_to_overwrite(args.out, args.force)
    check_name(args.out)
    if args.labels.is_dir():
        if args.seconds != "longest" or args.metrics:
            raise UsageError("a task that is only resampled keeps its length and metrics: no --seconds, no --metrics")
        resample_task(args.labels, args.out)
        print(f"{args.out}: {check_task(args.out).clips} clips at {SAMPLE_RATE} Hz")
        return 0
    seconds = parse_seconds(args.seconds)
    clips, kind = read_clips(args.labels)
    metrics = args.metrics.split(",") if args.metrics else list(DEFAULT_METRICS[kind])
    errors = write_task(args.out, clips, kind, metrics, seconds)
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    task = check_task(args.out)
    print(
        f"{args.out}: {kind}, {task.clips} clips ({', '.join(task.metadata['splits'])}), "
        f"{task.metadata['sample_duration'] or 'their own'} s each, metrics {', '.join(metrics)}"
    )
    return 3 if errors else 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="maeast hear-task", description=main.__doc__)
    parser.add_argument(
        "labels",
        type=Path,
        help="CSV: path,label,split, or path,label,start_ms,end_ms,split; or a task at another rate",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder to make, such as TASKS/drums-v1-full",
    )
    parser.add_argument(
        "--seconds",
        default="longest",
        help="length of every clip, cut or padded with zeros: a number, longest (default), or own: as they are",
    )
    parser.add_argument(
        "--metrics",
        help=f"the first one chooses: {', '.join((*SCENE_METRICS, *EVENT_METRICS))}",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing task")
    return parser


def parse_seconds(text: str) -> float | str:
    """A length, or one of the words."""
    if text in SECONDS_WORDS:
        return text
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 / SAMPLE_RATE <= seconds < float("inf"):
        raise UsageError(f"--seconds must be a number above 0, {' or '.join(SECONDS_WORDS)}; got {text!r}")
    return seconds


def read_clips(table: Path) -> tuple[list[Clip], str]:
    """The clips of a table, and multiclass, multilabel or event.

    Several rows with one path, however it is spelt, are one clip: with several labels, or with several events. A row
    without a label is a clip of no class, or without events.

    Raises:
        ValueError: a clip in two splits, splits that do not go together, labels that the kit would change.
    """
    event = {"start_ms", "end_ms"} <= set(read_header(table))
    columns = ["path", "split", "label", *(["start_ms", "end_ms"] if event else [])]
    clips: dict[Path, Clip] = {}
    for number, (path, split, label, *times) in enumerate(read_table(table, columns, columns[2:]), start=1):
        place = table.parent / path
        clip = clips.setdefault(place.resolve(), Clip(place, path, split))
        if clip.split != split:
            raise ValueError(f"{table}: row {number} has {path} in {split}, an earlier one in {clip.split}")
        if label in clip.labels and not event:
            raise ValueError(f"{table}: row {number} gives {path} the label {label!r} a second time")
        if label:
            clip.labels.append(label)
        if label and event:
            clip.events.append({"label": label, **read_times(table, number, times)})
            clip.rows.append(number)
    labels = sorted({label for clip in clips.values() for label in clip.labels})
    if not labels:
        raise ValueError(f"{table}: no row has a label")
    refuse_corrupted(table, labels)
    found = list(clips.values())
    for clip, name in zip(found, unique_names([clip.name for clip in found]), strict=True):
        clip.name = name
    check_splits(table, found)
    if event:
        return found, "event"
    return found, "multiclass" if all(len(clip.labels) == 1 for clip in found) else "multilabel"


def read_times(table: Path, number: int, times: Sequence[str]) -> dict[str, float]:
    """An event's start and end in ms."""
    try:
        start, end = map(float, times)
    except ValueError:
        start, end = 1.0, 0.0
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"{table}: row {number}: expected 0 <= start_ms < end_ms, got {' and '.join(times)!r}")
    return {"start": start, "end": end}


def unique_names(paths: Sequence[str]) -> list[str]:
    """Flat wav names: the parts of each path joined, with a digest where two would be alike or one is cut."""
    flat = [re.sub(r"[^\w.+-]", "_", "-".join(Path(path).with_suffix("").parts).lstrip("/-.")) for path in paths]
    alike = defaultdict(list)
    for name in flat:
        alike[name.lower()].append(name)  # some file systems do not tell the cases apart
    names = []
    for name, path in zip(flat, paths, strict=True):
        short = name.encode()[:LONGEST_NAME].decode(errors="ignore")
        digest = f"-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        names.append(f"{short}{digest if short != name or len(alike[name.lower()]) > 1 else ''}.wav")
    return names


def check_splits(table: Path, clips: list[Clip]) -> None:
    """train, valid, test, or folds; where there is no valid some of train becomes it."""
    splits = {clip.split for clip in clips}
    if strange := sorted(split for split in splits if not is_file_name(split)):
        raise ValueError(f"{table}: split {strange[0]!r} cannot be the name of a folder")
    if splits & set(TRAIN_VALID_TEST):
        if unknown := splits - set(TRAIN_VALID_TEST):
            raise ValueError(f"{table}: split {min(unknown)!r} beside {', '.join(TRAIN_VALID_TEST)}")
        if missing := {"train", "test"} - splits:
            raise ValueError(f"{table}: no clip has the split {min(missing)!r}")
        if "valid" not in splits:
            take_valid(clips)
    elif len(splits) < MIN_FOLDS:
        raise ValueError(
            f"{table}: expected the splits train, valid and test, or at least {MIN_FOLDS} folds, got {sorted(splits)}"
        )


def take_valid(clips: list[Clip]) -> None:
    """Every fourth train clip of each set of labels becomes valid, in the order of their names' digests."""
    groups = defaultdict(list)
    for clip in clips:
        if clip.split == "train":
            groups[tuple(sorted(set(clip.labels)))].append(clip)
    together = [clip for group in groups.values() if len(group) < VALID_SHARE for clip in group]
    for group in [
        *(group for group in groups.values() if len(group) >= VALID_SHARE),
        together,
    ]:
        group.sort(key=lambda clip: hashlib.sha256(clip.name.encode()).digest())
        for clip in group[VALID_SHARE - 1 :: VALID_SHARE]:
            clip.split = "valid"


def write_task(
    folder: Path,
    clips: Sequence[Clip],
    kind: str,
    metrics: Sequence[str],
    seconds: float | str,
) -> list[AudioError]:
    """Write a task folder, whole or not at all.

    Args:
        folder: to make; its name up to the first hyphen is the task's.
        clips: recordings of any format and length.
        kind: multiclass, multilabel or event.
        metrics: of heareval.
        seconds: what every clip is cut or padded to at its end; "longest" for the longest clip's; "own" for none.

    Returns:
        The recordings that could not be read, and are left out.

    Raises:
        ValueError: a split without a recording that can be read; an event that begins after its recording; unknown
            metrics; a folder that exists, and is no task or holds a recording that is asked for.
    """
    refuse_to_lose(folder, made_files(folder), (clip.path for clip in clips), "hear-task")
    known = EVENT_METRICS if kind == "event" else SCENE_METRICS
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"metrics of {kind} tasks are {', '.join(known)}; got {unknown[0]!r}")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        samples = None if isinstance(seconds, str) else round(seconds * SAMPLE_RATE)
        written, errors = write_recordings(part, clips)
        kept = [clip for clip in clips if clip.place in written]
        if lost := sorted({clip.split for clip in clips} - {clip.split for clip in kept}):
            first = next(errors[clip.place] for clip in clips if clip.split == lost[0])
            raise ValueError(f"no recording of {lost[0]} can be read; the first: {first}")
        if seconds == "longest":
            samples = max(written.values())
        if samples is not None:
            for name, length in written.items():
                if length != samples:
                    refit(part / name, samples)
        write_lists(part, kept, kind, samples)
        write_metadata(part, folder.name, kept, kind, metrics, samples)
        check_task(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return list(errors.values())


def write_recordings(folder: Path, clips: Sequence[Clip]) -> tuple[dict[str, int], dict[str, AudioError]]:
    """Write 16 kHz mono WAVs; samples, and why one could not be read, by relative name."""
    written: dict[str, int] = {}
    errors: dict[str, AudioError] = {}
    for clip in tqdm(clips, unit="clip", leave=False, disable=None):
        try:
            samples = read_audio(clip.path)
        except AudioError as error:
            errors[clip.place] = error
            continue
        end = 1000 * len(samples) / SAMPLE_RATE
        for row, event in zip(clip.rows, clip.events, strict=True):
            if event["start"] >= end:
                raise ValueError(
                    f"row {row}: an event begins at {event['start']:g} ms, but {clip.path} ends at {end:g} ms"
                )
        (folder / clip.place).parent.mkdir(parents=True, exist_ok=True)
        write_wav(folder / clip.place, samples)
        written[clip.place] = len(samples)
    return written, errors


def write_lists(folder: Path, clips: Sequence[Clip], kind: str, samples: int | None) -> None:
    """SPLIT.json of each split, and the vocabulary; events past the end of a cut clip are cut with it."""
    end = float("inf") if samples is None else 1000 * samples / SAMPLE_RATE
    for split in dict.fromkeys(clip.split for clip in clips):
        content = {clip.name: list(cut(clip.target(kind), end)) for clip in clips if clip.split == split}
        (folder / f"{split}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    labels = sorted({label for clip in clips for label in clip.labels})
    with (folder / VOCABULARY_NAME).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("idx", "label"), *enumerate(labels)])


def cut(target: list[Any], end: float) -> Iterator[Any]:
    """Events that begin before ``end`` ms, ended there; labels as they are."""
    for entry in target:
        if isinstance(entry, str):
            yield entry
        elif entry["start"] < end:
            yield {**entry, "end": min(entry["end"], end)}


def write_metadata(
    folder: Path,
    name: str,
    clips: Sequence[Clip],
    kind: str,
    metrics: Sequence[str],
    samples: int | None,
) -> None:
    """task_metadata.json."""
    splits = sorted(
        {clip.split for clip in clips},
        key=lambda split: (split == "test", split == "valid", split),
    )
    folds = set(splits).isdisjoint(TRAIN_VALID_TEST)
    task, _, version = name.partition("-")
    metadata = {
        "task_name": task,
        "version": version,
        "embedding_type": "event" if kind == "event" else "scene",
        "prediction_type": "multilabel" if kind == "event" else kind,
        "split_mode": "presplit_kfold" if folds else "trainvaltest",
        "splits": splits,
        "sample_duration": None if samples is None else samples / SAMPLE_RATE,
        "evaluation": list(metrics),
        **({"nfolds": len(splits)} if folds else {}),
    }
    (folder / METADATA_NAME).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
