"""Where time steps lie in a clip: hops, centres in milliseconds, and the overlapping windows of long audio."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, num_samples

FINE_HOP_MS = 40.0
"""The finer hop of patch models: passes over token grids that are shifted by 4 fbank frames."""


FINE_LEFT_SAMPLES = 1280
"""Zeros in front of a clip for the finer hop, so that the first step is centred near the clip's start (7.5 ms)."""


FRAME_MS = 1000 * HOP_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True)
class TimeGrid:
    """Where time steps lie: a token every ``hop`` frames, after ``left`` zero samples in front of the clip."""

    patch_frames: int
    """Token length in fbank frames."""
    hop: int
    """Fbank frames between two time steps; divides ``patch_frames``."""
    left: int
    """Zero samples in front."""

    @property
    def passes(self) -> int:
        """Shifted token grids whose time steps interleave."""
        return self.patch_frames // self.hop

    @property
    def hop_samples(self) -> int:
        """Samples between two time steps."""
        return self.hop * HOP_SAMPLES

    def padded_samples(self, samples: int) -> int:
        """Samples that the front end gets for a clip of ``samples``: enough for one token."""
        return max(self.left + samples, num_samples(self.patch_frames))

    def frames(self, samples: int) -> int:
        """Fbank frames of a clip of ``samples``."""
        return (self.padded_samples(samples) - WINDOW_SAMPLES) // HOP_SAMPLES + 1

    def steps(self, samples: int) -> int:
        """Time steps of a clip of ``samples``."""
        return (self.frames(samples) - self.patch_frames) // self.hop + 1

    def times_ms(self, samples: int) -> Tensor:
        """(steps,) float64 centres; a clip of one padded step is centred no later than half its duration."""
        first = (num_samples(self.patch_frames) / 2 - self.left) * 1000 / SAMPLE_RATE
        if self.left + samples < num_samples(self.patch_frames):
            first = min(first, samples / 2 * 1000 / SAMPLE_RATE)
        return first + torch.arange(self.steps(samples), dtype=torch.float64) * (self.hop * FRAME_MS)


def window_starts(steps: int, length: int) -> list[int]:
    """First steps of windows of ``length`` (even) over ``steps`` time steps: every length / 2, the last one moved back.

    Fewer steps than ``length`` give one window.
    """
    if steps <= length:
        return [0]
    starts = list(range(0, steps - length, length // 2))
    return [*starts, steps - length]


def window_ranges(starts: list[int], steps: int, length: int) -> list[tuple[int, int]]:
    """For each window the steps (first, one past the last) that are taken from it.

    A step is taken from the window whose centre, start + (length - 1) / 2, is nearest; ties go to the earlier one.
    """
    cuts = [(one + other + length - 1) // 2 + 1 for one, other in itertools.pairwise(starts)]
    return list(zip([0, *cuts], [*cuts, steps], strict=True))
