"""Writes audio files of many formats for tests."""

import struct
from pathlib import Path

import numpy as np
import soundfile

FORMATS = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "m4a", "mkv", "webm")
CODECS = {"m4a": "aac", "mp4": "aac", "mkv": "aac", "webm": "libopus"}
"""Codecs for containers that libsndfile does not write."""


def tone(rate, seconds=0.5, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def sweep(rate, seconds):
    """Return a signal of which no two segments are alike."""
    time = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * time) * time) + noise).astype(np.float32)


def write(path, samples, rate):
    """Write (S,) float32 in the format of the suffix."""
    path = Path(path)
    suffix = path.suffix[1:]
    if suffix in CODECS:
        write_pyav(path, samples, rate, CODECS[suffix])
    elif suffix == "opus":
        soundfile.write(path, samples, rate, format="OGG", subtype="OPUS")
    elif suffix == "ogg":  # by blocks: libsndfile's Vorbis writer overflows its stack on long ones
        with soundfile.SoundFile(path, "w", rate, 1, format="OGG", subtype="VORBIS") as file:
            for first in range(0, len(samples), 16000):
                file.write(samples[first : first + 16000])
    else:
        soundfile.write(path, samples, rate)
    return path


def write_pyav(path, samples, rate, codec, layout="mono", options=None):
    """Write (S,) or (channels, S) float32 by an encoder of FFmpeg, with its options."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options=options)
        frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def wav_header(rate=16000, channels=1, data_bytes=0, bits=16):
    frame = channels * bits // 8
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, (rate * frame) % 2**32, frame, bits)
    return struct.pack("<4sI4s", b"RIFF", 36 + data_bytes, b"WAVE") + fmt + struct.pack("<4sI", b"data", data_bytes)
