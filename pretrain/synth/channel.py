"""What stands between a source and its recording: a room, a loudspeaker or microphone, a codec, a level."""

from dataclasses import dataclass

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.data.packed import FULL_SCALE
from pretrain.synth.draws import Random, Samples, decibels, log_uniform, unit_level
from pretrain.synth.noises import fast_size

MAX_TAIL_SECONDS = 1.0
"""Longest reverberation that is computed."""


@dataclass(frozen=True)
class Room:
    """A room impulse response: the direct sound, early reflections, and noise that decays exponentially.

    Source: Moorer, "About this reverberation business", Computer Music Journal 3 (1979), 13-28, for the noise.
    """

    response: np.ndarray
    """(tail,) float32; the direct sound is its first sample."""

    @classmethod
    def draw(cls, random: Random) -> "Room | None":
        """None for half of the sounds; decays by 60 dB in 0.08 to 2 s, reverberation 30 dB below to 3 dB above."""
        if random.random() < 0.5:
            return None
        decay, level = log_uniform(random, 0.08, 2.0), decibels(random.uniform(-30.0, 3.0))
        tail = round(min(decay, MAX_TAIL_SECONDS) * SAMPLE_RATE)
        fall = np.exp(np.arange(tail, dtype=np.float32) * np.float32(-np.log(1000.0) / decay / SAMPLE_RATE))
        response = random.standard_normal(tail, dtype=np.float32) * fall
        before = round(random.uniform(0.0, 0.03) * SAMPLE_RATE)
        response[:before] = 0
        for place in random.integers(1, max(2, before + 200), int(random.integers(0, 8))):
            response[min(int(place), tail - 1)] += np.float32(3.0 * random.uniform(-1.0, 1.0))
        response *= np.float32(level / (np.sqrt(np.square(response).sum()) + 1e-9))
        response[0] += 1.0
        return cls(response)


@dataclass(frozen=True)
class Channel:
    """Filters of a recording chain, by their gain at each frequency; without delay."""

    tilt: float
    """dB per octave around 1 kHz."""
    high_pass: float
    """Hz below which it falls by 12 dB per octave."""
    low_pass: float
    """Hz above which it falls by 24 dB per octave."""
    cut: float
    """Hz above which nothing is left, as a codec or a telephone line leaves it."""
    resonances: np.ndarray
    """(n, 3) peaks and dips: centre in Hz, width in octaves, gain in dB."""

    @classmethod
    def draw(cls, random: Random) -> "Channel":
        """Each filter is there in a third to a half of the sounds."""
        tilted, high_passed, low_passed, cut = random.random(4) < (0.5, 0.4, 0.35, 0.25)
        number = int(random.integers(1, 5)) if random.random() < 0.4 else 0
        resonances = [
            (log_uniform(random, 80.0, 7500.0), log_uniform(random, 0.1, 2.0), random.uniform(-18.0, 12.0))
            for _ in range(number)
        ]
        return cls(
            random.normal(0.0, 3.0) if tilted else 0.0,
            log_uniform(random, 30.0, 600.0) if high_passed else 0.0,
            log_uniform(random, 800.0, 7500.0) if low_passed else np.inf,
            log_uniform(random, 2500.0, 7500.0) if cut else np.inf,
            np.array(resonances, np.float32).reshape(number, 3),
        )

    def gains(self, hertz: np.ndarray) -> np.ndarray:
        """(n,) factors at n frequencies in Hz."""
        hertz = hertz.clip(20.0)
        octave = np.log2(hertz / np.float32(1000.0))
        level = np.float32(self.tilt) * octave
        for centre, width, gain in self.resonances:
            level += gain * np.exp(-np.square((octave - np.log2(centre / 1000.0)) / width))
        factor: np.ndarray = np.exp(level.clip(-40.0, 25.0) * np.float32(np.log(10.0) / 20.0))
        if self.high_pass:  # Butterworth responses of order 2 and 4
            factor /= np.sqrt(1.0 + (np.float32(self.high_pass) / hertz) ** 4)
        if np.isfinite(self.low_pass):
            factor /= np.sqrt(1.0 + (hertz / np.float32(self.low_pass)) ** 8)
        if np.isfinite(self.cut):
            factor *= hertz < self.cut
        return factor


@dataclass(frozen=True)
class Recording:
    """Room, distortion, channel and level of a sound, the same for all its crops."""

    room: Room | None
    channel: Channel
    drive: float
    """Gain before the curve of a saturated amplifier; 0 for none."""
    steps: int
    """Quantization steps of the range of the samples, where a sound has few; 0 for those of 16-bit samples."""
    level: float
    """Level in dB relative to full scale."""

    @classmethod
    def draw(cls, random: Random) -> "Recording":
        """An eighth is distorted and a twentieth has 5 to 8 bits; levels of -42 to -10 dB."""
        drive = log_uniform(random, 0.5, 8.0) if random.random() < 0.125 else 0.0
        steps = 2 ** int(random.integers(5, 9)) if random.random() < 0.05 else 0
        return cls(Room.draw(random), Channel.draw(random), drive, steps, random.uniform(-42.0, -10.0))

    def through(self, sound: Samples) -> Samples:
        """(count,) samples of the sources -> the same as they are recorded, within [-1, 1]."""
        count = len(sound)
        if self.drive:
            sound = np.tanh(np.float32(self.drive) * unit_level(sound))
        size = fast_size(count if self.room is None else count + len(self.room.response))
        spectrum = np.fft.rfft(sound, size)
        if self.room is not None:
            spectrum *= np.fft.rfft(self.room.response, size)
        hertz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / size)
        spectrum *= self.channel.gains(hertz)
        recorded = unit_level(np.fft.irfft(spectrum, size)[:count].astype(np.float32, copy=False))
        peak = float(np.abs(recorded).max(initial=0.0))
        recorded *= np.float32(min(decibels(self.level), 1.0 / max(peak, 1e-9)))
        full = np.float32(FULL_SCALE)  # rounded, because recordings have no levels between the steps of 16 bits either
        if self.steps:
            full = np.float32(self.steps / 2 / max(1e-9, float(np.abs(recorded).max(initial=0.0))))
        recorded *= full
        np.rint(recorded, out=recorded)
        recorded /= full
        return recorded
