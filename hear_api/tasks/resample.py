"""A HEAR task at another rate -> the same task at 16 kHz: HEAR's own ones can be had at 48 kHz only."""

import shutil
from pathlib import Path

from tqdm import tqdm

from hear_api.tasks.format import (
    METADATA_NAME,
    VOCABULARY_NAME,
    TaskError,
    check_metadata,
    check_task,
    is_file_name,
    made_files,
    read_json,
)
from hear_api.tasks.recordings import fit, refuse_to_lose, write_wav
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.frontend import SAMPLE_RATE


def resample_task(source: Path, folder: Path) -> None:
    """Write ``source`` as ``folder``, whole or not at all; its lists and labels stay as they are.

    Raises:
        TaskError: not a task; a recording that is missing.
        AudioError: a recording that cannot be read: a published task may not lose any.
        ValueError: the folder exists, and is no task, or the source.
    """
    refuse_to_lose(folder, made_files(folder), [source], "hear-task")
    metadata = read_json(source / METADATA_NAME)
    check_metadata(source / METADATA_NAME, metadata)
    rates = sorted(int(entry.name) for entry in source.iterdir() if entry.name.isdigit())
    if not rates:
        raise TaskError(f"{source}: no folder of recordings, which has their rate for a name, such as 48000")
    seconds = metadata["sample_duration"]
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for split in metadata["splits"]:
            (part / str(SAMPLE_RATE) / split).mkdir(parents=True)
            for name in tqdm(
                read_json(source / f"{split}.json"),
                desc=split,
                leave=False,
                disable=None,
            ):
                if not is_file_name(name):
                    raise TaskError(f"{source / split}.json: {name!r} is not a plain file name")
                samples = read_audio(source / str(rates[-1]) / split / name)
                if seconds is not None:
                    samples = fit(samples, round(seconds * SAMPLE_RATE))
                write_wav(part / str(SAMPLE_RATE) / split / name, samples)
        for name in (
            METADATA_NAME,
            VOCABULARY_NAME,
            *(f"{split}.json" for split in metadata["splits"]),
        ):
            if not (source / name).is_file():
                raise TaskError(f"{source / name}: no such file")
            shutil.copy(source / name, part / name)
        check_task(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
