"""Pitched sounds. A timbre belongs to a sound; each event has a pitch contour of its own."""

from dataclasses import dataclass

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.synth.draws import NYQUIST, Random, Samples, chosen, log_uniform

TABLE = 4096
"""Samples of a stored period; with 160 partials, linear interpolation errs by less than 1 % of the highest one."""
CONTROL = 64
"""Samples between two points of a pitch contour: 4 ms."""
SHAPES = {"slope": 0.35, "saw": 0.1, "square": 0.1, "triangle": 0.08, "pulse": 0.12, "voice": 0.25}
VOWEL_FORMANTS = ((250.0, 900.0), (700.0, 2500.0), (2200.0, 3200.0), (3300.0, 4300.0))
"""Range of each formant of an adult's vowels, in Hz. Source: Peterson and Barney, JASA 24 (1952), table II, widened."""
RATIOS = (0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 5.0, 7.0)
"""Ratios of modulator to carrier with harmonic spectra. Source: Chowning, JAES 21 (1973), 526-534."""


@dataclass(frozen=True)
class Contour:
    """How the pitch of a sound's events moves, in semitones around the pitch of the event."""

    glide: float
    """Largest glide from the beginning of an event to its end."""
    bend: float
    """Exponent of the glide's course: 1 is straight in semitones, above 1 it is late, below 1 early."""
    depth: float
    """Depth of the vibrato."""
    rate: float
    """Vibrato rate in Hz."""
    jitter: float
    """Standard deviation of a slow random walk over a second."""

    @classmethod
    def draw(cls, random: Random) -> "Contour":
        """A third are steady; glides reach two octaves, vibrato two semitones at 3 to 9 Hz."""
        glide = 0.0 if random.random() < 0.5 else log_uniform(random, 0.3, 24.0)
        depth = 0.0 if random.random() < 0.6 else log_uniform(random, 0.05, 2.0)
        jitter = 0.0 if random.random() < 0.5 else log_uniform(random, 0.05, 2.0)
        return cls(glide, log_uniform(random, 0.3, 3.0), depth, random.uniform(3.0, 9.0), jitter)

    def frequencies(self, pitch: float, count: int, random: Random) -> np.ndarray:
        """(count,) Hz of an event that begins near ``pitch`` Hz; at most half of the Nyquist frequency."""
        points = np.arange(-(-count // CONTROL) + 1)
        seconds = points * (CONTROL / SAMPLE_RATE)
        glide = self.glide * random.uniform(-1.0, 1.0)
        semitones = glide * (points / points[-1]) ** self.bend
        if self.depth:
            semitones += self.depth * np.sin(2 * np.pi * (self.rate * seconds + random.random()))
        if self.jitter:
            steps = random.standard_normal(len(points)) * (self.jitter * (CONTROL / SAMPLE_RATE) ** 0.5)
            semitones += steps.cumsum()
        hertz = (pitch * 2.0 ** (semitones / 12.0)).clip(16.0, NYQUIST / 2)
        frequencies: np.ndarray = np.interp(np.arange(count), points * CONTROL, hertz)
        return frequencies


def phases(hertz: np.ndarray, start: float) -> np.ndarray:
    """The phase of a tone of these frequencies, in periods, from 0 to below 1."""
    turns = (hertz / SAMPLE_RATE).cumsum()
    turns += start
    turns -= np.floor(turns)
    return turns


@dataclass(frozen=True)
class HarmonicStack:
    """A periodic sound by its partials: the classical waveforms, spectral slopes with resonances, and a voice.

    A period is computed from as many partials as fit below the Nyquist frequency (additive synthesis: Moore, Elements
    of Computer Music, 1990, chapter 3) and read at the phase of the pitch contour; two periods are faded into each
    other, so that the spectrum moves. A voice is a falling source spectrum times the resonances of a vocal tract (Fant,
    Acoustic Theory of Speech Production, 1960).
    """

    shape: str
    slope: float
    """Exponent of the partials' fall: amplitude k ** -slope."""
    width: float
    """Share of a period that a pulse lasts."""
    even: float
    """Level of the even partials of a spectral slope."""
    roughness: np.ndarray
    """(256,) factors of the partials of a spectral slope."""
    formants: np.ndarray
    """(sets, formants, 3) resonances: frequency and bandwidth in Hz, gain. An event moves from one set to another."""
    breath: float
    """Level of noise in the tone."""

    @classmethod
    def draw(cls, random: Random, shape: str | None = None) -> "HarmonicStack":
        """Slopes of 0 (bright) to 2.5, up to 5 resonances, pulses of 5 to 50 % of a period."""
        shape = chosen(random, SHAPES) if shape is None else shape
        slope = random.uniform(0.6, 1.6) if shape == "voice" else random.uniform(0.0, 2.5)
        even = 1.0 if random.random() < 0.6 else random.random()
        roughness = random.lognormal(0.0, random.uniform(0.0, 1.2), 256)
        formants = _vowels(random) if shape == "voice" else _resonances(random)
        breath = 0.0 if random.random() < 0.5 else log_uniform(random, 0.003, 0.3)
        return cls(shape, slope, random.uniform(0.05, 0.5), even, roughness, formants, breath)

    def partials(self, pitch: float, highest: float, formants: np.ndarray) -> np.ndarray:
        """(TABLE // 2 + 1,) complex amplitudes of the partials of ``pitch`` Hz when the pitch rises to ``highest``."""
        number = max(1, min(int(NYQUIST / highest), TABLE // 2 - 1, len(self.roughness)))
        k = np.arange(1, number + 1)
        spectrum = np.zeros(TABLE // 2 + 1, np.complex128)
        spectrum[1 : number + 1] = -1j * self._amplitudes(k) * resonance(k * pitch, formants)
        return spectrum

    def _amplitudes(self, k: np.ndarray) -> np.ndarray:
        """Amplitudes of the partials k, from the Fourier series of the waveforms."""
        amplitudes: np.ndarray = k**-self.slope
        match self.shape:
            case "saw":
                amplitudes = 1.0 / k
            case "square":
                amplitudes = (k % 2) / k
            case "triangle":
                amplitudes = (k % 2) * (-1.0) ** (k // 2) / k**2
            case "pulse":
                amplitudes = np.sin(np.pi * self.width * k) / k
            case "slope":
                amplitudes *= np.where(k % 2, 1.0, self.even) * self.roughness[: len(k)]
        return amplitudes

    def render(self, hertz: np.ndarray, random: Random) -> Samples:
        """(count,) samples of an event with these frequencies."""
        first, last = random.integers(len(self.formants), size=2)
        middle, highest = float(hertz.mean()), float(hertz.max())
        turns = phases(hertz, random.random()) * TABLE
        place = turns.astype(np.int32)
        between = (turns - place).astype(np.float32)
        sound = None
        for number in dict.fromkeys((first, last)):
            period = np.fft.irfft(self.partials(middle, highest, self.formants[number])).astype(np.float32)
            period /= np.float32(np.sqrt(np.square(period).mean()) + 1e-12)
            period = np.append(period, period[0])
            read = period[place]
            read += between * np.diff(period)[place]
            if sound is None:
                sound = read
            else:
                sound += np.linspace(0.0, 1.0, len(read), dtype=np.float32) * (read - sound)
        assert sound is not None
        if self.breath:
            sound += np.float32(self.breath) * random.standard_normal(len(sound), dtype=np.float32)
        return sound


def resonance(hertz: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """(n,) gain of resonances at n frequencies: 1 plus a resonance curve for each formant."""
    frequency, bandwidth, gain = formants.T[..., None]
    distance = (hertz - frequency) / (bandwidth / 2)
    gains: np.ndarray = 1.0 + (gain / np.sqrt(1.0 + np.square(distance))).sum(axis=0)
    return gains


def _resonances(random: Random) -> np.ndarray:
    """Up to 5 resonances anywhere, which up to three sets share except for a shift."""
    number = int(random.integers(6))
    frequency = 100.0 * 60.0 ** random.random(number)
    bandwidth = frequency * 0.02 * 25.0 ** random.random(number)
    gain = 2.0 * 15.0 ** random.random(number)
    shifts = 2.0 ** random.uniform(-0.7, 0.7, int(random.integers(1, 4)))
    return np.stack([np.stack([frequency * shift, bandwidth, gain], axis=-1) for shift in shifts])


def _vowels(random: Random) -> np.ndarray:
    """2 to 6 vowels of one vocal tract, whose length scales all formants."""
    scale, number = random.uniform(0.85, 1.35), int(random.integers(2, 7))
    low, high = np.array(VOWEL_FORMANTS).T
    frequency = random.uniform(low, high, (number, len(low))) * scale
    bandwidth = 50.0 + frequency * random.uniform(0.03, 0.08)
    gain = random.uniform(6.0, 30.0) * np.array([1.0, 0.7, 0.5, 0.4]) * np.ones_like(frequency)
    return np.stack([frequency, bandwidth, gain], axis=-1)


@dataclass(frozen=True)
class FrequencyModulation:
    """A sine whose phase a second sine moves. Source: Chowning, JAES 21 (1973), 526-534."""

    ratio: float
    """Frequency of the modulator, relative to the carrier."""
    index: float
    """Largest modulation index; less where the spectrum would reach the Nyquist frequency (Carson's rule)."""
    fall: float
    """How fast the index decays, per event; below 0 it grows."""

    @classmethod
    def draw(cls, random: Random) -> "FrequencyModulation":
        """Two thirds with harmonic ratios; indices of 0.2 to 12."""
        harmonic = random.random() < 0.65
        ratio = float(random.choice(RATIOS)) if harmonic else log_uniform(random, 0.1, 8.0)
        return cls(ratio, log_uniform(random, 0.2, 12.0), random.uniform(-1.0, 5.0))

    def render(self, hertz: np.ndarray, random: Random) -> Samples:
        """(count,) samples of an event with these frequencies of the carrier."""
        highest, modulator = float(hertz.max()), self.ratio * float(hertz.max())
        index = max(0.0, min(self.index, (NYQUIST - highest) / modulator - 1.0))
        carrier = (2 * np.pi * phases(hertz, random.random())).astype(np.float32)
        turns = (2 * np.pi * phases(self.ratio * hertz, random.random())).astype(np.float32)
        course = np.linspace(0.0, -self.fall, len(hertz), dtype=np.float32)
        carrier += np.float32(index) * np.exp(course - max(0.0, -self.fall)) * np.sin(turns)
        return np.float32(2**0.5) * np.sin(carrier)
