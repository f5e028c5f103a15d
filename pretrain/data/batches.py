"""Batches of crops: their shapes and how they are shared between processes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.config import DataConfig
from pretrain.data.clips import Clips
from pretrain.data.crops import (
    Crops,
    NoClipError,
    clip_weights,
    draw_clips,
)

LENGTHS = 16
"""Crop lengths of a run that draws them. Few, because each new shape costs a GPU's host: while every batch had another
length, tiny took 0.45 s for 2,048 s of crops on an H100; 2,560 s of one length took 0.04 s."""


class Batch(NamedTuple):
    """One part of an update's batch."""

    waveforms: Tensor
    """(views * clips, S) float32, view by view; no rows where nothing could be decoded."""
    lengths: Tensor
    """(views * clips,) int64 samples of each row, the rest is zeros."""
    first: int
    """Number of its first clip in the whole batch."""
    size: int
    """Clips of the whole batch."""
    clips: tuple[int | str, ...]
    """Its clips, by number or name."""
    reads: int
    """Clips that were opened."""
    bad: tuple[tuple[str, str], ...]
    """Those that could not be decoded: name, reason."""


@dataclass(frozen=True)
class BatchSharding:
    """How an update's batch is shared."""

    processes: int = 1
    rank: int = 0
    accumulate: int = 1

    @property
    def number(self) -> int:
        """Parts of a batch."""
        return self.processes * self.accumulate

    def clips(self, part: int, count: int) -> range:
        """The clips of this process's ``part`` (0 to accumulate - 1) of a batch of ``count``."""
        each = count // self.number
        first = (part * self.processes + self.rank) * each
        return range(first, first + each)


class CropBatches(Dataset[Batch]):
    """Item ``step * accumulate + part`` is that part of that step's batch."""

    def __init__(
        self,
        clips: Clips,
        config: DataConfig,
        views: int,
        seed: int,
        parts: BatchSharding | None = None,
    ) -> None:
        self.clips, self.config, self.views, self.seed = clips, config, views, seed
        self.parts = parts or BatchSharding()
        self.weights = clip_weights(clips.kinds, config.kind_power)
        edge = round(config.crop_seconds * SAMPLE_RATE)
        self.bucket_samples = bucket_lengths(clips.lengths, edge, config.buckets) if config.short == "pad" else None

    def __getitem__(self, item: int) -> Batch:
        crops, own, count = self.crops(item)
        try:
            waveforms, lengths = crops.rows(own)
        except NoClipError:
            waveforms, lengths = (
                torch.zeros(0, crops.samples),
                torch.zeros(0, dtype=torch.long),
            )
        clips = tuple(int(crops.drawn[clip]) for clip in own)
        return Batch(
            waveforms,
            lengths,
            own.start,
            count,
            clips,
            crops.reads,
            tuple(crops.bad.items()),
        )

    def crops(self, item: int) -> tuple["Crops", range, int]:
        """What chance decides of the item's batch, the clips of it that are the item's own, and how many it has."""
        step, part = divmod(item, self.parts.accumulate)
        random = np.random.default_rng((self.seed, step))
        samples, count, drawn = self._draw(random)
        crops = Crops(
            self.clips,
            self.config,
            self.views,
            (self.seed, step),
            samples,
            drawn,
            self.weights,
        )
        crops.draw(random)
        return crops, self.parts.clips(part, count), count

    def _draw(self, random: np.random.Generator) -> tuple[int, int, np.ndarray]:
        """Samples of a crop, number of clips, and the clips of this batch."""
        if self.bucket_samples is not None:
            return self._draw_bucket(random)
        samples, count = crop_shape(self.config, self.parts.number, random)
        long_enough = self.clips.lengths >= samples / 2  # none shorter than half a crop unless all are
        weights = self.weights * long_enough if long_enough.any() else self.weights
        return samples, count, draw_clips(weights, count, random)

    def _draw_bucket(self, random: np.random.Generator) -> tuple[int, int, np.ndarray]:
        assert self.bucket_samples is not None
        samples = int(self.bucket_samples[draw_clips(self.weights, 1, random)[0]])
        seconds = samples / SAMPLE_RATE
        count = whole_parts(
            self.config.batch_clips * self.config.crop_seconds / seconds,
            self.parts.number,
        )
        return (
            samples,
            count,
            draw_clips(self.weights * (self.bucket_samples == samples), count, random),
        )


def crop_shape(config: DataConfig, parts: int, random: np.random.Generator) -> tuple[int, int]:
    """Samples of a crop and number of clips of a batch."""
    shortest, longest = config.crop_seconds, config.max_crop_seconds
    if longest is None:
        return round(shortest * SAMPLE_RATE), config.batch_clips
    seconds = float(np.geomspace(shortest, longest, LENGTHS)[random.integers(LENGTHS)])
    return round(seconds * SAMPLE_RATE), whole_parts(config.batch_clips * shortest / seconds, parts)


def whole_parts(count: float, parts: int) -> int:
    """About ``count`` clips that ``parts`` can share, two each at least."""
    return max(2, round(count / parts)) * parts


def bucket_lengths(lengths: np.ndarray, longest: int, buckets: int) -> np.ndarray:
    """For each clip the length that it is padded to: of equal ratios between the shortest and ``longest``."""
    cut = lengths.clip(max=longest)
    edges = np.geomspace(cut.min(), longest, buckets + 1)[1:].round().astype(np.int64)
    edges[-1] = longest
    padded: np.ndarray = edges[edges.searchsorted(cut)]
    return padded


def batches(
    dataset: "CropBatches | IterableDataset[Batch]",
    start: int,
    stop: int,
    workers: int,
    pin: bool = False,
) -> DataLoader[Any]:
    """The parts of the batches of steps ``start`` to ``stop - 1``, in order, made ahead in ``workers`` processes."""
    indexed = isinstance(dataset, CropBatches)
    each = dataset.parts.accumulate if isinstance(dataset, CropBatches) else 1
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start * each, stop * each) if indexed else None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
    )
