"""Random choices that the parts of a sound share, and curves over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE

NYQUIST = SAMPLE_RATE / 2
Random = np.random.Generator
Samples = np.ndarray[Any, np.dtype[np.float32]]


def log_uniform(random: Random, low: float, high: float) -> float:
    """A number between ``low`` and ``high`` whose logarithm is uniform."""
    return float(low * (high / low) ** random.random())


def chosen(random: Random, shares: Mapping[str, float]) -> str:
    """One of the names, each in proportion to its share."""
    edges = np.cumsum(list(shares.values()))
    return list(shares)[int(edges.searchsorted(random.random() * edges[-1], side="right"))]


def decibels(value: float | np.ndarray) -> Any:
    """The factor of an amplitude that a level in dB is."""
    return 10.0 ** (value / 20.0)


def faded(samples: Samples, fade: int = 32) -> Samples:
    """The same samples, whose last ones fall to 0, so that a cut is not heard as a click."""
    end = min(fade, len(samples))
    samples[len(samples) - end :] *= np.linspace(1.0, 0.0, end, dtype=np.float32)
    return samples


def unit_level(samples: Samples) -> Samples:
    """The same samples with a root mean square of 1; silence stays silent."""
    level = float(np.sqrt(np.dot(samples, samples) / max(1, len(samples))))
    return samples / np.float32(level) if level > 1e-9 else samples
