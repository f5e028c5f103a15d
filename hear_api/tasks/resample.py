"""Resamples a HEAR task to 16 kHz: HEAR's own tasks are published at 48 kHz only."""

import shutil
from pathlib import Path

from hear_api.tasks.format import (
    METADATA_NAME,
    VOCABULARY_NAME,
    TaskError,
    check_metadata,
    check_task,
    is_file_name,
    read_json,
    task_files,
)
from hear_api.tasks.recordings import check_replaceable, fit
from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.audio.writing import write_wav
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.atomic import replacing_folder


def resample_task(source: Path, folder: Path) -> None:
    """Write the task ``source`` at 16 kHz as ``folder``, whole or not at all; its lists and labels do not change.

    Raises:
        TaskError: The source is no task, or a recording is missing.
        AudioError: A recording cannot be read; a published task must be complete.
        ValueError: The folder exists, and is no task, or is the source.
    """
    check_replaceable(folder, task_files(folder), [source], "hear-task")
    metadata = read_json(source / METADATA_NAME)
    check_metadata(source / METADATA_NAME, metadata)
    rates = sorted(int(entry.name) for entry in source.iterdir() if entry.name.isdigit())
    if not rates:
        raise TaskError(f"{source}: no folder of recordings named by their sample rate, such as 48000")
    seconds = metadata["sample_duration"]
    length = None if seconds is None else round(seconds * SAMPLE_RATE)
    lists = [f"{split}.json" for split in metadata["splits"]]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as part:
        for split in metadata["splits"]:
            names = list(read_json(source / f"{split}.json"))
            if bad := [name for name in names if not is_file_name(name)]:
                raise TaskError(f"{source / split}.json: {bad[0]!r} is not a plain file name")
            resample_split(source / str(rates[-1]) / split, part / str(SAMPLE_RATE) / split, names, length)
        for name in (METADATA_NAME, VOCABULARY_NAME, *lists):
            if not (source / name).is_file():
                raise TaskError(f"{source / name}: no such file")
            shutil.copy(source / name, part / name)
        check_task(part)


def resample_split(source: Path, folder: Path, names: list[str], length: int | None) -> None:
    """Write the recordings of a split at 16 kHz, cut or padded to ``length`` samples unless that is None."""
    folder.mkdir(parents=True)
    for name in progress_bar(names, desc=source.name, leave=False):
        samples = read_audio(source / name)
        write_wav(folder / name, samples if length is None else fit(samples, length))
