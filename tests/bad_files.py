"""Writes audio files with the faults that occur in practice."""

import io
import os
from pathlib import Path

import numpy as np
import soundfile
from sounds import tone, wav_header

CLIP = Path(__file__).parent / "data" / "audio" / "long_drums.opus"


def write_sparse_wav(path, seconds):
    """Write silence that takes no space on the disk."""
    size = int(seconds * 44100) * 2
    path.write_bytes(wav_header(44100, data_bytes=size))
    os.truncate(path, 44 + size)


def wav_bytes(samples, rate, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


def make_bad_files(folder):
    """Write the files; return the expected reason by name, None for a good file."""
    good, loud = wav_bytes(tone(16000), 16000), tone(16000)
    loud[100] = np.nan
    contents = {
        "truncated.wav": (good[:4000], None),
        "zero.wav": (b"", "empty file"),
        "text.wav": (b"this is not audio " * 40, "not audio"),
        "opus.mp3": (CLIP.read_bytes(), None),
        "wav.m4a": (good, None),
        "text.m4a": (b"this is not audio " * 40, "not audio"),
        "8bit.wav": (wav_bytes(tone(8000), 8000, subtype="PCM_U8"), None),
        "8channels.wav": (
            wav_bytes(np.tile(tone(192000)[:, None], 8), 192000, subtype="PCM_24"),
            None,
        ),
        "nan.wav": (wav_bytes(loud, 16000, subtype="FLOAT"), "NaN or infinite"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.wav").symlink_to(folder / "nowhere.wav")
    os.mkfifo(folder / "pipe.wav")
    (folder / "link.wav").symlink_to(CLIP)
    write_sparse_wav(folder / "long.wav", 60)
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {
        "dangling.wav": "a link to a file that does not exist",
        "pipe.wav": "a pipe or device",
        "link.wav": None,
        "long.wav": None,
    }
