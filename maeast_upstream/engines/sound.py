"""A sound that is the same everywhere, on which engines are measured and compared with float32.

Noise as input would not do: its tokens are all alike, while real audio has tones and transients, loud and silent
passages, and with them the large activations that low precisions round.
"""

import math

import torch
from torch import Tensor

from maeast_upstream.frontend import SAMPLE_RATE

EVENT_SECONDS = 0.5
"""An event begins so often: in turn a harmonic tone, a burst of noise, a chirp, clicks, and silence."""


def make_sound(seconds: float) -> Tensor:
    """(S,) samples at 16 kHz, float32 in [-1, 1]: a quiet background with an event each half second.

    Args:
        seconds: The length. A shorter sound is the beginning of a longer one.
    """
    generator = torch.Generator().manual_seed(0)
    count, length = math.ceil(seconds / EVENT_SECONDS), round(EVENT_SECONDS * SAMPLE_RATE)
    time = torch.arange(length) / SAMPLE_RATE
    parts = []
    for number in range(count):
        noise = torch.randn(length, generator=generator)
        pitch, level = torch.rand(2, generator=generator).tolist()
        event = EVENTS[number % len(EVENTS)](time, noise, 80.0 * 20.0**pitch)
        quiet = 0.0 if number % (2 * len(EVENTS)) == len(EVENTS) - 1 else 1e-3 * noise  # digital silence now and then
        parts.append(10.0 ** (-1.5 * level) * event / event.abs().max().clamp(min=1e-6) * 0.7 + quiet)
    return torch.cat(parts)[: round(seconds * SAMPLE_RATE)].clamp(-1.0, 1.0)


def _tone(time: Tensor, noise: Tensor, pitch: float) -> Tensor:
    """Twelve harmonics with vibrato, as in voices and instruments."""
    phase = 2 * math.pi * pitch * (time + 0.001 * torch.sin(2 * math.pi * 5.5 * time))
    harmonics = torch.stack([torch.sin(k * phase) / k for k in range(1, 13) if k * pitch < SAMPLE_RATE / 2])
    return harmonics.sum(0) * torch.sin(math.pi * time / EVENT_SECONDS)


def _burst(time: Tensor, noise: Tensor, pitch: float) -> Tensor:
    """Noise that decays, as of a drum or a door."""
    return noise * torch.exp(-time * pitch / 20.0)


def _chirp(time: Tensor, noise: Tensor, pitch: float) -> Tensor:
    """A tone that rises by three octaves, as of a bird."""
    return torch.sin(2 * math.pi * pitch * (time + 7.0 / EVENT_SECONDS * time**2 / 2))


def _clicks(time: Tensor, noise: Tensor, pitch: float) -> Tensor:
    """Twenty short clicks."""
    return torch.exp(-400.0 * (time % 0.025)) * torch.sin(2 * math.pi * 10.0 * pitch * time)


def _silence(time: Tensor, noise: Tensor, pitch: float) -> Tensor:
    return torch.zeros_like(time)


EVENTS = (_tone, _burst, _chirp, _clicks, _silence)
