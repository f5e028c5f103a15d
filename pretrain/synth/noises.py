"""Noise by its spectrum."""

import functools
from dataclasses import dataclass

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.synth.draws import Random, Samples, log_uniform, unit_level

LOWEST_HERTZ = 20.0
"""Below it the power of coloured noise does not rise further."""


@dataclass(frozen=True)
class ColouredNoise:
    """Noise with power f ** slope, in a band or not, whose level may move slowly (wind, waves, crowds)."""

    slope: float
    """-2 is brown, -1 pink, 0 white, 1 blue, 2 violet."""
    centre: float
    """Centre of the band in Hz."""
    octaves: float
    """Width of the band at which it has lost about 4 dB; infinite for no band."""
    depth: float
    """How deep its level moves, 0 to 1."""
    rate: float
    """Rate of these movements in Hz."""

    @classmethod
    def draw(cls, random: Random) -> "ColouredNoise":
        """Half have a band of 1/12 to 4 octaves around 80 to 7500 Hz; half move at 0.3 to 40 Hz."""
        octaves = np.inf if random.random() < 0.5 else log_uniform(random, 1 / 12, 4.0)
        depth = 0.0 if random.random() < 0.5 else random.random()
        centre, rate = log_uniform(random, 80.0, 7500.0), log_uniform(random, 0.3, 40.0)
        return cls(random.uniform(-2.0, 2.0), centre, octaves, depth, rate)

    def render(self, count: int, random: Random) -> Samples:
        """(count,) samples of an event: white noise in the frequency domain, times the wanted spectrum."""
        size = fast_size(count)
        hertz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / size)
        hertz[: 1 + int(LOWEST_HERTZ * size / SAMPLE_RATE)] = LOWEST_HERTZ
        octave = np.log2(hertz / np.float32(self.centre))
        shape = np.float32(self.slope / 2 * np.log(2.0)) * octave  # an exponent, so that one exp serves both
        if np.isfinite(self.octaves):
            shape -= np.square(octave / np.float32(self.octaves / 2)) / 2
        spectrum = random.standard_normal((len(hertz), 2), dtype=np.float32).view(np.complex64)[:, 0]
        spectrum *= np.exp(shape)
        sound = unit_level(np.fft.irfft(spectrum, size)[:count].astype(np.float32, copy=False))
        if self.depth:
            angles = np.arange(count, dtype=np.float32) * np.float32(2 * np.pi * self.rate / SAMPLE_RATE)
            swing = np.sin(angles + np.float32(2 * np.pi * random.random()))
            sound *= 1 - np.float32(self.depth / 2) * (1 + swing)
        return sound


@functools.lru_cache(maxsize=256)
def fast_size(count: int) -> int:
    """The smallest even number from ``count`` on whose prime factors are 2, 3 and 5: a transform of it is quick."""
    best = 2 << max(0, count - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three * (2 << max(0, -(-count // (2 * three)) - 1).bit_length())
            best = min(best, size)
            three *= 3
        five *= 5
    return best
