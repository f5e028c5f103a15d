"""Batches of random crops. A batch is a pure function of (seed, step), so that a resumed run sees the same ones."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.packed import Packed
from pretrain.config import DataConfig

MIX_DB = (-25.0, -8.0)
"""Level of a mixed-in crop below the crop that it is added to."""


class CropBatches(Dataset[Tensor]):
    """Item ``step`` is that step's (views * clips, S) batch of waveforms, view by view."""

    def __init__(self, corpus: Packed, config: DataConfig, views: int, seed: int) -> None:
        self.corpus, self.config, self.views, self.seed = corpus, config, views, seed
        self.weights = clip_weights(corpus.kinds, config.kind_power)

    def __getitem__(self, step: int) -> Tensor:
        random = np.random.default_rng((self.seed, step))
        samples, count = self._shape(random)
        clips = self._draw_clips(samples, count, random)
        crops = np.stack([self._crop(clip, samples, random) for _ in range(self.views) for clip in clips])
        if self.config.mix:
            crops = mix(crops, self._partners(count, random), random)
        gain = random.uniform(self.config.min_gain_db, self.config.max_gain_db, (len(crops), 1))
        return torch.from_numpy((crops * 10 ** (gain / 20)).astype(np.float32))

    def _shape(self, random: np.random.Generator) -> tuple[int, int]:
        """Samples of a crop and number of clips of this batch."""
        shortest, longest = self.config.crop_seconds, self.config.max_crop_seconds
        if longest is None:
            return round(shortest * SAMPLE_RATE), self.config.batch_clips
        seconds = float(np.exp(random.uniform(np.log(shortest), np.log(longest))))
        return round(seconds * SAMPLE_RATE), max(2, round(self.config.batch_clips * shortest / seconds))

    def _draw_clips(self, samples: int, count: int, random: np.random.Generator) -> np.ndarray:
        """Indices of clips, none shorter than half a crop unless all are."""
        long_enough = self.corpus.lengths >= samples / 2
        weights = self.weights * long_enough if long_enough.any() else self.weights
        cumulative = weights.cumsum()
        drawn: np.ndarray = cumulative.searchsorted(random.random(count) * cumulative[-1], side="right")
        return drawn

    def _crop(self, clip: int, count: int, random: np.random.Generator) -> np.ndarray:
        first, length = self.corpus.offsets[clip], self.corpus.lengths[clip]
        if length >= count:
            start = first + random.integers(length - count + 1)
            samples = self.corpus.audio[start : start + count]
        else:  # a short clip goes round until the crop is full
            whole = self.corpus.audio[first : first + length]
            samples = np.resize(np.roll(whole, -int(random.integers(length))), count)
        return samples.astype(np.float32) / 32768.0

    def _partners(self, count: int, random: np.random.Generator) -> np.ndarray:
        """For each crop the index of a crop of another clip."""
        index = np.arange(self.views * count)
        shift = random.integers(1, count, len(index))
        return (index + shift) % count + count * random.integers(self.views, size=len(index))


def clip_weights(kinds: np.ndarray, power: float) -> np.ndarray:
    """How often each clip is drawn, so that a kind's share follows its number of clips to ``power``."""
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    weights: np.ndarray = counts[kind] ** (power - 1.0)
    return weights


def mix(crops: np.ndarray, partners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add to each crop its partner, 8 to 25 dB below it."""
    level = np.sqrt(np.square(crops).mean(axis=1, keepdims=True)) + 1e-5
    below = random.uniform(*MIX_DB, (len(crops), 1))
    mixed: np.ndarray = crops + crops[partners] * (level / level[partners] * 10 ** (below / 20))
    return mixed


def batches(dataset: CropBatches, start: int, stop: int, workers: int) -> DataLoader[Any]:
    """The batches of steps ``start`` to ``stop - 1``, in order, made ahead in ``workers`` processes."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
