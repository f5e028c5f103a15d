"""Batches of crops: their shapes, and how processes share them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pretrain.config import DataConfig
from pretrain.data.buckets import LengthBuckets
from pretrain.data.clips import Clips
from pretrain.data.companions import Companions
from pretrain.data.crops import COMPUTED_CLIP, Crops, NoClipError
from pretrain.data.drawing import clip_weights, draw_clips
from pretrain.data.shapes import crop_shape
from pretrain.data.sorted_batches import SortedBatches
from pretrain.synth.sounds import COMPUTED


class Batch(NamedTuple):
    """A micro-batch: the clips of one process in one accumulation step of an update."""

    waveforms: Tensor
    """(views * clips, S) float32, view by view; no rows if nothing could be decoded."""
    lengths: Tensor
    """(views * clips,) int64 samples of each row; the rest of a row is zeros."""
    first: int
    """Index of its first clip in the update's whole batch."""
    size: int
    """Clips of the whole batch."""
    clips: tuple[int | str, ...]
    """Numbers or names of its clips; -1 for a computed sound."""
    reads: int
    """Number of clips that were opened."""
    failures: tuple[tuple[str, str], ...]
    """Name and reason of each clip that could not be decoded."""
    starts: Tensor
    """(views * clips,) int64 sample of its clip at which each row begins. Where a short clip is repeated, sample i of a
    row shows sample (start + i) modulo the length of the clip. Zeros where clips have no numbers or are computed."""
    drawn: tuple[int, ...]
    """Numbers of the clips of the whole batch, -1 for a computed sound; empty where clips have no numbers."""


@dataclass(frozen=True)
class BatchSharding:
    """How the batch of an update is cut into micro-batches."""

    processes: int = 1
    rank: int = 0
    accumulation_steps: int = 1

    @property
    def number(self) -> int:
        """Micro-batches of a batch."""
        return self.processes * self.accumulation_steps

    def clips(self, accumulation_step: int, count: int) -> range:
        """Indices of this process's clips in one accumulation step, of a batch of ``count`` clips."""
        size = count // self.number
        first = (accumulation_step * self.processes + self.rank) * size
        return range(first, first + size)


class CropBatches(Dataset[Batch]):
    """Item ``step * accumulation_steps + i`` is accumulation step i of this process in update ``step``."""

    def __init__(
        self,
        clips: Clips,
        config: DataConfig,
        views: int,
        seed: int,
        sharding: BatchSharding | None = None,
    ) -> None:
        self.clips, self.config, self.views, self.seed = clips, config, views, seed
        self.sharding = sharding or BatchSharding()
        self.weights = clip_weights(clips.kinds, config.kind_power)
        self.companions = Companions(clips.kinds, self.weights, config.join_with)
        self.buckets: LengthBuckets | None = None
        if config.padded:
            self.buckets = LengthBuckets(clips.lengths, self.weights, config, self.sharding.number)
        self.sorted = SortedBatches(clips.lengths, config, seed) if config.batch_by == "samples" else None

    def __reduce__(self) -> Any:  # a worker that does not fork computes the rest again
        return CropBatches, (self.clips, self.config, self.views, self.seed, self.sharding)

    def __getitem__(self, item: int) -> Batch:
        crops, local, count = self.crops(item)
        try:
            waveforms, lengths = crops.rows(local)
        except NoClipError:
            waveforms, lengths = torch.zeros(0, crops.samples), torch.zeros(0, dtype=torch.long)
        clips = tuple(int(crops.drawn[clip]) for clip in local)
        return Batch(
            waveforms,
            lengths,
            local.start,
            count,
            clips,
            crops.reads,
            tuple(crops.failures.items()),
            crops.starts(local),
            tuple(crops.drawn.tolist()),
        )

    def crops(self, item: int) -> tuple[Crops, range, int]:
        """The random choices of an item's whole batch, the indices of the item's clips, and the size of the batch."""
        step, accumulation_step = divmod(item, self.sharding.accumulation_steps)
        random = np.random.default_rng((self.seed, step))
        samples, count, drawn = self._draw(random, step)
        if self.config.synth_share:
            computed = round(self.config.synth_share * count)
            drawn[np.random.default_rng((self.seed, step, COMPUTED)).permutation(count)[:computed]] = COMPUTED_CLIP
        crops = Crops(self.clips, self.config, self.views, (self.seed, step), samples, drawn, self.companions)
        crops.draw(random)
        return crops, self.sharding.clips(accumulation_step, count), count

    def _draw(self, random: np.random.Generator, step: int) -> tuple[int, int, np.ndarray]:
        """Samples of a crop, number of clips, and the numbers of the clips of a batch."""
        if self.sorted is not None:
            samples, drawn = self.sorted.batch(step)
            return samples, len(drawn), drawn
        if self.buckets is not None:
            return self.buckets.draw(random)
        samples, count = crop_shape(self.config, self.sharding.number, random)
        if self.config.computed_only:
            return samples, count, np.full(count, COMPUTED_CLIP)
        return samples, count, draw_clips(self.weights, count, random)


def batches(
    dataset: "CropBatches | IterableDataset[Batch]",
    start: int,
    stop: int,
    workers: int,
    pin: bool = False,
) -> DataLoader[Any]:
    """A loader of the micro-batches of steps ``start`` to ``stop - 1``; ``workers`` processes make them ahead."""
    sampler = None
    if isinstance(dataset, CropBatches):
        accumulation_steps = dataset.sharding.accumulation_steps
        sampler = range(start * accumulation_steps, stop * accumulation_steps)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
    )
