"""The batches of `CropBatches`, cut from a decoded corpus that lies in the memory of the device that trains.

What chance decides is drawn as there, on the host; cutting, mixing and gain are the device's, so that a GPU need not
wait for processes that copy samples. The numbers are the same but for the rounding of a level.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.data.packed import FULL_SCALE, SAMPLE_BYTES
from pretrain.data.batches import Batch, CropBatches
from pretrain.data.clips import packed_corpus
from pretrain.data.crops import LEAST_LEVEL

CHUNK_SAMPLES = 1 << 26
"""Copied to the device at once."""
ROOM = 0.9
"""Share of the device's free memory that a corpus may take: training needs some besides."""


class ResidentBatches:
    """Item i is ``source[i]``, its waveforms on the device."""

    def __init__(self, source: CropBatches, device: torch.device) -> None:
        """Copy the corpus, which `open_training` has seen to be a decoded one.

        Raises:
            ValueError: the device has no room for it.
        """
        corpus = packed_corpus(source.clips)
        assert corpus is not None
        refuse_if_full(device, len(corpus.audio) * SAMPLE_BYTES)
        self.source, self.device = source, device
        self.offsets, self.lengths = corpus.offsets, corpus.lengths
        self.audio = torch.empty(len(corpus.audio), dtype=torch.int16, device=device)
        for first in range(0, len(corpus.audio), CHUNK_SAMPLES):
            chunk = np.array(corpus.audio[first : first + CHUNK_SAMPLES])
            self.audio[first : first + len(chunk)].copy_(torch.from_numpy(chunk))

    def range(self, start: int, stop: int) -> Iterator[Batch]:
        """The parts of the batches of steps ``start`` to ``stop - 1``, in order."""
        each = self.source.parts.accumulate
        return (self[item] for item in range(start * each, stop * each))

    def __getitem__(self, item: int) -> Batch:
        crops, own, count = self.source.crops(item)
        config, views = self.source.config, self.source.views
        view, clip = np.repeat(np.arange(views), len(own)), np.tile(np.arange(own.start, own.stop), views)
        rows = [self._places(crops.drawn[clip], crops.places[view, clip], crops.samples)]
        gains = [crops.gains[view, clip]]
        if config.mix:
            its_view, its_clip = crops.partners[view, clip].T
            rows.append(self._places(crops.drawn[its_clip], crops.places[its_view, its_clip], crops.samples))
            gains.append(crops.below[view, clip])
        places, factors = self._send(np.stack(rows)), self._send(np.stack(gains).astype(np.float32))
        waveforms = self._cut(places[0], crops.samples)
        if config.mix:
            partners = self._cut(places[1], crops.samples)
            waveforms += partners * (level(waveforms) / level(partners) * factors[1, :, None])
        return Batch(
            waveforms.mul_(factors[0, :, None]),
            torch.full((len(clip),), crops.samples),
            own.start,
            count,
            tuple(crops.drawn[own.start : own.stop].tolist()),
            len(clip),
            (),
        )

    def _places(self, clips: np.ndarray, places: np.ndarray, samples: int) -> np.ndarray:
        """(3, R) int64: each crop's clip begins there, is so long, and the crop begins so far into it."""
        lengths = self.lengths[clips]
        # a clip shorter than the crop goes round from any of its samples on
        room = np.where(lengths < samples, lengths, lengths - samples + 1)
        return np.stack([self.offsets[clips], lengths, (places * room).astype(np.int64)])

    def _cut(self, places: Tensor, samples: int) -> Tensor:
        """(3, R) of `_places` -> (R, samples) float32 in [-1, 1)."""
        first, length, shift = places[..., None]
        return self.audio[first + (shift + torch.arange(samples, device=self.device)) % length] / FULL_SCALE

    def _send(self, array: np.ndarray) -> Tensor:
        """On its way to the device, without waiting for it."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def level(waveforms: Tensor) -> Tensor:
    """(R, S) -> (R, 1) root mean square."""
    return waveforms.square().mean(dim=1, keepdim=True).sqrt() + LEAST_LEVEL


def refuse_if_full(device: torch.device, needed: int) -> None:
    """ValueError if a GPU has no room for so many bytes and some besides."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > ROOM * free:
        raise ValueError(
            f"data.resident: the corpus takes {needed / 1e9:.1f} GB, {device} has {free / 1e9:.1f} GB free, and "
            "training needs some besides; give data.resident false"
        )
