"""Helpers for the WAV files of a task, and for replacing a folder that an earlier command made."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import soundfile


def check_replaceable(folder: Path, made: Collection[str], sources: Iterable[Path], command: str) -> None:
    """Raise ValueError if replacing a folder would delete files that the command did not make, or will read.

    Args:
        folder: the folder to replace; it may not exist.
        made: relative paths of the files that the command made earlier, and may delete.
        sources: files and folders from which the new folder is made.
        command: name of the command, for the message.
    """
    if not folder.exists():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"{folder} is a file or a link, which {command} does not replace; give another name")
    resolved = folder.resolve()
    if used := next((source for source in sources if source.resolve().is_relative_to(resolved)), None):
        raise ValueError(f"{folder} holds {used}, from which it would be made; give another name")
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if others := sorted({path.relative_to(folder).as_posix() for path in files} - set(made)):
        raise ValueError(f"{folder} holds {others[0]}, which {command} did not make; give another name")


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Cut (S,) samples to ``length``, or pad them with zeros at the end."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def refit(path: Path, length: int) -> None:
    """Apply `fit` to a 16-bit WAV file; the samples that stay do not change."""
    samples, rate = soundfile.read(os.fsencode(path), dtype="int16")
    soundfile.write(os.fsencode(path), fit(samples, length), rate, subtype="PCM_16")
