"""Struck and plucked bodies as sums of damped modes, and clicks."""

from dataclasses import dataclass

import numpy as np
import torch

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.synth.draws import NYQUIST, Random, Samples, chosen, log_uniform, unit_level

BLOCK = 128
"""Samples of a block: a mode is its course inside a block times its course from block to block."""
BODIES = {"string": 0.3, "bar": 0.2, "clamped": 0.1, "membrane": 0.2, "bell": 0.1, "any": 0.1}
MEMBRANE = (1.0, 1.594, 2.136, 2.296, 2.653, 2.918, 3.156, 3.501, 3.600, 3.652, 4.060, 4.154)
"""Modes of an ideal circular membrane. Source: Fletcher and Rossing, The Physics of Musical Instruments, 3.6."""
BELL = (0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0, 5.33, 6.67, 8.0)
"""Partials of a church bell, hum to higher nominals. Source: Fletcher and Rossing, table 21.1, rounded."""


@dataclass(frozen=True)
class DampedModes:
    """Modes that ring and decay. Source: van den Doel and Pai, Presence 7 (1998), 382-395."""

    ratios: np.ndarray
    """(modes,) frequencies, relative to the lowest."""
    levels: np.ndarray
    """(modes,) amplitudes."""
    decay: float
    """Seconds in which the lowest mode falls by 60 dB."""
    damping: float
    """Exponent by which higher modes decay faster."""
    strike: float
    """Level of the noise of the strike."""

    @classmethod
    def draw(cls, random: Random) -> "DampedModes":
        """Strings, free and clamped bars, membranes, bells and arbitrary bodies; decays of 0.03 to 6 s."""
        ratios = mode_ratios(chosen(random, BODIES), random)
        hardness, place = random.uniform(0.0, 2.0), random.uniform(0.05, 0.5)
        shape = np.abs(np.sin(np.pi * place * np.arange(1, len(ratios) + 1))) + 0.05
        levels = ratios**-hardness * shape * random.lognormal(0.0, 0.4, len(ratios))
        strike = 0.0 if random.random() < 0.4 else log_uniform(random, 0.02, 1.0)
        return cls(ratios, levels, log_uniform(random, 0.03, 6.0), random.uniform(0.0, 1.5), strike)

    def render(self, pitch: float, count: int, random: Random) -> Samples:
        """(count,) samples of a strike; the lowest mode has ``pitch`` Hz."""
        heard = np.flatnonzero(self.ratios * pitch < 0.95 * NYQUIST)
        ratios = self.ratios[heard]
        rates = np.log(1000.0) / self.decay * ratios**self.damping  # 60 dB are a factor of 1000
        poles = (-rates + 2j * np.pi * pitch * ratios) / SAMPLE_RATE
        levels = self.levels[heard] * random.lognormal(0.0, 0.15, len(heard))
        sound = sum_of_modes(poles, levels * np.exp(2j * np.pi * random.random(len(heard))), count)
        if self.strike:
            burst = min(count, round(random.uniform(0.002, 0.02) * SAMPLE_RATE))
            noise = random.standard_normal(burst, dtype=np.float32) * np.linspace(1, 0, burst, dtype=np.float32)
            sound[:burst] += np.float32(self.strike * np.abs(levels).sum() / 2) * noise
        return unit_level(sound)


def sum_of_modes(poles: np.ndarray, amplitudes: np.ndarray, count: int) -> Samples:
    """(count,) real part of sum of amplitude * exp(pole * sample), as one product of two small matrices."""
    inside = np.exp(poles[:, None] * np.arange(BLOCK)).astype(np.complex64)
    starts = (amplitudes * np.exp(np.arange(-(-count // BLOCK))[:, None] * BLOCK * poles)).astype(np.complex64)
    left = torch.from_numpy(np.concatenate([starts.real, -starts.imag], axis=1))
    right = torch.from_numpy(np.concatenate([inside.real, inside.imag]))
    sound: Samples = (left @ right).numpy().reshape(-1)[:count]
    return sound


def mode_ratios(body: str, random: Random) -> np.ndarray:
    """(modes,) frequencies of a body's modes, relative to its lowest; a little out of tune.

    A stiff string has k sqrt(1 + B k^2), a free bar (2k + 1)^2, a clamped bar 1, 6.27, 17.55, ... Source: Fletcher and
    Rossing, The Physics of Musical Instruments, 2nd ed., sections 2.18 and 12.1.
    """
    k = np.arange(1, 25)
    stiffness = log_uniform(random, 1e-6, 3e-3)
    match body:
        case "string":
            modes = k * np.sqrt((1 + stiffness * k**2) / (1 + stiffness))
        case "bar":
            modes = (2 * k[:8] + 1.0) ** 2 / 9.0
        case "clamped":
            modes = np.append(1.0, ((2 * k[1:7] - 1) / 1.194) ** 2)
        case "membrane":
            modes = np.array(MEMBRANE)
        case "bell":
            modes = np.array(BELL) / BELL[0]
        case _:
            modes = np.append(1.0, 1.0 + np.sort(random.exponential(3.0, int(random.integers(3, 20)))))
    ratios: np.ndarray = modes * 2.0 ** (random.normal(0.0, 0.1, len(modes)) * (modes > 1.0) / 12.0)
    return ratios


@dataclass(frozen=True)
class Clicks:
    """Very short events: pulses and bursts of noise in a band, alone or as a rattle."""

    centre: float
    """Centre of the burst's band in Hz."""
    decay: float
    """Seconds in which a burst falls by 60 dB."""
    noisy: float
    """Share of noise in a burst; the rest is a damped sine."""
    number: int
    """Bursts of an event."""
    spacing: float
    """Mean seconds between them."""

    @classmethod
    def draw(cls, random: Random) -> "Clicks":
        """Bursts of 1 to 50 ms at 150 to 7000 Hz, up to 12 in an event."""
        number = 1 if random.random() < 0.5 else int(random.integers(2, 13))
        centre, decay = log_uniform(random, 150.0, 7000.0), log_uniform(random, 0.001, 0.05)
        return cls(centre, decay, random.random(), number, log_uniform(random, 0.005, 0.08))

    def render(self, count: int, random: Random) -> Samples:
        """(count,) samples of an event."""
        sound = np.zeros(count, np.float32)
        starts = random.exponential(self.spacing * SAMPLE_RATE, self.number).cumsum().astype(np.int64)
        starts -= starts[0]
        length = min(count, max(8, round(1.5 * self.decay * SAMPLE_RATE)))
        time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        fall = np.exp(np.float32(-np.log(1000.0) / self.decay) * time)
        for start in starts[starts < count]:
            angle = np.float32(2 * np.pi * self.centre * log_uniform(random, 0.9, 1.1))
            burst = np.sin(angle * time) * np.float32(1 - self.noisy)
            burst += random.standard_normal(length, dtype=np.float32) * np.float32(self.noisy)
            end = min(count, start + length)
            sound[start:end] += (burst * fall)[: end - start] * np.float32(random.uniform(0.3, 1.0))
        return unit_level(sound)
