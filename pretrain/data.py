"""Batches of random crops. A batch is a pure function of (seed, step), so that a resumed run sees what an uninterrupted one would."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.config import DataConfig
from pretrain.pack import Packed

MIX_DB = (-25.0, -8.0)
"""Level of a mixed-in crop below the crop that it is added to."""


class CropBatches(Dataset[Tensor]):
    """Item ``step`` is that step's (views * batch_clips, S) batch of waveforms, view by view."""

    def __init__(self, corpus: Packed, config: DataConfig, views: int, seed: int) -> None:
        self.corpus, self.config, self.views, self.seed = corpus, config, views, seed
        self.crop_samples = round(config.crop_seconds * SAMPLE_RATE)
        self.cumulative = clip_weights(corpus.kinds, config.kind_power).cumsum()

    def __getitem__(self, step: int) -> Tensor:
        random = np.random.default_rng((self.seed, step))
        clips = self.cumulative.searchsorted(
            random.random(self.config.batch_clips) * self.cumulative[-1]
        )
        crops = np.stack([self._crop(clip, random) for _ in range(self.views) for clip in clips])
        if self.config.mix:
            crops = mix(crops, self._partners(random), random)
        gain = random.uniform(self.config.min_gain_db, self.config.max_gain_db, (len(crops), 1))
        return torch.from_numpy((crops * 10 ** (gain / 20)).astype(np.float32))

    def _crop(self, clip: int, random: np.random.Generator) -> np.ndarray:
        first, length = self.corpus.offsets[clip], self.corpus.lengths[clip]
        start = (
            random.integers(max(1, length - self.crop_samples + 1))
            if length > self.crop_samples
            else random.integers(length)
        )
        samples = self.corpus.audio[first + start : first + min(length, start + self.crop_samples)]
        if len(samples) < self.crop_samples:  # a short clip goes round until the crop is full
            whole = self.corpus.audio[first : first + length]
            samples = np.resize(np.roll(whole, -int(start)), self.crop_samples)
        return samples.astype(np.float32) / 32768.0

    def _partners(self, random: np.random.Generator) -> np.ndarray:
        """For each crop the index of a crop of another clip."""
        count = self.config.batch_clips
        shift = random.integers(1, count, self.views * count)
        index = np.arange(self.views * count)
        return (index + shift) % count + count * random.integers(self.views, size=len(index))


def clip_weights(kinds: np.ndarray, power: float) -> np.ndarray:
    """How often each clip is drawn, so that a kind's share follows its number of clips to ``power``."""
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    return counts[kind] ** (power - 1.0)


def mix(crops: np.ndarray, partners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add to each crop its partner, 8 to 25 dB below it."""
    level = np.sqrt(np.square(crops).mean(axis=1, keepdims=True)) + 1e-5
    below = random.uniform(*MIX_DB, (len(crops), 1))
    return crops + crops[partners] * (level / level[partners] * 10 ** (below / 20))


def batches(dataset: CropBatches, start: int, stop: int, workers: int) -> DataLoader[Any]:
    """The batches of steps ``start`` to ``stop - 1``, in order, made ahead in ``workers`` processes."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
