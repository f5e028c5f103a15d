"""Where time steps lie in a clip: hops, centres in milliseconds, and the overlapping windows of long audio."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, num_samples

FINE_HOP_MS = 40.0
"""The finer hop of patch models: four passes over token grids that are shifted by 4 fbank frames."""

FINE_LEFT_SAMPLES = 1280
"""Zeros in front of a clip at the finer hop, so that the first step is centred near the clip's start (7.5 ms)."""

FRAME_MS = 1000 * HOP_SAMPLES / SAMPLE_RATE
"""Milliseconds between two fbank frames."""


@dataclass(frozen=True)
class TimeGrid:
    """Time steps of one token each: every ``hop`` frames, after ``left`` zero samples in front of the clip."""

    patch_frames: int
    """Token length in fbank frames."""
    hop: int
    """Fbank frames between two time steps; divides ``patch_frames``."""
    left: int
    """Zero samples in front of the clip."""

    @classmethod
    def with_hop(cls, patch_frames: int, hop_ms: float | None) -> "TimeGrid":
        """The grid of a model with tokens of ``patch_frames``.

        Args:
            patch_frames: token length in fbank frames.
            hop_ms: None for the tokens' own length; 40 for patch models.

        Raises:
            ValueError: the model has no grid with this hop; the message names those that it has.
        """
        if hop_ms in (None, patch_frames * FRAME_MS):
            return cls(patch_frames, patch_frames, 0)
        has_fine_hop = patch_frames == 16
        if hop_ms == FINE_HOP_MS and has_fine_hop:
            return cls(patch_frames, round(FINE_HOP_MS / FRAME_MS), FINE_LEFT_SAMPLES)
        hops = f"{patch_frames * FRAME_MS:g}" + (f" or {FINE_HOP_MS:g}" if has_fine_hop else "")
        raise ValueError(f"this model's time steps are {hops} ms apart, got hop_ms {hop_ms}")

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

    def averaged(self) -> "AveragedGrid":
        """The grid whose time steps are means of the ``passes`` neighbouring tokens that all span the same hop."""
        return AveragedGrid(self)


@dataclass(frozen=True)
class AveragedGrid:
    """Time steps that are means of neighbouring tokens and reach from a clip's start to its end.

    The clip is padded with silence where the tokens of its first and last steps reach beyond it: the first centre is
    less than a hop after the clip's start, the last one less than a hop before its end.
    """

    tokens: TimeGrid
    """The grid of the tokens; they are a hop apart."""

    @property
    def tokens_per_step(self) -> int:
        """Neighbouring tokens whose mean is a time step: those that span one hop in common."""
        return self.tokens.passes

    @property
    def hop_samples(self) -> int:
        """Samples between two time steps."""
        return self.tokens.hop_samples

    @property
    def first_sample(self) -> int:
        """Centre of the first time step, less than a hop after the clip's start."""
        return self._unpadded_centre % self.hop_samples

    @property
    def _unpadded_centre(self) -> int:
        """Where the first step would be centred if no silence were put in front of the clip."""
        token_centre = num_samples(self.tokens.patch_frames) // 2 - self.tokens.left
        return token_centre + (self.tokens_per_step - 1) * self.hop_samples // 2

    def steps(self, samples: int) -> int:
        """Time steps of a clip of ``samples``, at least one."""
        return max(1, (samples - self.first_sample) // self.hop_samples + 1)

    def padding(self, samples: int) -> tuple[int, int]:
        """Zero samples that a clip of ``samples`` needs in front and behind before its tokens are computed."""
        front = self._unpadded_centre - self.first_sample
        last_token = (self.steps(samples) + self.tokens_per_step - 2) * self.hop_samples
        end = last_token + num_samples(self.tokens.patch_frames) - self.tokens.left
        return front, max(0, end - front - samples)

    def times_ms(self, samples: int) -> Tensor:
        """(steps,) float64 centres; a clip that ends before the first one has one step, in its middle."""
        if samples < self.first_sample:
            return torch.tensor([samples / 2 * 1000 / SAMPLE_RATE], dtype=torch.float64)
        steps = torch.arange(self.steps(samples), dtype=torch.float64)
        return (self.first_sample + steps * self.hop_samples) * 1000 / SAMPLE_RATE


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
    cuts = [window_cut(start, following, length) for start, following in itertools.pairwise(starts)]
    return list(zip([0, *cuts], [*cuts, steps], strict=True))


def window_cut(start: int, following: int, length: int) -> int:
    """The first step that is taken from the window at ``following`` and no more from the one at ``start`` before it."""
    return (start + following + length - 1) // 2 + 1
