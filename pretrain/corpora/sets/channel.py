"""Gives each clip its own simulated channel, so that the recording does not give the language away."""

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.corpora.sets.labelled import sha256_of

TILT_DB, LOW_PASS_HZ, SNR_DB = 4.0, (3400, 7800), (5, 15)


def own_channel(samples: np.ndarray, key: str) -> np.ndarray:
    """Apply a spectral tilt, a low-pass filter and coloured noise, drawn at random and seeded by the clip's key.

    Args:
        samples: (S,) samples at 16 kHz.
        key: a text that differs between clips.

    Returns:
        (S,) float32 samples of another peak.
    """
    random = np.random.default_rng(int(sha256_of(key)[:8], 16))
    count = len(samples)
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(hz, 60) / 1000)
    gain = 10 ** (random.uniform(-TILT_DB, TILT_DB) * octaves / 20)
    gain /= 1 + (hz / random.uniform(*LOW_PASS_HZ)) ** 8
    filtered = np.fft.irfft(np.fft.rfft(samples) * gain, count)
    white = np.fft.rfft(random.standard_normal(count))
    noise = np.fft.irfft(white * 10 ** (random.uniform(-6, 0) * octaves / 20) * (hz > 50), count)
    ratio = np.square(filtered).mean() / (np.square(noise).mean() + 1e-12)
    scaled = noise * np.sqrt(ratio / 10 ** (random.uniform(*SNR_DB) / 10))
    return np.asarray(filtered + scaled, np.float32)
