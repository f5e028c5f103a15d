"""The WAVs of a task."""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import soundfile

from maeast_upstream.frontend import SAMPLE_RATE


def refuse_to_lose(folder: Path, made: Collection[str], sources: Iterable[Path], command: str) -> None:
    """ValueError if to replace a folder would delete more than what a command made there earlier.

    Args:
        folder: need not exist.
        made: the names of the files that may go, relative to it.
        sources: what the new one is made of.
        command: that asks.
    """
    if not folder.exists():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"{folder} is a file or a link, which {command} does not replace; give another name")
    place = folder.resolve()
    if used := next((source for source in sources if source.resolve().is_relative_to(place)), None):
        raise ValueError(f"{folder} holds {used}, of which it would be made; give another name")
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if others := sorted({path.relative_to(folder).as_posix() for path in files} - set(made)):
        raise ValueError(f"{folder} holds {others[0]}, which {command} did not make; give another name")


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """(S,) cut at ``length`` samples, or followed by zeros up to it."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def write_wav(path: Path, samples: np.ndarray) -> None:
    """(S,) float32 at 16 kHz as 16-bit PCM; samples beyond full scale are clipped."""
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")


def refit(path: Path, length: int) -> None:
    """`fit` for a WAV that `write_wav` wrote; not a bit of what stays changes."""
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, fit(samples, length), rate, subtype="PCM_16")
