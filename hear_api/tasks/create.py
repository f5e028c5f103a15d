"""``maeast hear-task``: makes a HEAR task folder from a CSV of labelled clips or events.

HEAR's own preprocessor can no longer be installed.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hear_api.tasks.format import (
    EVENT_METRICS,
    METADATA_NAME,
    SCENE_METRICS,
    TRAIN_VALID_TEST,
    VOCABULARY_NAME,
    check_folder_name,
    check_task,
    task_files,
)
from hear_api.tasks.recordings import check_replaceable, refit
from hear_api.tasks.resample import resample_task
from hear_api.tasks.table import TaskClip, read_clips
from maeast_upstream.arguments import Parser, UsageError, add_column_options, columns_from
from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.audio.writing import write_wav
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.atomic import refuse_to_overwrite, replacing_folder

DEFAULT_METRICS = {
    "multiclass": ("top1_acc", "mAP"),
    "multilabel": ("mAP", "d_prime", "aucroc"),
    "event": ("event_onset_200ms_fms", "segment_1s_er"),
}
"""The metrics of HEAR's own tasks of the same type; the first one chooses among models."""
SECONDS_WORDS = ("longest", "own")


def main(argv: Sequence[str]) -> int:
    """Make a HEAR task from labelled clips (path,label,split) or events (+ start_ms,end_ms)."""
    args = build_parser().parse_args(argv)
    refuse_to_overwrite(args.out, args.force)
    check_folder_name(args.out)
    if args.labels.is_dir():
        if args.seconds != "longest" or args.metrics:
            raise UsageError("resampling keeps a task's clip length and metrics: leave --seconds and --metrics out")
        resample_task(args.labels, args.out)
        print(f"wrote {args.out}: {counted(check_task(args.out).clips, 'clip')} at {SAMPLE_RATE} Hz")
        return ExitStatus.DONE
    seconds = parse_seconds(args.seconds)
    clips, task_type = read_clips(args.labels, columns_from(args))
    metrics = args.metrics.split(",") if args.metrics else list(DEFAULT_METRICS[task_type])
    errors = write_task(args.out, clips, task_type, metrics, seconds)
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    task = check_task(args.out)
    length = task.metadata["sample_duration"]
    print(
        f"wrote {args.out}: {task_type}, {counted(task.clips, 'clip')} ({', '.join(task.metadata['splits'])}), "
        f"{'of their own lengths' if length is None else f'{length} s each'}, metrics {', '.join(metrics)}"
    )
    return ExitStatus.PARTIAL if errors else ExitStatus.DONE


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(prog="maeast hear-task", description=main.__doc__)
    parser.add_argument(
        "labels",
        type=Path,
        help="CSV: path,label,split or path,label,start_ms,end_ms,split; or a task folder to resample to 16 kHz",
    )
    add_column_options(parser, "path", "label", "split")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to create, such as TASKS/drums-v1-full")
    parser.add_argument(
        "--seconds",
        default="longest",
        help="length to which every clip is cut or zero-padded: a number; longest (default), that of the longest clip; "
        "own, which leaves the clips as they are",
    )
    parser.add_argument(
        "--metrics",
        help=f"comma-separated; the first one chooses among models: {', '.join((*SCENE_METRICS, *EVENT_METRICS))}",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing task")
    return parser


def parse_seconds(text: str) -> float | str:
    """Parse the value of ``--seconds``: a number, or one of SECONDS_WORDS."""
    if text in SECONDS_WORDS:
        return text
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 / SAMPLE_RATE <= seconds < float("inf"):
        raise UsageError(f"--seconds must be a number above 0, {' or '.join(SECONDS_WORDS)}; got {text!r}")
    return seconds


def write_task(
    folder: Path, clips: Sequence[TaskClip], task_type: str, metrics: Sequence[str], seconds: float | str
) -> list[AudioError]:
    """Write a task folder, whole or not at all.

    Args:
        folder: the folder to create; its name up to the first hyphen is the task's name.
        clips: recordings of any format and length.
        task_type: multiclass, multilabel or event.
        metrics: metrics of heareval.
        seconds: length to which every clip is cut or padded at its end; "longest" for the longest clip's length; "own"
            to leave the clips as they are.

    Returns:
        The errors of the recordings that could not be read, and are left out.

    Raises:
        ValueError: No recording of a split can be read; an event begins after its recording; a metric is unknown; or
            the folder exists, and is no task or holds one of the recordings.
    """
    check_replaceable(folder, task_files(folder), (clip.path for clip in clips), "hear-task")
    known = EVENT_METRICS if task_type == "event" else SCENE_METRICS
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"metrics of {task_type} tasks are {', '.join(known)}; got {unknown[0]!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as part:
        lengths, errors = write_recordings(part, clips)
        kept = [clip for clip in clips if clip.relative_path in lengths]
        if lost := sorted({clip.split for clip in clips} - {clip.split for clip in kept}):
            first = next(errors[clip.relative_path] for clip in clips if clip.split == lost[0])
            raise ValueError(f"no recording of {lost[0]} can be read; first error: {first}")
        samples = None if isinstance(seconds, str) else round(seconds * SAMPLE_RATE)
        if seconds == "longest":
            samples = max(lengths.values())
        if samples is not None:
            for name, length in lengths.items():
                if length != samples:
                    refit(part / name, samples)
        write_lists(part, kept, task_type, samples)
        write_metadata(part, folder.name, kept, task_type, metrics, samples)
        check_task(part)
    return list(errors.values())


def write_recordings(folder: Path, clips: Sequence[TaskClip]) -> tuple[dict[str, int], dict[str, AudioError]]:
    """Write the recordings as 16 kHz mono WAV files.

    Returns:
        The lengths in samples of those that were written, and the errors of the others, by relative path.
    """
    lengths: dict[str, int] = {}
    errors: dict[str, AudioError] = {}
    for clip in progress_bar(clips, unit="clip", leave=False):
        try:
            samples = read_audio(clip.path)
        except AudioError as error:
            errors[clip.relative_path] = error
            continue
        end = 1000 * len(samples) / SAMPLE_RATE
        for row, event in zip(clip.rows, clip.events, strict=True):
            if event["start"] >= end:
                raise ValueError(
                    f"row {row}: an event begins at {event['start']:g} ms, but {clip.path} ends at {end:g} ms"
                )
        (folder / clip.relative_path).parent.mkdir(parents=True, exist_ok=True)
        write_wav(folder / clip.relative_path, samples)
        lengths[clip.relative_path] = len(samples)
    return lengths, errors


def write_lists(folder: Path, clips: Sequence[TaskClip], task_type: str, samples: int | None) -> None:
    """Write SPLIT.json of each split, and the vocabulary.

    Args:
        folder: the task's folder.
        clips: the task's recordings.
        task_type: multiclass, multilabel or event.
        samples: length of every clip, after which events are cut; None if clips keep their lengths.
    """
    end = float("inf") if samples is None else 1000 * samples / SAMPLE_RATE
    for split in dict.fromkeys(clip.split for clip in clips):
        content = {clip.name: list(cut(clip.target(task_type), end)) for clip in clips if clip.split == split}
        (folder / f"{split}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    labels = sorted({label for clip in clips for label in clip.labels})
    with (folder / VOCABULARY_NAME).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("idx", "label"), *enumerate(labels)])


def cut(target: list[Any], end: float) -> Iterator[Any]:
    """Yield the events that begin before ``end`` ms, cut there, or the labels unchanged."""
    for entry in target:
        if isinstance(entry, str):
            yield entry
        elif entry["start"] < end:
            yield {**entry, "end": min(entry["end"], end)}


def write_metadata(
    folder: Path, name: str, clips: Sequence[TaskClip], task_type: str, metrics: Sequence[str], samples: int | None
) -> None:
    """Write task_metadata.json.

    Args:
        folder: the task's folder.
        name: the task's name, a hyphen and its version.
        clips: the task's recordings.
        task_type: multiclass, multilabel or event.
        metrics: metrics of heareval.
        samples: length of every clip; None if clips keep their lengths.
    """
    splits = sorted({clip.split for clip in clips}, key=lambda split: (split == "test", split == "valid", split))
    folds = set(splits).isdisjoint(TRAIN_VALID_TEST)
    task, _, version = name.partition("-")
    metadata = {
        "task_name": task,
        "version": version,
        "embedding_type": "event" if task_type == "event" else "scene",
        "prediction_type": "multilabel" if task_type == "event" else task_type,
        "split_mode": "presplit_kfold" if folds else "trainvaltest",
        "splits": splits,
        "sample_duration": None if samples is None else samples / SAMPLE_RATE,
        "evaluation": list(metrics),
        **({"nfolds": len(splits)} if folds else {}),
    }
    (folder / METADATA_NAME).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
