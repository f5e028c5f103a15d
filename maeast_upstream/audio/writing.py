"""Writes samples as a WAV file."""

import os
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write (S,) float32 samples at 16 kHz as 16-bit PCM; samples beyond full scale, which is 1, are clipped."""
    import soundfile

    # as bytes, because soundfile refuses a name that is not UTF-8
    soundfile.write(os.fsencode(path), samples, SAMPLE_RATE, subtype="PCM_16")
