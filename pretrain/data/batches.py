"""Batches of crops: their shapes, and how processes share them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.config import DataConfig
from pretrain.data.clips import Clips
from pretrain.data.crops import COMPUTED_CLIP, Crops, NoClipError, clip_weights, draw_clips
from pretrain.data.sorted_batches import SortedBatches
from pretrain.synth.sounds import COMPUTED

DRAWN_LENGTHS = 16
"""Crop lengths of a run that draws them. Few, because each new shape costs a GPU's host: while every batch had another
length, tiny took 0.45 s for 2,048 s of crops on an H100; 2,560 s of one length took 0.04 s."""


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
        self.bucket_samples: np.ndarray | None = None
        if config.padded:
            longest = round(config.crop_seconds * SAMPLE_RATE)
            self.bucket_samples = bucket_lengths(clips.lengths, longest, config.length_buckets)
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
        crops = Crops(self.clips, self.config, self.views, (self.seed, step), samples, drawn, self.weights)
        crops.draw(random)
        return crops, self.sharding.clips(accumulation_step, count), count

    def _draw(self, random: np.random.Generator, step: int) -> tuple[int, int, np.ndarray]:
        """Samples of a crop, number of clips, and the numbers of the clips of a batch."""
        if self.sorted is not None:
            samples, drawn = self.sorted.batch(step)
            return samples, len(drawn), drawn
        if self.bucket_samples is not None:
            return self._draw_bucket(self.bucket_samples, random)
        samples, count = crop_shape(self.config, self.sharding.number, random)
        if self.config.computed_only:
            return samples, count, np.full(count, COMPUTED_CLIP)
        return samples, count, draw_clips(self.weights, count, random)

    def _draw_bucket(self, bucket_samples: np.ndarray, random: np.random.Generator) -> tuple[int, int, np.ndarray]:
        samples = int(bucket_samples[draw_clips(self.weights, 1, random)[0]])
        clips = self.config.batch_clips * self.config.crop_seconds / (samples / SAMPLE_RATE)
        count = divisible_count(clips, self.sharding.number)
        return samples, count, draw_clips(self.weights * (bucket_samples == samples), count, random)


def crop_shape(config: DataConfig, micro_batches: int, random: np.random.Generator) -> tuple[int, int]:
    """Samples of a crop and number of clips of a batch."""
    shortest, longest = config.crop_seconds, config.max_crop_seconds
    if longest is None:
        return round(shortest * SAMPLE_RATE), config.batch_clips
    seconds = float(np.geomspace(shortest, longest, DRAWN_LENGTHS)[random.integers(DRAWN_LENGTHS)])
    return round(seconds * SAMPLE_RATE), divisible_count(config.batch_clips * shortest / seconds, micro_batches)


def divisible_count(count: float, micro_batches: int) -> int:
    """About ``count`` clips that can be cut into equal micro-batches of at least two clips."""
    return max(2, round(count / micro_batches)) * micro_batches


def bucket_lengths(lengths: np.ndarray, longest: int, buckets: int) -> np.ndarray:
    """The length to which each clip is padded.

    Args:
        lengths: (clips,) samples.
        longest: the most samples of a row, to which longer clips are cropped.
        buckets: number of padded lengths, whose ratios are equal.
    """
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
