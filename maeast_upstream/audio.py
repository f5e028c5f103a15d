"""One file or stream -> mono float32 at 16 kHz."""

import io
from pathlib import Path

import numpy as np

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".mkv", ".webm", ".aiff", ".aif"})


class AudioError(ValueError):
    """A file that cannot be used, with the reason."""


def read_audio(source: Path | str | io.BytesIO) -> np.ndarray:
    import soundfile
    import soxr
    try:
        x, sr = soundfile.read(source, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(str(error)) from error
    x = x.mean(axis=1)
    return x if sr == 16000 else soxr.resample(x, sr, 16000)
