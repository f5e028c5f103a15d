"""What a computed sound is made of, when its events begin, and its crops.

A sound has one to three layers, each with a timbre, a rhythm and a choice of pitches, and is recorded in a room through
a channel. Its crops (the views of a clip) share all that, as two crops of a recording do, and differ in the events:
their times, pitches, durations, levels and noise.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.synth.channel import Recording
from pretrain.synth.draws import Random, Samples, chosen, decibels, faded, log_uniform, unit_level
from pretrain.synth.noises import ColouredNoise
from pretrain.synth.strikes import Clicks, DampedModes
from pretrain.synth.tones import Contour, FrequencyModulation, HarmonicStack

VERSION = 1
"""Raised when the sounds of a seed change."""
COMPUTED = 1 << 20
"""Entry of the seeds of computed sounds, above every number of a clip of a batch, so that no other draw has them."""
FAMILIES = {"stack": 0.36, "fm": 0.12, "modes": 0.22, "noise": 0.18, "clicks": 0.12}
"""Shares of the families of timbres."""
RHYTHMS = {"whole": 0.2, "single": 0.2, "regular": 0.3, "random": 0.3}
"""Shares of the rhythms: one event longer than the crop, one inside it, a pulse, and events at random times."""
LAYERS = {"1": 0.5, "2": 0.35, "3": 0.15}
"""Shares of the numbers of layers."""
MAX_OVERLAP = 2.5
"""Most events of a layer that sound at once, on average."""


@dataclass(frozen=True)
class Rhythm:
    """When the events of a layer begin, and how long they last."""

    kind: str
    period: float
    """Mean seconds between two events."""
    jitter: float
    """Standard deviation of a regular event's time, in periods."""
    kept: float
    """Share of the beats of a pulse that have an event."""
    duration: float
    """Median seconds of an event."""

    @classmethod
    def draw(cls, random: Random, kind: str | None = None) -> "Rhythm":
        """Periods of 0.08 to 1.2 s, events of 0.03 to 2.5 s."""
        period, duration = log_uniform(random, 0.08, 1.2), log_uniform(random, 0.03, 2.5)
        kind = chosen(random, RHYTHMS) if kind is None else kind
        jitter = 0.0 if random.random() < 0.3 else log_uniform(random, 0.003, 0.2)
        return cls(kind, period, jitter, random.uniform(0.4, 1.0), min(duration, MAX_OVERLAP * period))

    def times(self, count: int, random: Random) -> np.ndarray:
        """(events,) int64 first samples of the events of ``count`` samples; at least one event, some begin before."""
        if self.kind == "whole":
            return np.zeros(1, np.int64)
        if self.kind == "single":
            return np.array([int(random.uniform(0.0, 0.7) * count)])
        period = self.period * SAMPLE_RATE
        beats = int(count / period) + 2
        if self.kind == "regular":
            times = (np.arange(beats) - random.random() + self.jitter * random.standard_normal(beats)) * period
            times = times[random.random(beats) < self.kept]
        else:
            times = random.uniform(-period, count, int(random.poisson(beats)))
        heard = (times > -0.3 * self.duration * SAMPLE_RATE) & (times < count - 0.02 * SAMPLE_RATE)
        times = times[heard].astype(np.int64)
        return times if len(times) else np.array([int(random.uniform(0.0, 0.7) * count)])

    def length(self, count: int, random: Random) -> int:
        """Samples of an event in a crop of ``count`` samples."""
        if self.kind == "whole":
            return count
        return max(64, round(self.duration * float(random.lognormal(0.0, 0.3)) * SAMPLE_RATE))


@dataclass(frozen=True)
class Envelope:
    """Attack, decay, sustain and release of an event."""

    attack: float
    """Seconds of the rise, at most half of the event."""
    decay: float
    """Seconds in which the level falls to ``sustain``."""
    sustain: float
    release: float
    """Share of the event over which it fades out."""

    @classmethod
    def draw(cls, random: Random) -> "Envelope":
        """Attacks of 1 to 400 ms."""
        attack, decay = log_uniform(random, 0.001, 0.4), log_uniform(random, 0.01, 1.0)
        return cls(attack, decay, random.random(), log_uniform(random, 0.02, 0.6))

    def values(self, count: int) -> np.ndarray:
        """(count,) factors."""
        rise = max(1.0, min(self.attack * SAMPLE_RATE, count / 2))
        fall = max(1.0, min(self.decay * SAMPLE_RATE, count - rise))
        end = max(rise + fall, (1 - self.release) * count)
        places = [0.0, rise, rise + fall, end, max(count, end + 1.0)]
        values: np.ndarray = np.interp(np.arange(count), places, [0.0, 1.0, self.sustain, self.sustain, 0.0])
        return values.astype(np.float32)


class Timbre(Protocol):
    """How an event sounds."""

    def event(self, pitch: float, count: int, random: Random) -> Samples:
        """(count,) samples of an event of about unit level."""


@dataclass(frozen=True)
class Tone:
    """A pitched source that is held."""

    source: HarmonicStack | FrequencyModulation
    contour: Contour
    envelope: Envelope | None

    def event(self, pitch: float, count: int, random: Random) -> Samples:
        """See `Timbre`."""
        sound = self.source.render(self.contour.frequencies(pitch, count, random), random)
        return sound if self.envelope is None else sound * self.envelope.values(count)


@dataclass(frozen=True)
class Hiss:
    """Noise that is held."""

    source: ColouredNoise
    envelope: Envelope | None

    def event(self, pitch: float, count: int, random: Random) -> Samples:
        """See `Timbre`."""
        sound = self.source.render(count, random)
        return sound if self.envelope is None else sound * self.envelope.values(count)


@dataclass(frozen=True)
class Strike:
    """A source that decays by itself."""

    source: DampedModes

    def event(self, pitch: float, count: int, random: Random) -> Samples:
        """See `Timbre`."""
        return faded(self.source.render(pitch, count, random), min(400, count // 4))


@dataclass(frozen=True)
class Rattle:
    """Clicks."""

    source: Clicks

    def event(self, pitch: float, count: int, random: Random) -> Samples:
        """See `Timbre`."""
        return faded(self.source.render(count, random))


def draw_timbre(random: Random, held: bool) -> tuple[Timbre, float]:
    """A timbre and the pitch in Hz around which it sounds; ``held`` if its event is longer than the crop."""
    family = chosen(random, FAMILIES)
    envelope = Envelope.draw(random)
    if family == "noise":
        return Hiss(ColouredNoise.draw(random), None if held else envelope), 1000.0
    if family == "clicks":
        return Rattle(Clicks.draw(random)), 1000.0
    if family == "modes":
        return Strike(DampedModes.draw(random)), log_uniform(random, 40.0, 3000.0)
    source = HarmonicStack.draw(random) if family == "stack" else FrequencyModulation.draw(random)
    voice = isinstance(source, HarmonicStack) and source.shape == "voice"
    pitch = log_uniform(random, 70.0, 450.0) if voice else log_uniform(random, 40.0, 3000.0)
    return Tone(source, Contour.draw(random), None if held else envelope), pitch


@dataclass(frozen=True)
class Layer:
    """A timbre with its rhythm and pitches."""

    timbre: Timbre
    rhythm: Rhythm
    pitch: float
    intervals: np.ndarray
    """Semitones around ``pitch`` from which each event draws its own."""
    spread: float
    """Standard deviation of an event's pitch around that, in semitones."""
    level: float
    """dB, relative to the other layers."""
    accents: float
    """The levels of its events differ by up to this many dB."""
    lag: int | None
    """If set, its events follow those of the layer before it by this many samples (a consonant before a vowel)."""

    @classmethod
    def draw(cls, random: Random, first: bool) -> "Layer":
        """Half have one pitch, the others up to 7 within two octaves."""
        rhythm = Rhythm.draw(random)
        timbre, pitch = draw_timbre(random, rhythm.kind == "whole")
        intervals = random.integers(-12, 13, int(random.integers(1, 8))) if random.random() < 0.5 else np.zeros(1)
        spread = 0.0 if random.random() < 0.6 else log_uniform(random, 0.05, 4.0)
        lag = round(random.uniform(-0.12, 0.12) * SAMPLE_RATE) if not first and random.random() < 0.4 else None
        level = 0.0 if first else random.uniform(-18.0, 3.0)
        return cls(timbre, rhythm, pitch, intervals, spread, level, random.uniform(0.0, 18.0), lag)

    def add(self, sound: Samples, times: np.ndarray, random: Random) -> None:
        """Add the layer's events to a crop."""
        factor = decibels(self.level)
        for time in times:
            semitones = float(random.choice(self.intervals)) + self.spread * float(random.standard_normal())
            length = self.rhythm.length(len(sound), random)
            begin, skipped = max(0, int(time)), max(0, -int(time))
            count = min(length, skipped + len(sound) - begin)
            if count <= skipped:
                continue
            event = self.timbre.event(float(np.clip(self.pitch * 2 ** (semitones / 12), 25.0, 3900.0)), count, random)
            level = np.float32(factor * decibels(-self.accents * random.random()))
            sound[begin : begin + count - skipped] += level * event[skipped:]


@dataclass(frozen=True)
class Sound:
    """A computed sound of unlimited length."""

    layers: tuple[Layer, ...]
    recording: Recording
    floor: ColouredNoise
    floor_level: float
    """Level of the noise floor in dB below the layers."""

    @classmethod
    def draw(cls, random: Random) -> "Sound":
        """Noise floors lie 20 to 75 dB below."""
        layers = tuple(Layer.draw(random, not number) for number in range(int(chosen(random, LAYERS))))
        floor = ColouredNoise(random.uniform(-2.0, 0.5), 1000.0, np.inf, 0.0, 1.0)
        return cls(layers, Recording.draw(random), floor, random.uniform(20.0, 75.0))

    def crop(self, count: int, random: Random) -> Samples:
        """(count,) float32 samples of a part of the sound, within [-1, 1]."""
        sound = np.zeros(count, np.float32)
        times = np.zeros(0, np.int64)
        for layer in self.layers:
            times = layer.rhythm.times(count, random) if layer.lag is None else times + layer.lag
            layer.add(sound, times, random)
        sound = unit_level(sound)
        sound += np.float32(decibels(-self.floor_level)) * self.floor.render(count, random)
        return self.recording.through(sound)


def computed_crop(key: tuple[int, int], clip: int, view: int, count: int) -> Samples:
    """A crop of a computed sound, the same one whenever it is computed.

    Args:
        key: seed and step.
        clip: index of the clip in the whole batch of the step; with the key it decides the sound.
        view: which crop of the sound.
        count: samples.
    """
    sound = Sound.draw(np.random.default_rng((*key, clip, COMPUTED)))
    return sound.crop(count, np.random.default_rng((*key, clip, COMPUTED, 1 + view)))
