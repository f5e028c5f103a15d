"""Checks a task folder of heareval: for what it must hold, and for what would stop the kit or change its scores."""

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.checks import quote
from maeast_upstream.storage.text import read_text

METADATA_NAME, VOCABULARY_NAME = "task_metadata.json", "labelvocabulary.csv"
SCORES_NAME = "test.predicted-scores.json"
"""The file of scores that the kit writes into the folder of a task's embeddings."""
SCENE_METRICS = ("top1_acc", "pitch_acc", "chroma_acc", "mAP", "d_prime", "aucroc")
EVENT_METRICS = ("event_onset_200ms_fms", "event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms", "segment_1s_er")
TRAIN_VALID_TEST = ("train", "valid", "test")
FOLD_MODES = ("new_split_kfold", "presplit_kfold")
MAX_LABELS_BYTES = 1 << 28
"""Largest list of a task's labels or events: those of all tasks of HEAR are below 100 MB."""
MIN_FOLDS = 3
"""The kit uses one fold for test, one for valid and the others for train."""
NAN_WORDS = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "n/a", "NA", "NULL", "null", "None", "NaN", "nan", "-NaN"),
        *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    )
)
"""Texts that pandas.read_csv, with which the kit reads labels, turns into missing values."""
CHANGED_WORDS = frozenset({"true", "false", "none"})
"""Words in lower case: pandas reads two of them as booleans, and dcase_util, which scores events, one as no label."""


class TaskError(ValueError):
    """A task folder that the kit cannot run; the message names the file."""


@dataclass(frozen=True)
class HearTask:
    """A task folder that `check_task` accepted."""

    folder: Path
    metadata: Mapping[str, Any]
    clips: int
    digest: str
    """Hash of the metadata, labels and lists, and of the names, sizes and modification times of the recordings."""

    @property
    def name(self) -> str:
        """Name of the folder, such as esc50-v2.0.0-full."""
        return self.folder.name

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics; the first one chooses among models."""
        return list(self.metadata["evaluation"])


def find_tasks(folder: Path) -> tuple[list[HearTask], list[TaskError]]:
    """The tasks in a folder, and the errors of its other entries.

    Raises:
        ValueError: The folder is missing or empty.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that holds HEAR tasks")
    if not (entries := sorted(folder.iterdir())):
        raise ValueError(f"{folder}: empty folder; expected one that holds HEAR tasks")
    tasks: list[HearTask] = []
    errors: list[TaskError] = []
    for entry in entries:
        try:
            tasks.append(check_task(entry))
        except TaskError as error:
            errors.append(error)
    return tasks, errors


def check_task(folder: Path) -> HearTask:
    """Check a task folder and the headers of its recordings.

    Raises:
        TaskError: The first error that would stop the kit or change its scores.
    """
    if not folder.is_dir():
        raise TaskError(f"{folder}: a file; a folder of tasks may hold task folders only")
    check_folder_name(folder)
    metadata = read_json(folder / METADATA_NAME)
    check_metadata(folder / METADATA_NAME, metadata)
    labels = read_vocabulary(folder / VOCABULARY_NAME)
    digest = hashlib.sha256()
    for name in (METADATA_NAME, VOCABULARY_NAME):
        digest.update((folder / name).read_bytes())
    clips = 0
    seconds = metadata["sample_duration"]
    length = None if seconds is None else round(seconds * SAMPLE_RATE)
    for split in metadata["splits"]:
        path = folder / f"{split}.json"
        content = read_json(path)
        check_labels(path, content, set(labels), metadata)
        digest.update(path.read_bytes())
        clips += len(content)
        for name in content:
            wav = folder / str(SAMPLE_RATE) / split / name
            samples = check_wav(wav)
            if length not in (None, samples):
                raise TaskError(
                    f"{wav}: {samples} samples; expected {length}, the sample_duration of {seconds:g} s in "
                    f"{METADATA_NAME}; it must be null if clips differ in length"
                )
            stat = wav.stat()
            digest.update(f"{split}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return HearTask(folder, metadata, clips, digest.hexdigest())


def check_folder_name(folder: Path) -> None:
    """Raise TaskError for a task folder named "all", which means every task to the kit."""
    if folder.name == "all":
        raise TaskError(f"{folder}: to heareval this name means every task; give the folder another one")


def task_files(folder: Path) -> set[str]:
    """Relative paths of the files of a task; an empty set for a folder that is no task."""
    try:
        lists = {split: read_json(folder / f"{split}.json") for split in read_json(folder / METADATA_NAME)["splits"]}
    except (TaskError, KeyError, TypeError):
        return set()
    wavs = {f"{SAMPLE_RATE}/{split}/{name}" for split, names in lists.items() for name in names}
    return {METADATA_NAME, VOCABULARY_NAME, *(f"{split}.json" for split in lists), *wavs}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; TaskError unless it holds an object that is not empty."""
    try:
        content = json.loads(read_text(path, MAX_LABELS_BYTES))
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise TaskError(f"{path}: expected a JSON object that is not empty, got {quote(content)}")
    return content


def check_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise TaskError for a missing value in task_metadata.json, or one that the kit does not know."""
    event = metadata.get("embedding_type") == "event"
    choices = {
        "embedding_type": ("scene", "event"),
        "prediction_type": ("multilabel",) if event else ("multiclass", "multilabel"),
        "split_mode": ("trainvaltest", *FOLD_MODES),
    }
    for key, allowed in choices.items():
        if metadata.get(key) not in allowed:
            raise TaskError(f"{path}: {key} must be {' or '.join(allowed)}, got {metadata.get(key)!r}")
    if not isinstance(metadata.get("task_name"), str):
        raise TaskError(f"{path}: task_name must be a string, got {metadata.get('task_name')!r}")
    seconds = metadata.get("sample_duration", "nothing")
    if seconds is not None and not (is_number(seconds) and seconds > 0):
        raise TaskError(f"{path}: sample_duration must be seconds or null, got {seconds!r}")
    check_splits(path, metadata)
    metrics, known = metadata.get("evaluation"), EVENT_METRICS if event else SCENE_METRICS
    if not isinstance(metrics, list) or not metrics or not all(metric in known for metric in metrics):
        raise TaskError(f"{path}: evaluation must be a list of some of {', '.join(known)}, got {metrics!r}")
    parameters = metadata.get("evaluation_params", {})
    for key in ("task_specific_param_grid", "event_postprocessing_grid") if isinstance(parameters, dict) else ():
        grid = parameters.get(key, {})
        if not isinstance(grid, dict) or not all(isinstance(value, list) and value for value in grid.values()):
            raise TaskError(f"{path}: {key} must give a list for each name, got {quote(grid)}")


def check_splits(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise TaskError if the names of the splits do not fit the split mode."""
    splits = metadata.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, str) and is_file_name(split) for split in splits):
        raise TaskError(f"{path}: splits must be a list of names, got {splits!r}")
    if metadata["split_mode"] == "trainvaltest":
        if sorted(splits) != sorted(TRAIN_VALID_TEST):
            raise TaskError(f"{path}: splits must be {', '.join(TRAIN_VALID_TEST)} with trainvaltest, got {splits}")
    elif len(set(splits)) < MIN_FOLDS or len(set(splits)) < len(splits):
        raise TaskError(f"{path}: splits must be at least {MIN_FOLDS} different folds, got {splits}")


def read_vocabulary(path: Path) -> list[str]:
    """The labels of a labelvocabulary.csv in order; TaskError if the kit would read others."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise TaskError(f"{path}: not a UTF-8 CSV file ({error})") from error
    if not rows or rows[0] != ["idx", "label"] or len(rows) == 1:
        raise TaskError(f"{path}: expected a header idx,label and rows, got {rows[:1]}")
    for number, row in enumerate(rows[1:]):
        if len(row) != 2 or row[0] != str(number):
            raise TaskError(f"{path}: expected {number},LABEL in row {number + 1}, got {','.join(row)}")
    labels = [label for _, label in rows[1:]]
    if len(set(labels)) < len(labels):
        raise TaskError(f"{path}: it lists a label twice")
    check_label_texts(path, labels)
    return labels


def check_label_texts(path: Path, labels: Iterable[str]) -> None:
    """Raise TaskError for a label that the kit's pandas.read_csv or dcase_util would change.

    Args:
        path: the file that holds the labels, for the message.
        labels: the labels.
    """
    for label in labels:
        if would_change(label):
            raise TaskError(
                f"{path}: label {label!r} would be changed by the kit, which reads labels as pandas does "
                '("01" becomes 1, "NA" a missing value); use one that begins with a letter'
            )


def would_change(label: str) -> bool:
    """Whether the kit may change a label, whatever the other labels are.

    Whole numbers in their shortest form are safe; NSynth's pitches are such labels.
    """
    if not label.strip() or label in NAN_WORDS or label.strip().lower() in CHANGED_WORDS:
        return True
    try:
        float(label)
    except ValueError:
        return False
    digits = label.removeprefix("-")
    return not (digits.isascii() and digits.isdigit() and len(digits) <= 18 and str(int(label)) == label)


def check_labels(path: Path, content: Mapping[str, Any], labels: set[str], metadata: Mapping[str, Any]) -> None:
    """Raise TaskError for a clip whose entry in SPLIT.json the kit could not use."""
    multiclass = metadata["prediction_type"] == "multiclass"
    event = metadata["embedding_type"] == "event"
    for clip, entries in content.items():
        if not is_file_name(clip):  # such a name would lead the kit to another folder
            raise TaskError(f"{path}: {clip!r} is not a plain file name")
        if not isinstance(entries, list) or (multiclass and len(entries) != 1):
            raise TaskError(f"{path}: {clip}: expected a list {'of one label' if multiclass else ''}, got {entries!r}")
        for entry in entries:
            label = check_event(path, clip, entry) if event else entry
            if str(label) not in labels:  # the kit turns numbers into text
                raise TaskError(f"{path}: {clip}: label {label!r} is not in {VOCABULARY_NAME}")


def check_event(path: Path, clip: str, event: Any) -> Any:
    """The label of an event; TaskError unless its start and end are numbers in order."""
    times: list[Any] = [event.get("start"), event.get("end")] if isinstance(event, dict) else [None]
    if not all(map(is_number, times)) or not 0 <= times[0] <= times[1]:
        raise TaskError(f"{path}: {clip}: expected a label and 0 <= start <= end in ms, got {quote(event)}")
    return event.get("label")


def check_wav(path: Path) -> int:
    """The number of samples of a recording; TaskError for another rate, several channels or NaN samples."""
    import numpy as np
    import soundfile

    if not path.is_file():
        rates = sorted(entry.name for entry in path.parents[2].iterdir() if entry.name.isdigit())
        hint = f"; the task has recordings at {' and '.join(rates)} Hz only: resample them with maeast hear-task"
        raise TaskError(f"{path}: no such recording{hint if rates and str(SAMPLE_RATE) not in rates else ''}")
    try:
        info = soundfile.info(os.fsencode(path))
        if info.samplerate != SAMPLE_RATE or info.channels != 1:
            raise TaskError(
                f"{path}: {info.samplerate} Hz, {info.channels} channel(s); expected {SAMPLE_RATE} Hz, 1 channel"
            )
        if info.subtype in ("FLOAT", "DOUBLE") and not np.isfinite(soundfile.read(os.fsencode(path))[0]).all():
            raise TaskError(f"{path}: NaN or infinite samples")
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise TaskError(f"{path}: not audio that can be read ({error})") from error
    if not info.frames:
        raise TaskError(f"{path}: no samples")
    return int(info.frames)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; a boolean is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file in a folder, without a path to another one."""
    return bool(name) and Path(name).name == name != ".." and "\0" not in name
