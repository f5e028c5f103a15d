"""The WAVs of a task."""

from pathlib import Path

import numpy as np
import soundfile

from maeast_upstream.frontend import SAMPLE_RATE


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
