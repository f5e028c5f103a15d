"""The batches of `CropBatches`, cut from a decoded corpus in GPU memory.

The random choices are made on the host, as `CropBatches` makes them. The device cuts, mixes and amplifies, so a GPU
need not wait for processes that copy samples. The numbers are the same except for the rounding of a level.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.data.packed import FULL_SCALE, SAMPLE_BYTES
from pretrain.data.batches import Batch, CropBatches
from pretrain.data.clips import packed_corpus
from pretrain.data.crops import MIN_LEVEL, crop_starts

CHUNK_SAMPLES = 1 << 26
"""Samples that are copied to the device at once."""
MAX_MEMORY_SHARE = 0.9
"""Share of the device's free memory that a corpus may fill, because training needs some too."""


class GpuBatches:
    """Item i is ``source[i]`` with its waveforms on the device."""

    def __init__(self, source: CropBatches, device: torch.device) -> None:
        """Copy the corpus of ``source``, which must be a decoded one.

        Raises:
            ValueError: the device has too little memory.
        """
        corpus = packed_corpus(source.clips)
        assert corpus is not None, "`open_training` accepts only decoded corpora"
        refuse_if_full(device, len(corpus.audio) * SAMPLE_BYTES)
        self.source, self.device = source, device
        self.offsets, self.lengths = corpus.offsets, corpus.lengths
        self.audio = torch.empty(len(corpus.audio), dtype=torch.int16, device=device)
        for first in range(0, len(corpus.audio), CHUNK_SAMPLES):
            chunk = np.array(corpus.audio[first : first + CHUNK_SAMPLES])
            self.audio[first : first + len(chunk)].copy_(torch.from_numpy(chunk))

    def range(self, start: int, stop: int) -> Iterator[Batch]:
        """The micro-batches of steps ``start`` to ``stop - 1``, in order."""
        accumulation_steps = self.source.sharding.accumulation_steps
        return (self[item] for item in range(start * accumulation_steps, stop * accumulation_steps))

    def __getitem__(self, item: int) -> Batch:
        crops, local, count = self.source.crops(item)
        config, views = self.source.config, self.source.views
        view, clip = np.repeat(np.arange(views), len(local)), np.tile(np.arange(local.start, local.stop), views)
        cuts = [self._cuts(crops.drawn[clip], crops.positions[view, clip], crops.samples)]
        gains = [crops.gains[view, clip]]
        if config.mix:
            partner_view, partner = crops.partners[view, clip].T
            cuts.append(self._cuts(crops.drawn[partner], crops.positions[partner_view, partner], crops.samples))
            gains.append(crops.mix_gains[view, clip])
        sent_cuts, sent_gains = self._send(np.stack(cuts)), self._send(np.stack(gains).astype(np.float32))
        waveforms = self._cut(sent_cuts[0], crops.samples)
        past = self._past(sent_cuts[0], crops.samples)
        if config.mix:
            partners = self._cut(sent_cuts[1], crops.samples)
            other = level(partners, self._past(sent_cuts[1], crops.samples))
            waveforms += partners * (level(waveforms, past) / other * sent_gains[1, :, None])
        if past is not None:
            waveforms.masked_fill_(past, 0.0)
        lengths = cuts[0][1].clip(max=crops.samples) if config.padded else np.full(len(clip), crops.samples)
        return Batch(
            waveforms.mul_(sent_gains[0, :, None]),
            torch.from_numpy(lengths),
            local.start,
            count,
            tuple(crops.drawn[local.start : local.stop].tolist()),
            len(clip),
            (),
            torch.from_numpy(cuts[0][2]),
            tuple(crops.drawn.tolist()),
        )

    def _cuts(self, clips: np.ndarray, positions: np.ndarray, samples: int) -> np.ndarray:
        """(3, R) int64: the offset of each crop's clip, the clip's length, and where the crop begins in the clip."""
        lengths, repeated = self.lengths[clips], not self.source.config.padded
        return np.stack([self.offsets[clips], lengths, crop_starts(lengths, samples, positions, repeated)])

    def _cut(self, cuts: Tensor, samples: int) -> Tensor:
        """(3, R) of `_cuts` -> (R, samples) float32 in [-1, 1); a clip that is shorter is repeated."""
        first, length, shift = cuts[..., None]
        return self.audio[first + (shift + torch.arange(samples, device=self.device)) % length] / FULL_SCALE

    def _past(self, cuts: Tensor, samples: int) -> Tensor | None:
        """(3, R) of `_cuts` -> (R, samples) bool, True past a clip's end; None where short clips are repeated."""
        if not self.source.config.padded:
            return None
        return torch.arange(samples, device=self.device) >= cuts[1, :, None]

    def _send(self, array: np.ndarray) -> Tensor:
        """Copy an array to the device without waiting for it."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def level(waveforms: Tensor, past: Tensor | None = None) -> Tensor:
    """(R, S) -> (R, 1) root mean square, without the samples that are ``past`` a clip's end: (R, S) bool."""
    squares = waveforms.square()
    if past is None:
        return squares.mean(dim=1, keepdim=True).sqrt() + MIN_LEVEL
    sums = squares.masked_fill_(past, 0.0).sum(dim=1, keepdim=True)
    return (sums / (~past).sum(dim=1, keepdim=True)).sqrt() + MIN_LEVEL


def refuse_if_full(device: torch.device, needed: int) -> None:
    """ValueError if a GPU's free memory does not hold ``needed`` bytes with some to spare."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > MAX_MEMORY_SHARE * free:
        raise ValueError(
            f"data.on_gpu: the corpus needs {needed / 1e9:.1f} GB, {device} has {free / 1e9:.1f} GB free, and "
            "training needs some too; give data.on_gpu false"
        )
