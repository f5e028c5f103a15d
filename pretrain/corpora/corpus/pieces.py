"""Cuts a waveform into clips, fingerprints them to recognize copies, and encodes them as Opus."""

import hashlib
import io
from collections.abc import Iterator

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE

MAX_SECONDS, MIN_SECONDS = 20.0, 0.25
MIN_PEAK, MIN_RMS = 0.003, 3e-4
"""Below one of them, a clip counts as silent."""
BIT_RATE = 32_000
BIT_EXACT = 1 << 23
"""FFmpeg's AV_CODEC_FLAG_BITEXACT, which leaves the encoder's name out of the file."""
WINDOW, BANDS, BAND_BINS, STEPS = 512, 16, 12, 13
STEP_EDGES = (-1.0, 1.0)
"""Differences of the natural logarithm of the amplitude that count as fall or rise."""


def cut(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Cut (S,) samples at 16 kHz into pieces of equal length, at most 20 s; silent and short pieces are left out.

    A piece whose peak is above 1 is scaled to a peak of 1.
    """
    count = max(1, -(-len(samples) // int(MAX_SECONDS * SAMPLE_RATE)))
    length = -(-len(samples) // count)
    for number in range(count):
        piece = samples[number * length : (number + 1) * length]
        if len(piece) < MIN_SECONDS * SAMPLE_RATE:
            continue
        peak = float(np.abs(piece).max())
        if peak >= MIN_PEAK and float(np.sqrt(np.square(piece).mean())) >= MIN_RMS:
            yield piece / np.float32(max(peak, 1.0))


def sound_fingerprint(samples: np.ndarray) -> str:
    """A name for (S,) samples that copies of a sound share, even if encoded again.

    It is a hash of which of 16 frequency bands rise or fall in 12 steps, and of the duration in fifths of a second.
    """
    hop = max(160, (len(samples) - WINDOW) // 48)
    if len(samples) < WINDOW + 4 * hop:
        return hashlib.sha256((samples * 127).astype(np.int8).tobytes()).hexdigest()[:24]
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::hop] * np.hanning(WINDOW)
    spectrum = np.abs(np.fft.rfft(frames, axis=1))[:, 2 : 2 + BANDS * BAND_BINS]
    bands = np.log(spectrum.reshape(len(frames), BANDS, BAND_BINS).sum(2) + 1e-3)
    means = np.stack([section.mean(0) for section in np.array_split(bands, STEPS)])
    steps = np.digitize(np.diff(means, axis=0), STEP_EDGES).astype(np.uint8)
    fifths = np.int64(round(len(samples) / SAMPLE_RATE * 5))
    return hashlib.sha256(steps.tobytes() + fifths.tobytes()).hexdigest()[:24]


def encode_opus(samples: np.ndarray) -> bytes:
    """Encode (S,) float32 samples as Ogg Opus; the same samples and library versions give the same bytes."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, options={"frame_duration": "20"})
        stream.layout = "mono"
        stream.bit_rate = BIT_RATE
        stream.codec_context.flags |= BIT_EXACT
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()
